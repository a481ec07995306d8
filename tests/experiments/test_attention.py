"""The recipe of a sequence-to-sequence network with attention, against loops in NumPy."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from experiments.recipes import attention as recipe
from tests.problems import assert_close, compiled, normal_like, on_host

FLOAT = jnp.result_type(float)
S, B, TOKENS, E, H = 6, 3, 4, 3, 5
LENGTHS = np.array([S, 1, 4])
STEPS = 3


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda key: recipe.init(key, TOKENS, E, H, FLOAT), jax.random.key(0))
    return normal_like(1, shapes)


SOURCE = np.random.default_rng(0).integers(1, TOKENS, (S, B))
TARGET = np.random.default_rng(1).integers(0, TOKENS, (STEPS, B))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def np_gru(p, h, x):
    z, r = (sigmoid(x @ W + h @ U + b) for W, U, b in ((p.W_z, p.U_z, p.b_z), (p.W_r, p.U_r, p.b_r)))
    return (1 - z) * h + z * np.tanh(x @ p.W_h + (r * h) @ p.U_h + p.b_h)


def np_softmax(a):
    e = np.exp(a - a.max())
    return e / e.sum()


def np_read(params, sentence):
    """The memory of one sentence without padding, and the first state of the decoder."""
    xs, forward, backward = params["embed"][sentence], [np.zeros(H)], [np.zeros(H)]
    for t in range(len(xs)):
        forward.append(np_gru(params["encoder"].forward, forward[-1], xs[t]))
        backward.append(np_gru(params["encoder"].backward, backward[-1], xs[::-1][t]))
    memory = np.concatenate([forward[1:], backward[:0:-1]], axis=-1)
    return memory, np.tanh(backward[-1] @ params["start"].V + params["start"].b_y)


def np_write(params, sentence, target):
    """The logarithm of the probability of every token at each step, given the target before."""
    memory, h = np_read(params, sentence)
    found = []
    for before in (recipe.END, *target[:-1]):
        weights = np_softmax(memory @ (h @ params["decoder"].Q))
        h = np_gru(params["decoder"].gru, h, np.concatenate([params["embed"][before], weights @ memory]))
        found.append(np.log(np_softmax(h @ params["head"].V + params["head"].b_y)))
    return np.stack(found)


def test_teacher_forcing_equals_a_loop_over_single_sentences_without_padding(params):
    run = lambda params: jax.nn.log_softmax(recipe.logits(params, SOURCE, LENGTHS, TARGET))
    log_p = compiled(run, params)
    as_numpy = on_host(params)
    for b, length in enumerate(LENGTHS):
        expected = np_write(as_numpy, SOURCE[:length, b], TARGET[:, b])
        assert_close(log_p[:, b], expected.astype(FLOAT))


@pytest.mark.slow
def test_padding_reaches_neither_the_attention_nor_the_gradients(params):
    padding = np.arange(S)[:, None] >= LENGTHS
    other = np.where(padding, np.random.default_rng(5).integers(1, TOKENS, (S, B)), SOURCE)
    assert (other != SOURCE).any()
    longer = np.concatenate([other, other])
    run = jax.jit(jax.value_and_grad(recipe.loss_fn))
    expected = run(params, SOURCE, LENGTHS, TARGET)
    assert_close(run(params, other, LENGTHS, TARGET), expected, tol=0)
    assert_close(run(params, longer, LENGTHS, TARGET), expected)
    weights = compiled(lambda params: recipe.attention(*recipe.encode(params, SOURCE, LENGTHS)), params)
    assert ((weights > 0) == ~padding.T).all()
    assert all(leaf.any() for leaf in jax.tree.leaves(expected[1]))


@pytest.mark.slow
def test_the_gradient_through_the_memory_is_that_of_autodiff_of_a_plain_scan(params):
    decoder, h0 = jax.jit(recipe.encode)(params, SOURCE, LENGTHS)
    xs = jnp.asarray(params["embed"])[TARGET]
    weights = decoder.weights, decoder.memory
    full = lambda weights: recipe.DecoderParams(*weights, decoder.is_valid)
    ours = lambda weights: gj.unroll(recipe.DECODER, full(weights), xs, h0)[1]
    plain = lambda weights: jax.lax.scan(partial(recipe.DECODER.step, full(weights)), h0, xs)[1]
    gradient = lambda run, weights: jax.grad(lambda weights: jnp.sin(run(weights)).sum())(weights)
    assert_close(*compiled(lambda weights: [gradient(run, weights) for run in (ours, plain)], weights))


def best_sequences(params, b):
    """Enumerates all sequences: those that end stay ended. Returns (log p, tokens), the best first."""
    found = {}
    for tokens in itertools.product(range(TOKENS), repeat=STEPS):
        length = tokens.index(recipe.END) + 1 if recipe.END in tokens else STEPS
        if any(tokens[length:]):
            continue  # nothing but END after END
        log_p = np_write(params, SOURCE[: LENGTHS[b], b], tokens)
        found[tokens] = sum(log_p[t, tokens[t]] for t in range(length))
    return sorted(((log_p, tokens) for tokens, log_p in found.items()), reverse=True)


def test_a_wide_beam_finds_the_most_probable_of_all_sequences(params):
    width = TOKENS ** (STEPS - 1)  # loses none
    tokens, log_p = recipe.beam_search(params, jnp.asarray(SOURCE), jnp.asarray(LENGTHS), STEPS, width)
    as_numpy = jax.tree.map(np.asarray, params)
    for b in range(B):
        expected = best_sequences(as_numpy, b)[:width]
        np.testing.assert_allclose(log_p[b], [log_p for log_p, _ in expected], rtol=1e-5)
        assert tuple(np.asarray(tokens[b, 0]).tolist()) == expected[0][1]


def test_a_beam_of_one_is_greedy_and_writes_the_most_probable_token_of_each_step(params):
    source, lengths, steps = jnp.asarray(SOURCE), jnp.asarray(LENGTHS), 7
    for scale in (1.0, 0.3):  # END comes early or late
        scaled = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params)
        written = np.asarray(recipe.greedy(scaled, source, lengths, steps))
        beams, _ = recipe.beam_search(scaled, source, lengths, steps, 1)
        assert (written == np.asarray(beams[:, 0]).T).all()
        as_numpy = jax.tree.map(np.asarray, scaled)
        for b, length in enumerate(LENGTHS):
            log_p = np_write(as_numpy, SOURCE[:length, b], written[:, b])
            ended = np.cumsum(written[:, b] == recipe.END) > 0
            until = int(ended.argmax()) + 1 if ended.any() else steps
            assert written[:until, b].tolist() == log_p[:until].argmax(-1).tolist()
            assert not written[until:, b].any()


def test_the_targets_are_the_sources_backwards():
    source, lengths, target = map(np.asarray, recipe.draw_batch(np.random.default_rng(0), 50, 5, 7))
    assert np.unique(lengths).tolist() == [1, 2, 3, 4, 5]
    for b, length in enumerate(lengths):
        assert target[:, b].tolist() == [*source[:length, b][::-1].tolist(), *[recipe.END] * (6 - length)]
    assert recipe.accuracy(target, lengths, target) == 1
    wrong = np.where(np.arange(6)[:, None] == lengths, 3, target)
    assert recipe.accuracy(wrong, lengths, target) == pytest.approx(lengths.sum() / (lengths.sum() + 50))


@pytest.mark.slow
def test_it_learns_to_write_backwards():
    _, shares = recipe.train()
    assert min(shares.values()) > 0.99

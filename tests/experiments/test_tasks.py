"""Tests the standard tasks: inputs and targets as in the papers, and the scores."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from experiments import adding, binary_addition, char_lm, copy_memory, data, digits, digits_by_pixels, network, parity
from tests.problems import compiled, normal

KEY = jax.random.key(0)


def as_numbers(bits, lowest_first=True):
    bits = bits if lowest_first else bits[:, ::-1]
    return [sum(int(bit) << i for i, bit in enumerate(row)) for row in bits]


@pytest.mark.parametrize(("bits", "lowest_first"), [(8, True), (8, False), (64, True)])
def test_target_bits_are_those_of_the_sum(bits, lowest_first):
    xs, ys = binary_addition.sums(np.random.default_rng(0), 50, bits, lowest_first=lowest_first)
    assert (xs.shape, ys.shape) == ((50, bits, 2), (50, bits, 1))
    a, b, total = (as_numbers(column, lowest_first) for column in (xs[..., 0], xs[..., 1], ys[..., 0]))
    assert [x + y for x, y in zip(a, b, strict=True)] == total
    assert max(a + b) >= 2 ** (bits - 2)
    assert max(a + b) < 2 ** (bits - 1)


def test_score_counts_wrong_bits_and_right_sums():
    cell = gj.elman("identity")
    zero = jax.tree.map(jnp.zeros_like, binary_addition.draw_weights(cell, KEY))  # predicts 0 everywhere
    xs, ys = binary_addition.sums(np.random.default_rng(1), 200, 5)
    found = binary_addition.score(cell, (xs, ys), zero)
    np.testing.assert_allclose(found["wrong_bits"], ys.sum((1, 2)).mean(), rtol=1e-6)
    np.testing.assert_allclose(found["sums"], (ys.sum((1, 2)) == 0).mean(), rtol=1e-6)
    assert found["sums"] > 0


def test_adding_problem_marks_one_number_in_each_half_and_targets_their_sum():
    xs, ys = adding.sequences(np.random.default_rng(0), 300, 11)
    assert (xs.shape, ys.shape) == ((300, 11, 2), (300, 1))
    marks = xs[..., 1]
    assert set(np.unique(marks)) == {0, 1}
    assert (marks[:, :5].sum(1) == 1).all()
    assert (marks[:, 5:].sum(1) == 1).all()
    assert marks.any(0).all()
    for x, y in zip(xs, ys, strict=True):
        assert y == pytest.approx(sum(number for number, mark in x if mark), rel=1e-6)


def test_guessing_one_costs_one_sixth():
    _, ys = adding.sequences(np.random.default_rng(0), 100_000, 4)
    assert np.square(ys - 1).mean() == pytest.approx(adding.GUESS, rel=0.02)


def test_copy_memory_inputs_are_symbols_blanks_and_a_mark_and_targets_repeat_the_symbols():
    T = 7
    inputs, targets = map(np.asarray, copy_memory.batch_of(T, 40, KEY))
    assert inputs.shape == targets.shape == (40, T + 20)
    assert set(np.unique(inputs[:, :10])) == set(range(1, 9))
    assert (inputs[:, 10 : 10 + T - 1] == copy_memory.BLANK).all()
    assert (inputs[:, 10 + T - 1] == copy_memory.BEGIN).all()
    assert (inputs[:, 10 + T :] == copy_memory.BLANK).all()
    assert (targets[:, : 10 + T] == copy_memory.BLANK).all()
    np.testing.assert_array_equal(targets[:, 10 + T :], inputs[:, :10])


def test_copy_memory_baseline_is_the_loss_of_knowing_everything_but_the_symbols():
    T = 7
    _, targets = copy_memory.batch_of(T, 40, KEY)
    classes = np.arange(copy_memory.CLASSES)
    sure_of_blanks = np.broadcast_to(50.0 * (classes == 0), (40, T + 10, copy_memory.CLASSES))
    any_symbol = np.where((classes >= 1) & (classes <= 8), 0.0, -50.0)
    logits = np.concatenate([sure_of_blanks, np.broadcast_to(any_symbol, (40, 10, copy_memory.CLASSES))], 1)
    losses = compiled(gj.heads.softmax_cross_entropy, logits, targets)
    assert float(losses.mean()) == pytest.approx(copy_memory.baseline(T), rel=1e-5)
    assert copy_memory.baseline(1000) == pytest.approx(0.0204, abs=5e-5)


def test_parity_counts_only_the_bits_within_the_length():
    bits, lengths, parities = map(np.asarray, parity.batch_of(9, KEY))
    assert set(lengths) == set(range(1, 10))
    for row, length, odd in zip(bits, lengths, parities, strict=True):
        assert odd == sum(row[:length]) % 2


@pytest.mark.slow
def test_accuracy_at_a_length_is_that_of_strings_truncated_there():
    cell = gj.gru()
    params = network.init(cell, KEY, 2, 5, 2)
    lengths = np.array([1, 4, 7])
    found = parity.accuracy_at(cell, params, lengths, KEY, strings=64)
    bits = jax.random.bernoulli(KEY, 0.5, (64, 7)).astype(jnp.int32)
    cuts = [np.asarray(bits)[:, :length] for length in lengths]
    answers = compiled(lambda params: [network.last_logits(cell, params, np.eye(2)[cut]).argmax(-1) for cut in cuts], params)
    for cut, answer, accuracy in zip(cuts, answers, found, strict=True):
        assert accuracy == pytest.approx(float((answer == cut.sum(1) % 2).mean()))
    assert len(set(np.asarray(found).tolist())) > 1


@pytest.mark.parametrize("cell", [pytest.param(gj.gru(), marks=pytest.mark.slow), gj.lstm()], ids=["gru", "lstm"])
def test_last_logits_are_those_of_each_sequences_last_valid_step(cell):
    params = network.init(cell, KEY, 3, 4, 2, longest=9)
    lengths = np.array([6, 2, 4])
    both = lambda xs: (network.logits(cell, params, xs), network.last_logits(cell, params, xs, lengths=lengths))
    everywhere, last = compiled(both, normal(0, 3, 6, 3, dtype=jnp.float32))
    np.testing.assert_allclose(last, everywhere[np.arange(3), lengths - 1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_every_seed_has_its_own_network_and_batches():
    cell = gj.gru()
    draw = partial(network.init, cell, input_size=2, hidden_size=4, output_size=1)
    rng = np.random.default_rng(0)
    tasks = adding.sequences(rng, 64, 6)
    options = {"steps": 3, "batch_size": 8, "steps_per_execution": 3}
    train = partial(network.train_seeds, partial(adding.loss_fn, cell), draw, optax.sgd(0.1), tasks, **options)
    both, second = train(seeds=[3, 4]), train(seeds=[4])
    assert both.history["loss"].shape == (3, 2)
    np.testing.assert_allclose(both.history["loss"][:, 1], second.history["loss"][:, 0], rtol=1e-5)
    assert abs(both.history["loss"][0, 0] - both.history["loss"][0, 1]) > 1e-6


def test_pixels_are_read_row_by_row():
    train, _ = digits.load()
    pixels = digits_by_pixels.by_pixels(train)
    assert pixels.xs.shape == (1437, 64, 1)
    np.testing.assert_array_equal(pixels.xs[5, 8:16, 0], train.xs[5, 1])


def test_bigram_model_counts_pairs():
    text = data.Text(np.array([0, 1, 0, 1, 1], np.uint8), np.array([1, 0], np.uint8), "ab")
    # b is followed by one a and one b, and 1 is added to each count.
    assert char_lm.bigram(text) == pytest.approx(math.log(2))


def test_windows_have_the_loss_of_their_characters_and_carry_the_state(monkeypatch):
    monkeypatch.setattr(char_lm, "DROPOUT", 0.0)
    params = network.init(char_lm.CELL, KEY, 3, 5, 3)
    text = np.random.default_rng(0).integers(0, 3, 41).astype(np.uint8)
    source = gj.train.windows([(text[:-1], text[1:])], 2, 5)
    carry, total, count = char_lm.CELL.initial_state(params.cell, 2), 0.0, 0
    loss_of = jax.jit(partial(char_lm.loss_fn, 3))
    for window in source.evaluation_batches():
        loss, _, carry = loss_of(params, window, KEY, carry)
        total, count = total + float(loss) * int(window.mask.sum()), count + int(window.mask.sum())
    streams = np.stack([text[:-1], text[1:]], -1).reshape(2, 20, 2)
    segments = text[:40].reshape(4, 10)

    def results(params):
        logits = lambda characters: network.logits(char_lm.CELL, params, jax.nn.one_hot(characters, 3))
        losses = lambda logits, targets: gj.heads.softmax_cross_entropy(logits, targets.astype(np.int32))
        of_segments = losses(logits(segments)[:, :-1], segments[:, 1:]).mean()
        return losses(logits(streams[..., 0]), streams[..., 1]).sum(), of_segments, char_lm.evaluate(3, segments, params)

    of_streams, of_segments, evaluated = compiled(results, params)
    assert count == 40
    assert total == pytest.approx(float(of_streams), rel=1e-5)
    assert float(evaluated["nats"]) == pytest.approx(float(of_segments), rel=1e-5)


def test_sampling_at_low_temperature_takes_the_most_likely_character():
    params = network.init(char_lm.CELL, KEY, 4, 6, 4)
    drawn = np.asarray(char_lm.sample(params, 12, 4, KEY, 2, 1e-4))

    @jax.jit
    def most_likely(h, last):
        h, y = char_lm.CELL.step(params.cell, h, jax.nn.one_hot(last, 4))
        return h, gj.heads.dense(params.readout, y).argmax()

    h, last = char_lm.CELL.initial_state(params.cell), 2
    for character in drawn:
        h, last = most_likely(h, int(last))
        assert character == last

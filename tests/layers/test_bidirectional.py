"""Bidirectional layers equal two calls of `unroll`, also with padding, resets and noise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, LENGTHS
from tests.problems import B, D, H, T, assert_close, assert_raises, normal_like

KEYS = jax.random.split(jax.random.key(0), 4)


def random_problem(cell):
    """Draws (params, xs, h0, reset state)."""
    params = cell.init(KEYS[0], D, H, dtype=jnp.result_type(float), bias_init=jax.nn.initializers.normal(0.5))
    xs = jax.random.normal(KEYS[1], (T, B, D))
    return params, xs, normal_like(KEYS[2], cell.initial_state(params, B)), normal_like(KEYS[3], cell.initial_state(params))


@pytest.mark.derivative
@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("derivative", [gj.CustomVJP(), gj.CustomJVP()], ids=["CustomVJP", "CustomJVP"])
def test_a_bidirectional_layer_equals_two_unrolls(merge, reverse, derivative):
    cell = gj.bidirectional(gj.gru(), gj.lstm(), merge=merge)

    def two_unrolls(params, xs, h0, reset_state):
        f, ys_f = gj.unroll(gj.gru(), params.forward, xs, h0[0], reset_state=reset_state[0], reverse=reverse, **ALL_THREE)
        b, ys_b = gj.unroll(gj.lstm(), params.backward, xs, h0[1], reset_state=reset_state[1], reverse=not reverse, **ALL_THREE)
        return (f, b), jnp.concatenate([ys_f, ys_b], -1) if merge == "concat" else ys_f + ys_b

    def one_layer(params, xs, h0, reset_state):
        return gj.unroll(cell, params, xs, h0, reset_state=reset_state, reverse=reverse, derivative=derivative, **ALL_THREE)

    args = random_problem(cell)
    assert_close(one_layer(*args), two_unrolls(*args))
    loss = lambda unroll, args: sum(jnp.sin(3 * leaf).sum() for leaf in jax.tree.leaves(unroll(*args)))
    bars, expected = (jax.jit(jax.grad(partial(loss, unroll)))(args) for unroll in (one_layer, two_unrolls))
    assert_close(bars, expected)


def test_a_padded_batch_equals_each_sequence_alone():
    cell = gj.bidirectional(gj.lstm())
    params, xs, h0, _ = random_problem(cell)
    h_last, ys = gj.unroll(cell, params, xs, h0, lengths=LENGTHS)
    assert ys.shape == (T, B, 2 * H)
    for b, length in enumerate(LENGTHS):
        one = lambda tree: jax.tree.map(lambda leaf: leaf[b : b + 1], tree)
        alone_last, alone = gj.unroll(cell, params, xs[:length, b : b + 1], one(h0))
        assert_close(ys[:length, b : b + 1], alone)
        assert_close(one(h_last), alone_last)
        assert not ys[length:, b].any()


def test_one_cell_serves_both_directions_with_separate_parameters():
    cell = gj.bidirectional(gj.gru())
    assert cell == gj.bidirectional(gj.gru(), gj.gru(), "concat")
    params, *_ = random_problem(cell)
    assert (params.forward.W_z != params.backward.W_z).any()
    assert cell.output_size(params) == 2 * H
    assert gj.bidirectional(gj.gru(), merge="sum").output_size(params) == H


def test_states_are_returned_for_both_directions():
    cell = gj.bidirectional(gj.gru(), gj.lstm())
    params, xs, h0, _ = random_problem(cell)
    h_last, (forward, backward) = gj.unroll(cell, params, xs, h0, lengths=LENGTHS, outputs="states")
    assert_close(forward[-1], h_last[0], tol=0)
    assert_close(jax.tree.map(lambda leaf: leaf[0], backward), h_last[1], tol=0)
    assert gj.unroll(cell, params, xs, h0, outputs="last")[1] is None


def test_packed_segments_reset_the_backward_cell_at_their_last_steps_as_documented():
    forward, backward = gj.gru(), gj.gru()
    params, xs, _, _ = random_problem(gj.bidirectional(forward))
    resets = jnp.zeros((T, B), bool).at[jnp.array([0, 3, 5])].set(True)
    ends = jnp.concatenate([resets[1:], jnp.ones_like(resets[:1])])
    _, ys_f = gj.unroll(forward, params.forward, xs, resets=resets)
    _, ys_b = gj.unroll(backward, params.backward, xs, resets=ends, reverse=True)
    for start, stop in ((0, 3), (3, 5), (5, T)):
        _, alone = gj.unroll(gj.bidirectional(gj.gru()), params, xs[start:stop])
        assert_close(jnp.concatenate([ys_f, ys_b], -1)[start:stop], alone)


def test_noise_differs_between_directions_and_keys():
    cell = gj.bidirectional(gj.zoneout(gj.gru(), 0.5))
    params, xs, h0, _ = random_problem(cell)
    one, other = (gj.unroll(cell, params, xs, h0, key=jax.random.key(seed))[1] for seed in (0, 1))
    assert (one != other).any()
    assert (one[..., :H] != one[..., H:]).any()
    assert cell.needs_key
    assert not cell.deterministic().needs_key
    assert np.isfinite(gj.unroll(cell.deterministic(), params, xs, h0)[1]).all()


TWO = gj.bidirectional(gj.gru())
PARAMS, XS, H0, _ = random_problem(TWO)
BAD = {
    "step": (lambda: gj.step(TWO, PARAMS, H0, XS[0]), TypeError, r"cell: got bidirectional.*in step.*gj\.unroll"),
    "params of one direction": (lambda: gj.unroll(TWO, PARAMS.forward, XS), TypeError, r"params: got GRUParams, expected BidirectionalParams"),
    "another cell's params": (lambda: gj.unroll(TWO, PARAMS._replace(backward=gj.elman().init(KEYS[0], D, H, dtype=XS.dtype)), XS), TypeError, r"params\.backward: got ElmanParams, expected GRUParams"),
    "two input sizes": (lambda: gj.unroll(TWO, PARAMS._replace(backward=gj.gru().init(KEYS[0], D + 1, H, dtype=XS.dtype)), XS), ValueError, r"params: got the input sizes 4 forward and 5 backward"),
    "a sum of unequal sizes": (lambda: gj.unroll(gj.bidirectional(gj.gru(), merge="sum"), PARAMS._replace(backward=gj.gru().init(KEYS[0], D, H + 1, dtype=XS.dtype)), XS), ValueError, r'params: got 5 units forward and 6 backward.*merge="concat"'),
    "one state": (lambda: gj.unroll(TWO, PARAMS, XS, H0[0]), TypeError, r"h0: got one array, expected a tuple of 2 \(one array, one array\), the state of cell bidirectional"),
    "merge": (lambda: gj.bidirectional(gj.gru(), merge="mean"), ValueError, r"merge: got 'mean', expected one of 'concat', 'sum'"),
    "the function that makes the cell": (lambda: gj.bidirectional(gj.gru), TypeError, r"cell: got function, expected a gj\.Cell"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises_and_names_the_fix(case):
    assert_raises(*BAD[case])

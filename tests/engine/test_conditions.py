"""The values of `unroll` with lengths, masks and resets, against a NumPy loop and at the edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests import reference
from tests.conditions import ALL_THREE, CONDITIONS, LENGTHS, MASK, NEUTRAL, RESETS, random_reset_state
from tests.problems import CELLS, DISTINCT, B, T, assert_close, compiled, gradients, on_host, pair_by_default, problem


def test_the_shared_conditions_are_not_trivial():
    assert 0.5 < MASK.mean() < 0.9
    assert 0.15 < RESETS.mean() < 0.5
    assert RESETS[0].any() or RESETS[-1].any()
    assert (RESETS & ~MASK).any()  # resets that must be ignored


@pytest.mark.parametrize(
    ("name", "reverse"),
    [
        pytest.param(name, reverse, marks=() if (name in DISTINCT if reverse else name == "gru") else pytest.mark.slow)
        for name in CELLS
        for reverse in (False, True)
    ],
)
def test_values_equal_a_numpy_loop_under_every_condition(name, reverse, needs_x64):
    cell = CELLS[name]
    p = problem(cell)
    reset_state = random_reset_state(cell, p.params)
    run = partial(gj.unroll, cell, p.params, p.xs, p.h0, reverse=reverse, reset_state=reset_state)
    all_outputs = jax.jit(lambda given: (run(**given), run(outputs="states", **given), run(outputs="last", **given)))
    for conditions in CONDITIONS.values():
        last, ys, states = reference.unroll(name, p.params, p.xs, p.h0, reverse=reverse, reset_state=reset_state, **conditions)
        measured = jax.tree.leaves(all_outputs(NEUTRAL | conditions))
        for part, true in zip(measured, jax.tree.leaves(((last, ys), (last, states), (last, None))), strict=True):
            np.testing.assert_allclose(part, true, rtol=1e-12, atol=1e-13)


def test_none_equals_a_condition_without_effect():
    cell = gj.lstm()
    p = problem(cell)
    run = partial(gj.unroll, cell, p.params, p.xs, p.h0)
    all_given = jax.jit(lambda given: run(**given))
    conditions = [CONDITIONS[name] for name in ("lengths", "mask", "resets", "lengths and resets")]
    for given, measured in zip(conditions, compiled(lambda: [run(**some) for some in conditions]), strict=True):
        assert_close(measured, all_given(NEUTRAL | given), tol=1e-14)


@pair_by_default
def test_masked_steps_output_zero_and_a_sequence_without_valid_steps_returns_h0(cell):
    p = problem(cell)
    run = jax.jit(lambda conditions: gj.unroll(cell, p.params, p.xs, p.h0, **conditions))
    for conditions in CONDITIONS.values():
        h_last, ys = on_host(run(NEUTRAL | conditions))
        valid = conditions.get("mask", True) & (np.arange(T)[:, None] < conditions.get("lengths", np.full(B, T)))
        assert not ys[~valid].any()
        for b in np.flatnonzero(~valid.any(0)):
            assert_close(jax.tree.map(lambda leaf: leaf[b], h_last), jax.tree.map(lambda leaf: leaf[b], on_host(p.h0)), tol=0)


def test_a_reset_without_reset_state_sets_zeros_and_not_h0():
    cell = gj.lstm()
    p = problem(cell)
    xs, resets = on_host(p.xs), np.repeat(np.arange(T) == 3, B).reshape(T, B)
    _, ys = on_host(gj.unroll(cell, p.params, xs, p.h0, resets=resets))
    assert_close(ys[3:], gj.unroll(cell, p.params, xs[3:])[1], tol=1e-14)


@pair_by_default
def test_a_reversed_sequence_starts_at_its_own_last_step(cell):
    p = problem(cell)
    one = lambda b, tree: jax.tree.map(lambda leaf: leaf[b : b + 1], tree)

    def results(xs, h0):
        for b, length in enumerate(LENGTHS):
            yield gj.unroll(cell, p.params, xs[:length, b : b + 1], one(b, h0), reverse=True)
        yield gj.unroll(cell, p.params, xs, h0, lengths=LENGTHS, reverse=True)

    *alone, (h_last, ys) = compiled(lambda *args: list(results(*args)), p.xs, p.h0)
    for b, length in enumerate(LENGTHS):
        assert_close((one(b, h_last), ys[:length, b : b + 1]), alone[b])


@pytest.mark.parametrize("reverse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_batch_major_layout_takes_batch_major_masks_and_resets(reverse):
    cell = gj.lstm()
    p = problem(cell, batch=(2, B))
    random = np.random.default_rng(3)
    mask, resets, lengths = random.random((T, 2, B)) < 0.7, random.random((T, 2, B)) < 0.3, random.integers(0, T + 1, (2, B))
    turned = lambda a: jnp.moveaxis(a, 0, 2)

    def results(xs, mask, resets):
        for outputs in ("all", "states", "last"):
            run = partial(gj.unroll, cell, p.params, lengths=lengths, reverse=reverse, outputs=outputs)
            options = {"mask": turned(mask), "resets": turned(resets), "time_major": False}
            h_last, out = run(turned(xs), p.h0, **options)
            yield (h_last, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 2, 0), out)), run(xs, p.h0, mask=mask, resets=resets)

    for measured, expected in compiled(lambda *args: list(results(*args)), p.xs, mask, resets):
        assert_close(measured, expected, tol=0)


@pair_by_default
def test_repeated_steps_with_resets_equal_unroll(cell):
    p = problem(cell)
    reset_state = random_reset_state(cell, p.params)

    def results(p):
        step = lambda h, at_t: gj.step(cell, p.params, h, at_t[0], reset=at_t[1], reset_state=reset_state)
        by_unroll = gj.unroll(cell, p.params, p.xs, p.h0, resets=RESETS, reset_state=reset_state)
        one = gj.step(cell, p.params, p.h0, p.xs[0]), cell.step(p.params, p.h0, p.xs[0])
        return (jax.lax.scan(step, p.h0, (p.xs, RESETS)), by_unroll), one

    for measured, expected in compiled(results, p):
        assert_close(measured, expected)


def test_one_bool_resets_the_whole_batch_in_step():
    cell = gj.lstm()
    p = problem(cell)
    reset_state = random_reset_state(cell, p.params)
    step = partial(gj.step, cell, p.params, p.h0, p.xs[0])
    for one in (True, np.True_):
        assert_close(step(reset=one), step(reset=np.ones(B, bool)), tol=0)
        assert_close(step(reset=one, reset_state=reset_state), step(reset=np.ones(B, bool), reset_state=reset_state), tol=0)
    assert_close(step(reset=False), step(), tol=0)
    assert (step(reset=True)[1] != step()[1]).all()


@pytest.mark.parametrize("outputs", ["all", *(pytest.param(name, marks=pytest.mark.slow) for name in ("states", "last"))])
def test_a_traced_length_out_of_range_makes_its_own_sequence_nan(outputs):
    cell = gj.lstm()
    p = problem(cell)

    @jax.jit
    def results(lengths):
        loss = lambda params: gj.unroll(cell, params, p.xs, lengths=lengths)[1][:, 0].sum()
        return gj.unroll(cell, p.params, p.xs, p.h0, outputs=outputs, lengths=lengths), jax.grad(loss)(p.params)

    good_last, good_out = on_host(results(np.array([T, 0, 2]))[0])
    others = np.array([0, 2])
    for length in (-1, T + 1):
        (h_last, out), bars = on_host(results(np.array([T, length, 2])))
        for leaf, good in zip(jax.tree.leaves(h_last), jax.tree.leaves(good_last), strict=True):
            assert np.isnan(leaf[1]).all()
            assert_close(leaf[others], good[others], tol=1e-14)
        for leaf, good in zip(jax.tree.leaves(out), jax.tree.leaves(good_out), strict=True):
            assert np.isnan(leaf[:, 1]).all()
            assert_close(leaf[:, others], good[:, others], tol=1e-14)
        # the gradient must be NaN too, rather than plausible
        assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(bars))


def test_traced_lengths_masks_and_resets_equal_concrete_ones():
    cell = gj.gru(reset_after=True)
    p = problem(cell)
    run = lambda conditions: gradients(partial(gj.unroll, cell, **conditions), p)
    assert_close(*compiled(lambda given: (run(given), run(ALL_THREE)), ALL_THREE))


@pytest.mark.parametrize("traced", [False, True], ids=["concrete", "traced"])
def test_lengths_may_have_any_integer_dtype(traced):
    """300 steps overflow a uint8, and a length minus the start of a window may be negative."""
    cell, lengths = gj.elman("tanh"), np.array([3, 100, 20])
    p = problem(cell, steps=300)
    for run in (gj.unroll, partial(gj.unroll_truncated, window=16)):
        all_of = lambda *given, run=run: [run(cell, p.params, p.xs, lengths=each) for each in given]
        given = [lengths.astype(dtype) for dtype in ("int32", "int8", "uint8", "uint32")]
        expected, *measured = compiled(all_of, *given) if traced else compiled(partial(all_of, *given))
        for result in measured:
            assert_close(result, expected, tol=0)

"""A state for each reset: `reset_state` of shape (T, *batch, …), as replay of stored states needs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, LENGTHS, MASK, RESETS
from tests.problems import (
    CELLS,
    B,
    H,
    Problem,
    T,
    assert_close,
    assert_raises,
    compiled,
    gradients,
    normal,
    normal_like,
    problem,
    scan_of_step,
    without_derivation,
)

VALID = MASK & (np.arange(T)[:, None] < LENGTHS)
PLANS = {
    "states": gj.CustomVJP(residuals="states"),
    "gates in blocks": gj.CustomVJP(residuals="gates", block_size=3),
    "CustomJVP": gj.CustomJVP(),
    "Autodiff": gj.Autodiff(),
}


def stored_states(cell, p, batch=(B,)):
    """Draws a state for each step and sequence."""
    return normal_like(7, jax.eval_shape(lambda: cell.initial_state(p.params, (T, *batch))))


def with_states(unroll, p: Problem, states, **options):
    """Outputs, and the cotangents of params and states, xs and h0."""
    run = lambda params_and_states, xs, h0: unroll(params_and_states[0], xs, h0, reset_state=params_and_states[1], **options)
    return gradients(run, p._replace(params=(p.params, states)))


@pytest.mark.derivative
@pytest.mark.parametrize("name", [pytest.param("gru", marks=pytest.mark.slow), "lstm_peephole"])
@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "plans",
    [("gates in blocks", "CustomJVP"), pytest.param(("states", "Autodiff", "not derived"), marks=pytest.mark.slow)],
    ids=", ".join,
)
def test_values_and_gradients_equal_autodiff_of_the_plain_scan(name, reverse, plans):
    cell = CELLS[name]
    p = problem(cell)
    states, dots = stored_states(cell, p), normal_like(8, stored_states(cell, p))

    def all_modes(p, states):
        options = {"reverse": reverse, **ALL_THREE}
        expected = with_states(partial(scan_of_step, cell), p, states, **options)
        every_run = {plan: partial(gj.unroll, cell, derivative=derivative) for plan, derivative in PLANS.items()}
        every_run["not derived"] = partial(gj.unroll, without_derivation(cell))
        measured = [with_states(every_run[plan], p, states, **options) for plan in plans]
        tangents = [
            jax.jvp(lambda states, run=run: run(p.params, p.xs, p.h0, reset_state=states, **options), (states,), (dots,))[1]
            for run in (partial(gj.unroll, cell, derivative=gj.CustomJVP()), partial(scan_of_step, cell))
        ]
        return expected, measured, tangents

    expected, measured, tangents = compiled(all_modes, p, states)
    for each in measured:
        assert_close(each, expected)
    assert_close(*tangents)
    for bar in jax.tree.leaves(expected[1][0][1]):
        assert np.array_equal((np.asarray(bar) != 0).any(-1), RESETS & VALID)


@pytest.mark.derivative
def test_gradients_of_the_last_state_alone_equal_autodiff_of_the_plain_scan():
    """Then only the state that each block starts from is saved."""
    cell = gj.gru()
    p = problem(cell)
    p = p._replace(cotangents=(p.cotangents[0], None))
    options = {"outputs": "last", **ALL_THREE}
    run = partial(gj.unroll, cell, derivative=gj.CustomVJP(block_size=2))
    both = lambda p, states: [with_states(f, p, states, **options) for f in (run, partial(scan_of_step, cell))]
    assert_close(*compiled(both, p, stored_states(cell, p)))


def test_a_state_that_is_the_same_at_each_step_is_one_state_for_all_resets():
    cell = gj.lstm()
    p = problem(cell)

    def results(state):
        run = partial(gj.unroll, cell, p.params, p.xs, p.h0, resets=RESETS)
        everywhere = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (T, *leaf.shape)), state)
        of_each = run(reset_state=everywhere), run(reset_state=state)
        for_all_sequences = jax.tree.map(lambda leaf: leaf[:, :1], everywhere)
        expected = run(reset_state=jax.tree.map(lambda leaf: leaf[0], state))
        return of_each, (run(reset_state=for_all_sequences), expected)

    for measured, expected in compiled(results, normal_like(3, p.h0)):
        assert_close(measured, expected, tol=0)


def test_batch_major_and_single_sequences_equal_time_major_ones():
    cell = gj.gru()
    p = problem(cell)

    def results(p, states):
        time_major = gj.unroll(cell, p.params, p.xs, p.h0, resets=RESETS, reset_state=states)
        swapped = [leaf.swapaxes(0, 1) for leaf in (p.xs, states)]
        options = {"resets": RESETS.T, "time_major": False}
        last, outputs = gj.unroll(cell, p.params, swapped[0], p.h0, reset_state=swapped[1], **options)
        alone = gj.unroll(cell, p.params, p.xs[:, 1], p.h0[1], resets=RESETS[:, 1], reset_state=states[:, 1])
        return time_major, (last, outputs.swapaxes(0, 1)), alone

    (h_last, ys), batch_major, alone = compiled(results, p, stored_states(cell, p))
    assert_close(batch_major, (h_last, ys), tol=0)
    assert_close(alone, (h_last[1], ys[:, 1]))


def test_an_actor_that_steps_and_a_learner_that_unrolls_see_the_same_states():
    cell = gj.stack([gj.lstm(), gj.gru()])
    p = problem(cell)
    states = stored_states(cell, p)
    h, outputs = p.h0, []
    for t in range(T):
        at_t = jax.tree.map(lambda leaf, t=t: leaf[t], states)
        h, y = gj.step(cell, p.params, h, p.xs[t], reset=RESETS[t], reset_state=at_t)
        outputs.append(y)
    assert_close(gj.unroll(cell, p.params, p.xs, p.h0, resets=RESETS, reset_state=states), (h, jnp.stack(outputs)))


@pytest.mark.derivative
def test_each_direction_has_states_of_its_own_where_it_resets():
    cell = gj.bidirectional(gj.elman(), gj.gru())
    params = problem(cell).params
    xs, states = normal(0, T, B, 4), (normal(1, T, B, H), normal(2, T, B, H))
    starts = np.zeros((T, B), bool)
    starts[[3, 5]] = True

    def results(params, xs, states):
        outputs = lambda states: gj.unroll(cell, params, xs, resets=starts, reset_state=states)[1]
        _, forward = gj.unroll(cell.forward_cell, params.forward, xs[3:5], states[0][3])
        _, backward = gj.unroll(cell.backward_cell, params.backward, xs[3:5], states[1][4], reverse=True)
        alone = jnp.concatenate([forward, backward], -1)
        return outputs(states), alone, jax.grad(lambda states: outputs(states).sum())(states)

    ys, alone, bars = compiled(results, params, xs, states)
    assert_close(ys[3:5], alone)
    assert np.flatnonzero(np.abs(bars[0]).max((1, 2))).tolist() == [3, 5]
    assert np.flatnonzero(np.abs(bars[1]).max((1, 2))).tolist() == [2, 4]


def test_windows_and_wrapped_cells_take_them():
    cell = gj.gru()
    p = problem(cell)
    zoned = gj.zoneout(cell, 0.3).deterministic()

    def results(p, states):
        of = lambda run, cell, **more: run(cell, p.params, p.xs, p.h0, resets=RESETS, reset_state=states, **more)
        for way in ({}, {"reverse": True}):
            yield of(gj.unroll_truncated, cell, window=3, **way), of(gj.unroll, cell, **way)
        yield of(gj.unroll, zoned), of(scan_of_step, zoned)

    for measured, expected in compiled(lambda *args: list(results(*args)), p, stored_states(cell, p)):
        assert_close(measured, expected)


@pytest.mark.derivative
def test_the_flow_of_gradients_starts_at_each_reset():
    cell = gj.gru()
    p = problem(cell)
    loss = lambda t, y: jnp.sum(jnp.sin(y) * (1 + t))

    def results(params, states):
        options = {"resets": RESETS, "reset_state": states}
        terms = gj.flow.contributions(cell, params, p.xs, loss, p.h0, **options)
        total = lambda params: jax.vmap(loss)(jnp.arange(T), gj.unroll(cell, params, p.xs, p.h0, **options)[1]).sum()
        sums = jax.tree.map(lambda leaf: leaf.sum((0, 1)), terms)
        return (sums, jax.grad(total)(params)), gj.flow.jacobians(cell, params, p.xs, p.h0, **options)

    both, Js = compiled(results, p.params, stored_states(cell, p))
    assert_close(*both)
    assert np.array_equal((Js != 0).any((-1, -2)), ~RESETS)


GRU, LSTM = problem(gj.gru()), problem(gj.lstm())
BAD = {
    "another number of steps": (
        lambda: gj.unroll(gj.gru(), GRU.params, GRU.xs, resets=RESETS, reset_state=np.zeros((T + 1, B, H))),
        r"reset_state: got an array of shape \(8, 3, 5\).*expected shape \(7, 3, 5\) \(T, \*batch, H\)",
    ),
    "another layout": (
        lambda: gj.unroll(
            gj.gru(), GRU.params, GRU.xs.swapaxes(0, 1), resets=RESETS.T, reset_state=np.zeros((T, B, H)), time_major=False
        ),
        r"reset_state: got an array of shape \(7, 3, 5\).*expected shape \(3, 7, 5\) \(\*batch, T, H\)",
    ),
    "one part of the state": (
        lambda: gj.unroll(gj.lstm(), LSTM.params, LSTM.xs, resets=RESETS, reset_state=LSTM.h0._replace(h=np.zeros((T, B, H)))),
        r"reset_state: got arrays of the shapes \(7, 3, 5\), \(3, 5\), expected an axis of time in all of them",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_raises(call, message):
    assert_raises(call, ValueError, message)

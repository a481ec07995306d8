"""Eager calls of `unroll` and `step` compile once for each cell, options and shapes."""

import copy
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from tests.problems import CELLS, B, D, H, T, problem

# No other test uses these sizes, so their programs are not cached yet.
SIZES = {"steps": T + 4, "batch": (B + 4,), "input_size": D + 4, "hidden_size": H + 4}


@pytest.fixture
def compilations():
    """Provides a list that grows by one entry whenever JAX asks XLA for a compiled program."""
    found = []

    def listener(event, duration, **kwargs):
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield found
    jax.monitoring.unregister_event_duration_listener(listener)


def compilations_of(call, found):
    """Returns how many programs JAX compiles until the results of `call` are ready."""
    before = len(found)
    jax.block_until_ready(call())
    return len(found) - before


def ready_problem(cell, **sizes):
    return jax.block_until_ready(problem(cell, **SIZES | sizes))


@pytest.mark.parametrize("name", ["gru", "lstm_peephole"])
def test_unroll_compiles_once_per_cell_options_and_shapes(name, compilations):
    cell = CELLS[name]
    p, longer = ready_problem(cell), ready_problem(cell, steps=T + 5)
    other_xs = jax.block_until_ready(2 * p.xs)
    options = {"reverse": True, "derivative": gj.CustomVJP(block_size=4)}
    calls = [
        lambda: gj.unroll(cell, p.params, p.xs, p.h0, **options),
        lambda: gj.unroll(copy.deepcopy(cell), p.params, p.xs, p.h0, **copy.deepcopy(options)),
        lambda: gj.unroll(cell, p.params, other_xs, p.h0, **options),
    ]
    assert [compilations_of(call, compilations) for call in calls] == [1, 0, 0]
    assert compilations_of(lambda: gj.unroll(cell, longer.params, longer.xs, longer.h0, **options), compilations) == 1
    assert compilations_of(calls[0], compilations) == 0


def test_step_compiles_once_per_cell_and_shapes(compilations):
    cell = gj.gru()
    p = ready_problem(cell)
    x, other_x, fewer = jax.block_until_ready((p.xs[0], p.xs[1], p.xs[0, :2]))
    h, fewer_h = jax.block_until_ready((p.h0, p.h0[:2]))
    calls = [
        lambda: gj.step(cell, p.params, h, x),
        lambda: gj.step(copy.deepcopy(cell), p.params, h, x),
        lambda: gj.step(cell, p.params, h, other_x),
    ]
    assert [compilations_of(call, compilations) for call in calls] == [1, 0, 0]
    assert compilations_of(lambda: gj.step(cell, p.params, fewer_h, fewer), compilations) == 1


def test_an_eager_gradient_compiles_nothing_at_its_second_call(compilations):
    cell = gj.gru()
    p = ready_problem(cell, hidden_size=H + 6)
    loss = lambda cell, params: (gj.unroll(cell, params, p.xs, p.h0)[1] ** 2).sum()
    gradient = lambda cell: jax.grad(partial(loss, cell))(p.params)
    assert compilations_of(lambda: gradient(cell), compilations) > 0
    assert compilations_of(lambda: gradient(cell), compilations) == 0
    assert compilations_of(lambda: gradient(copy.deepcopy(cell)), compilations) == 0


def test_calls_with_equal_cells_inside_jit_trace_once():
    traces = []

    @partial(jax.jit, static_argnames="cell")
    def run(cell, params, xs):
        traces.append(cell.name)
        return gj.unroll(cell, params, xs)

    p = problem(gj.gru())
    run(gj.gru(), p.params, p.xs)
    run(gj.gru(reset_after=False), p.params, p.xs)
    run(copy.deepcopy(gj.gru()), p.params, jnp.zeros_like(p.xs))
    assert traces == ["gru()"]

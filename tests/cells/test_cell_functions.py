"""Tests each function of a cell's derivation alone, so that a failing test names the wrong one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_jax._engine.products import joined_products
from gru_jax._engine.weights import transpose_matrices
from gru_jax.ops import bias_sum, outer_sum
from tests.problems import (
    ACTIVATED,
    CELLS,
    DISTINCT,
    GATED,
    PROJECTED,
    SEEDS,
    B,
    T,
    assert_close,
    compiled,
    normal_like,
    problem,
)

pytestmark = pytest.mark.derivative

ALL = CELLS | ACTIVATED | PROJECTED
FORMS = [(name, False) for name in ALL] + [(name, True) for name in (*GATED, "lstm_peephole_projected")]


# Cells and activations whose derivatives have code of their own, alone and with joined products.
BY_DEFAULT = (*DISTINCT, "elman_relu", "elman_sigmoid", "lstm", "lstm_peephole_projected")
JOINED_BY_DEFAULT = ("gru", "lstm_peephole_projected")


@pytest.fixture(
    params=[
        pytest.param(
            (name, joined),
            id=f"{name}, joined products" if joined else name,
            marks=() if name in (JOINED_BY_DEFAULT if joined else BY_DEFAULT) else pytest.mark.slow,
        )
        for name, joined in FORMS
    ]
)
def cell(request):
    """Yields each cell, and each gated cell also with joined products."""
    name, joined = request.param
    with joined_products(joined):
        yield ALL[name]


def values_at_random_states(cell, seed):
    """Draws (params, xs, h_prevs, h_bars, g, k) with independent previous states."""
    p = problem(cell, seed, bias=seed != SEEDS[-1])
    h_prevs = normal_like(100 + seed, cell.initial_state(p.params, (T, B)))
    h_bars = normal_like(200 + seed, h_prevs)
    g = cell.gates(p.params, cell.project(p.params, p.xs), h_prevs)
    return p.params, p.xs, h_prevs, h_bars, g, cell.adjoint.linearize(g, h_prevs)


def one_step(cell, params, xs, h_prevs):
    return cell.update(cell.gates(params, cell.project(params, xs), h_prevs), h_prevs)


def test_state_vjp_is_the_transpose_of_a_step_with_respect_to_the_state(cell):
    for seed in SEEDS:
        params, xs, h_prevs, h_bars, _, k = values_at_random_states(cell, seed)
        _, vjp = jax.vjp(lambda h: one_step(cell, params, xs, h), h_prevs)
        assert_close(cell.adjoint.state_vjp(transpose_matrices(params), k, h_bars), vjp(h_bars)[0])


def test_input_vjp_is_the_transpose_of_all_steps_with_respect_to_params_and_input(cell):
    for seed in SEEDS:
        params, xs, h_prevs, h_bars, g, k = values_at_random_states(cell, seed)
        _, vjp = jax.vjp(lambda params, xs: one_step(cell, params, xs, h_prevs), params, xs)
        assert_close(cell.adjoint.input_vjp(params, xs, h_prevs, g, k, h_bars), vjp(h_bars))


def test_state_jvp_and_input_jvp_are_the_tangents_of_a_step(cell):
    for seed in SEEDS:
        params, xs, h_prevs, _, g, k = values_at_random_states(cell, seed)
        params_dot, xs_dot, h_dot = normal_like(300 + seed, (params, xs, h_prevs))
        primals = params, xs, h_prevs
        zeros = jax.tree.map(jnp.zeros_like, primals)
        step = lambda *primals: one_step(cell, *primals)
        _, by_state = jax.jvp(step, primals, (*zeros[:2], h_dot))
        _, by_inputs = jax.jvp(step, primals, (params_dot, xs_dot, zeros[2]))
        assert_close(cell.tangent.state_jvp(params, k, h_dot), by_state)
        assert_close(cell.tangent.input_jvp(params, params_dot, xs, xs_dot, h_prevs, g, k), by_inputs)


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name].adjoint.gates_from_state is not None])
def test_gates_from_state_recovers_the_gates(name):
    cell = ALL[name]
    params, xs, h_prevs, _, g, _ = values_at_random_states(cell, 0)
    assert_close(cell.adjoint.gates_from_state(one_step(cell, params, xs, h_prevs)), g)


def test_every_function_gives_the_same_result_for_one_step_and_for_all_steps_at_once(cell):
    params, xs, h_prevs, h_bars, g, k = values_at_random_states(cell, 0)
    at_step = lambda tree: jax.tree.map(lambda leaf: leaf[2], tree)
    g_at_step = cell.gates(params, cell.project(params, xs[2]), at_step(h_prevs))
    assert_close(g_at_step, at_step(g))
    assert_close(cell.update(g_at_step, at_step(h_prevs)), at_step(cell.update(g, h_prevs)))
    if jax.tree.leaves(k):
        assert_close(cell.adjoint.linearize(g_at_step, at_step(h_prevs)), at_step(k), tol=1e-5)
    state_vjp, params_T = cell.adjoint.state_vjp, transpose_matrices(params)
    assert_close(state_vjp(params_T, at_step(k), at_step(h_bars)), at_step(state_vjp(params_T, k, h_bars)))


def test_outer_sum_and_bias_sum_add_half_precision_in_float32():
    random = np.random.default_rng(0)
    for dtype in (jnp.bfloat16, jnp.float16):
        x, a = (jnp.asarray(random.random((300, 20, size)), dtype) for size in (2, 3))
        exact = np.einsum("tbd,tbh->dh", np.asarray(x, np.float64), np.asarray(a, np.float64))
        # the engine rounds to the dtype of the weight after all blocks
        outer, bias = compiled(lambda x, a: (outer_sum(x, a), bias_sum(a, a[0, 0])), x, a)
        assert outer.dtype == bias.dtype == jnp.float32
        assert np.allclose(outer, exact, rtol=1e-5)
        assert np.allclose(bias, np.asarray(a, np.float64).sum((0, 1)), rtol=1e-5)
    assert bias_sum(a, None) is None

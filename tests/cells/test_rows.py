"""Each function of a cell by itself: when a rule is wrong these tests say which one."""

import jax
import jax.numpy as jnp
import pytest

from gru_jax import ops
from gru_jax.ops import bias_sum, outer_sum, transposed
from tests.problems import CELLS, JOINT, SEEDS, B, D, H, T, assert_close, normal_like, problem

pytestmark = pytest.mark.derivative


FORMS = [(name, True) for name in CELLS] + [(name, False) for name in JOINT]


@pytest.fixture(params=FORMS, ids=lambda form: form[0] + ("" if form[1] else ", products apart"))
def cell(request, monkeypatch):
    """Each of them; GRU and LSTM also as what larger ones do: x W before the loop and h U in it, not [x, h] [W; U]."""
    name, joint = request.param
    monkeypatch.setattr(ops, "JOINT_UP_TO", D + H if joint else 0)
    return CELLS[name]


def at_random_states(cell, seed):
    """Values of a cell at random previous states, all steps independent."""
    p = problem(cell, seed, bias=seed != SEEDS[-1])
    h_prevs = normal_like(jax.random.key(100 + seed), cell.initial_state(p.params, (T, B)))
    h_bars = normal_like(jax.random.key(200 + seed), h_prevs)
    g = cell.gates(p.params, cell.project(p.params, p.xs), h_prevs)
    return p.params, p.xs, h_prevs, h_bars, g, cell.coefficients(g, h_prevs)


def test_pull_is_the_transpose_of_the_step_with_respect_to_the_state(cell):
    for seed in SEEDS:
        params, xs, h_prevs, h_bars, _, k = at_random_states(cell, seed)
        us = cell.project(params, xs)
        _, transpose = jax.vjp(lambda h: cell.update(cell.gates(params, us, h), h), h_prevs)
        assert_close(cell.pull(transposed(params), k, h_bars), transpose(h_bars)[0])


def test_collect_is_the_transpose_of_all_steps_with_respect_to_params_and_input(cell):
    for seed in SEEDS:
        params, xs, h_prevs, h_bars, g, k = at_random_states(cell, seed)
        _, transpose = jax.vjp(
            lambda params, xs: cell.update(cell.gates(params, cell.project(params, xs), h_prevs), h_prevs), params, xs
        )
        assert_close(cell.collect(params, xs, h_prevs, g, k, h_bars), transpose(h_bars))


def test_push_and_drive_are_the_tangents_of_the_step(cell):
    for seed in SEEDS:
        params, xs, h_prevs, _, g, k = at_random_states(cell, seed)
        dots = normal_like(jax.random.key(300 + seed), (params, xs, h_prevs))
        all_steps = lambda params, xs, h: cell.update(cell.gates(params, cell.project(params, xs), h), h)
        zeros = jax.tree.map(jnp.zeros_like, dots)
        _, by_state = jax.jvp(all_steps, (params, xs, h_prevs), (*zeros[:2], dots[2]))
        _, by_rest = jax.jvp(all_steps, (params, xs, h_prevs), (*dots[:2], zeros[2]))
        assert_close(cell.push(params, k, dots[2]), by_state)
        assert_close(cell.drive(params, dots[0], xs, dots[1], h_prevs, g, k), by_rest)


def test_one_step_and_all_steps_at_once_are_the_same_function(cell):
    params, xs, h_prevs, h_bars, g, k = at_random_states(cell, 0)
    one = lambda tree: jax.tree.map(lambda leaf: leaf[2], tree)
    g_one = cell.gates(params, cell.project(params, xs[2]), one(h_prevs))
    assert_close(g_one, one(g))
    assert_close(cell.update(g_one, one(h_prevs)), one(cell.update(g, h_prevs)))
    if jax.tree.leaves(k):
        assert_close(cell.coefficients(g_one, one(h_prevs)), one(k), tol=1e-5)
    pull = cell.pull(transposed(params), one(k), one(h_bars))
    assert_close(pull, one(cell.pull(transposed(params), k, h_bars)))


def test_outer_and_bias_sums_add_half_precision_up_in_float32():
    key_x, key_a = jax.random.split(jax.random.key(0))
    for dtype in (jnp.bfloat16, jnp.float16):
        x, a = jax.random.uniform(key_x, (300, 20, 2), dtype), jax.random.uniform(key_a, (300, 20, 3), dtype)
        exact = jnp.einsum("tbd,tbh->dh", x.astype(jnp.float32), a.astype(jnp.float32))
        assert outer_sum(x, a).dtype == bias_sum(a, a[0, 0]).dtype == jnp.float32  # rounded by the engine, after all blocks
        assert jnp.allclose(outer_sum(x, a), exact, rtol=1e-5)
        assert jnp.allclose(bias_sum(a, a[0, 0]), a.astype(jnp.float32).sum((0, 1)), rtol=1e-5)
    assert bias_sum(a, None) is None

"""No cell relies on implicit promotion of ranks or dtypes, which JAX can be configured to forbid."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, random_reset_state
from tests.problems import B, D, H, T, assert_close, distinct_cells, gradients, pair_by_default, problem

pytestmark = pytest.mark.derivative


@distinct_cells
def test_values_and_gradients_need_no_rank_promotion(cell):
    p = problem(cell)
    reset_state = random_reset_state(cell, p.params)
    run = partial(gj.unroll, cell, reset_state=reset_state, **ALL_THREE)
    with jax.numpy_rank_promotion("raise"):
        outputs, bars = jax.jit(partial(gradients, run))(p)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((outputs, bars)))


@pair_by_default
def test_no_dtype_is_promoted(cell):
    p = problem(cell, dtype=jnp.float32)
    noisy = gj.stack([gj.zoneout(gj.variational_dropout(cell, inputs=0.2, state=0.2), 0.1)])
    reset_state = random_reset_state(cell, p.params)

    def both(p, lengths):
        conditions = ALL_THREE | {"lengths": lengths}
        plain = gradients(partial(gj.unroll, cell, reset_state=reset_state, **conditions), p)
        lowered = gj.unroll(cell, p.params, p.xs, p.h0, compute_dtype=jnp.bfloat16, **conditions)
        with_noise = gj.unroll(noisy, (p.params,), p.xs, (p.h0,), key=jax.random.key(0), **conditions)
        return plain, lowered, with_noise, gj.step(cell, p.params, p.h0, p.xs[0], reset=ALL_THREE["resets"][0])

    expected = jax.jit(both)(p, ALL_THREE["lengths"])
    with jax.numpy_dtype_promotion("strict"):
        assert_close(jax.jit(both)(p, ALL_THREE["lengths"]), expected)


@pytest.mark.parametrize(
    "cell",
    [gj.elman(), *(pytest.param(cell, marks=pytest.mark.slow) for cell in (gj.gru(), gj.lstm(proj_size=2)))],
    ids=lambda cell: cell.name,
)
def test_half_precision_is_widened_without_promotion(cell):
    """From drawing the params to the sums of the gradient and the decompositions of `flow`."""

    def run(key):
        params = cell.init(key, D, H, dtype=jnp.bfloat16)
        xs = jnp.ones((T, B, D), jnp.bfloat16)
        bars = jax.grad(lambda params: gj.heads.sum_over_steps(gj.unroll(cell, params, xs)[1]).sum())(params)
        return params, bars, gj.flow.jacobian_norms(cell, params, xs), gj.flow.norm(xs)

    expected = jax.jit(run)(jax.random.key(0))
    with jax.numpy_dtype_promotion("strict"):
        found = jax.jit(run)(jax.random.key(0))
    assert_close(found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found[1])} == {jnp.dtype(jnp.bfloat16)}
    assert found[2].dtype == found[3].dtype == jnp.float32

"""Tests that `unroll` is not affected by two bugs of jaxlib on CPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import normal, problem
from tests.programs import loops

pytestmark = pytest.mark.derivative


@pytest.mark.parametrize(("T", "residuals"), [(100_000, "states"), (100_000, "gates"), (100_000, "auto"), (50_000, "auto")])
def test_a_loop_over_small_steps_is_not_longer_than_a_block(T, residuals):
    """In jaxlib 0.11.1, a long loop with small outputs takes quadratic time (jax#40101).

    If a step's output has fewer than 256 bytes, jaxlib rewrites the loop's whole stacked output at
    every step. In `unroll`, the loops over steps are no longer than a block, and each step of the
    loop over blocks outputs a whole block.
    """
    B, D, H = 1, 3, 5
    params = gj.gru().init(jax.random.key(0), D, H)
    derivative = gj.CustomVJP(residuals=residuals)
    loss = lambda params, xs: jnp.sum(gj.unroll(gj.gru(), params, xs, derivative=derivative)[1] ** 2)
    found = loops(jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, jnp.zeros((T, B, D))).jaxpr)
    assert len(found) == 4  # over blocks and over steps, forward and backward
    for loop in found:
        if loop.has_inner_loop:
            assert 10 <= loop.steps <= T / 1000
        else:
            assert loop.steps <= 8_192
            assert loop.steps * loop.steps_around == T


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_the_last_rows_of_a_vmapped_unroll_without_batch_axes_are_right(dtype, needs_x64):
    """jaxlib 0.10.2 computes the last rows of a vmapped matrix-vector product wrongly (jax#39103).

    This happens if a reduction follows, and with at least 16,385 rows of float64 or 32,769 rows of
    float32.
    """
    rows, T, D = 33_000, 2, 3
    cell = gj.linear_rnn()
    params = problem(cell, input_size=D, hidden_size=D, dtype=dtype).params
    xs = normal(1, rows, T, D, dtype=dtype)
    single = lambda xs: jnp.sum(gj.unroll(cell, params, xs)[0] ** 2)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(single)))(xs)

    W, U, b = (np.asarray(leaf, np.float64) for leaf in params)
    x = np.asarray(xs, np.float64)
    state = (x[:, 0] @ W + b) @ U + x[:, 1] @ W + b
    expected = np.stack([2 * state @ U.T @ W.T, 2 * state @ W.T], 1)
    tolerance = 64 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(values, np.sum(state**2, 1), rtol=tolerance, atol=tolerance * np.sum(state**2, 1).max())
    np.testing.assert_allclose(gradients, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())

"""Two bugs of jaxlib on CPUs that an unroll could run into: what is written here must not depend on whether they are there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax._jax.jaxprs import map_jaxprs

pytestmark = pytest.mark.derivative


def loops(jaxpr, outer=1):
    """(iterations, whether there is a loop inside, iterations of all loops around) of every scan."""
    found = []

    def visit(inner, iterations):
        found.extend(loops(inner, iterations))
        return inner

    for equation in jaxpr.eqns:
        length = equation.params["length"] if equation.primitive.name == "scan" else 1
        before = len(found)
        for value in equation.params.values():
            map_jaxprs(lambda inner, n=outer * length: visit(inner, n), value)
        if equation.primitive.name == "scan":
            found.append((length, len(found) > before, outer))
    return found


@pytest.mark.parametrize(("T", "residuals"), [(100_000, "states"), (100_000, "gates"), (100_000, "auto"), (50_000, "auto")])
def test_no_loop_stacks_more_than_a_block_of_small_steps(T, residuals):
    """jaxlib 0.11.1 writes the whole stacked output of a loop anew at each step where a step's part is below 256 bytes (jax issue
    40101), which makes time quadratic in its length. The loops over steps have the length of a block, and the one over blocks adds a
    block at a time, which is larger."""
    B, D, H = 1, 3, 5
    params = gj.gru().init(jax.random.key(0), D, H)
    loss = lambda params, xs: jnp.sum(gj.unroll(gj.gru(), params, xs, residuals=residuals)[1] ** 2)
    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, jnp.zeros((T, B, D))).jaxpr
    found = loops(jaxpr)
    assert len(found) == 4  # blocks and steps, forward and backward
    for length, has_inner, outer in found:
        assert length * outer >= 10  # blocks, or all steps
        assert length <= (T / 1000 if has_inner else 8_192)
    assert {outer * length for length, has_inner, outer in found if not has_inner} == {T}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_vmapped_unroll_without_batch_axes_keeps_its_last_rows_right(dtype, needs_x64):
    """jaxlib 0.10.2 computes the last rows of a vmapped matrix-vector product wrongly where a reduction follows, from 16,385 rows of
    float64 or 32,769 of float32 on (jax issue 39103)."""
    rows, T, D = 33_000, 2, 3
    cell = gj.linear_rnn()
    params = cell.init(jax.random.key(0), D, D, dtype=dtype)
    xs = jax.random.normal(jax.random.key(1), (rows, T, D), dtype)
    single = lambda xs: jnp.sum(gj.unroll(cell, params, xs)[0] ** 2)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(single)))(xs)

    W, U, b = (np.asarray(leaf, np.float64) for leaf in params)
    x = np.asarray(xs, np.float64)
    state = (x[:, 0] @ W + b) @ U + x[:, 1] @ W + b
    expected = np.stack([2 * state @ U.T @ W.T, 2 * state @ W.T], 1)
    tolerance = 64 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(values, np.sum(state**2, 1), rtol=tolerance, atol=tolerance * np.sum(state**2, 1).max())
    np.testing.assert_allclose(gradients, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())

"""Precision: the dtypes of operands and sums, and the error over the number of steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax._engine.weights import lower_matrices
from gru_jax.ops import dot, outer_sum
from tests.problems import (
    CELLS,
    DISTINCT,
    B,
    D,
    H,
    T,
    assert_close,
    compiled,
    errors,
    gradients,
    gradients_of_scan,
    normal,
    pair_by_default,
    problem,
    without_derivation,
)
from tests.programs import matmul_dtypes

pytestmark = pytest.mark.derivative


@pair_by_default
@pytest.mark.parametrize("derivative", [gj.CustomVJP(), gj.CustomJVP()], ids=["CustomVJP", "CustomJVP"])
@pytest.mark.parametrize(
    ("dtype", "compute_dtype"), [("bfloat16", None), ("float16", None), ("float32", "bfloat16"), ("float32", None)]
)
def test_every_matmul_takes_operands_of_the_compute_dtype_and_sums_in_float32(cell, derivative, dtype, compute_dtype):
    p = problem(cell, dtype=jnp.dtype(dtype))
    run = partial(gj.unroll, cell, derivative=derivative, compute_dtype=compute_dtype)
    found = set(matmul_dtypes(jax.make_jaxpr(partial(gradients, run))(p).jaxpr))
    operand = compute_dtype or dtype
    assert {total for _, _, total in found} == {"float32"}
    if derivative == gj.CustomVJP():
        assert found == {(operand, operand, "float32")}
    else:  # if JAX transposes a matmul, the cotangent keeps the float32 of its sum
        assert all(operand in (one, other) for one, other, _ in found)


@pytest.mark.parametrize(
    "cell",
    [pytest.param(CELLS[name], id=name, marks=() if name == "gru" else pytest.mark.slow) for name in DISTINCT],
)
def test_a_compute_dtype_keeps_the_dtype_of_the_parameters_and_gives_close_gradients(cell, needs_x64):
    p = problem(cell, dtype=jnp.float32)
    in_float64 = gradients_of_scan(cell)(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p))[1]
    hows = [(tested, each) for tested in (cell, without_derivation(cell)) for each in (gj.CustomVJP(), gj.CustomJVP())]
    runs = [
        partial(gj.unroll, tested, derivative=derivative, compute_dtype=jnp.bfloat16)
        for tested, derivative in (*hows, (cell, gj.Autodiff()))
    ]
    for outputs, bars in compiled(lambda p: [gradients(run, p) for run in runs], p):
        assert {leaf.dtype for leaf in jax.tree.leaves((outputs, bars))} == {jnp.dtype(jnp.float32)}
        # the compute dtype has an effect
        assert 1e-5 < max(errors(bars, in_float64).values()) < 0.2


def test_a_compute_dtype_equal_to_that_of_the_parameters_changes_nothing():
    p = problem(gj.gru(), dtype=jnp.float32)
    run = partial(gj.unroll, gj.gru(), p.params, p.xs, p.h0)
    assert_close(run(compute_dtype=jnp.float32), run(), tol=0)


def test_lower_matrices_keeps_vectors_and_masks():
    params = {"W": jnp.ones((2, 3)), "b": jnp.ones(3), "keep": jnp.ones((2, 3), bool)}
    dtypes = {name: str(leaf.dtype) for name, leaf in lower_matrices(params, jnp.bfloat16).items()}
    assert dtypes == {"W": "bfloat16", "b": str(params["b"].dtype), "keep": "bool"}


@pytest.mark.parametrize("derived", [True, False], ids=["derived", "local"])
def test_weight_gradients_in_half_precision_are_summed_in_float32(derived):
    """The gradient of the bias is a sum of 600 ones, which would stop at 256 or 512 in bfloat16."""
    cell = gj.linear_rnn() if derived else without_derivation(gj.linear_rnn())
    params = jax.tree.map(jnp.zeros_like, problem(gj.linear_rnn(), input_size=2, hidden_size=1, dtype=jnp.bfloat16).params)
    unroll = partial(gj.unroll, cell, xs=jnp.zeros((600, 1, 2)), derivative=gj.CustomVJP(block_size=2))
    assert compiled(jax.grad(lambda params: unroll(params)[1].astype(jnp.float32).sum()), params).b == 600


def test_a_matmul_in_half_precision_is_its_float32_sum_rounded_once():
    random = np.random.default_rng(0)
    for dtype in (jnp.bfloat16, jnp.float16):
        x, W = random.random((9, 4000)).astype(dtype), random.random((4000, 5)).astype(dtype)
        exact = x.astype(np.float32) @ W.astype(np.float32)
        product = np.asarray(dot(jnp.asarray(x), jnp.asarray(W)))
        assert product.dtype == dtype
        np.testing.assert_allclose(product.astype(np.float32), exact, rtol=float(jnp.finfo(dtype).eps))
    x, a = normal(1, T, B, D), normal(2, T, B, H)
    lowered_sum = outer_sum(x, a, jnp.zeros((D, H), jnp.bfloat16))
    assert lowered_sum.dtype == x.dtype
    assert_close(lowered_sum, outer_sum(x, a), tol=0.02)


# The largest allowed error of a gradient, relative to the scale of its leaf, for any number of
# steps. It is about twice the measured error.
LIMITS = {"float32": 2.5e-6, "bfloat16": 0.09, "float16": 6e-3, "bfloat16 operands": 2.2e-2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "elman_tanh", "lstm"])
@pytest.mark.parametrize("precision", LIMITS)
def test_the_error_does_not_grow_with_the_number_of_steps(name, precision, needs_x64):
    """Sums over time and batch are in float32, so 64 times as many steps do not reduce accuracy."""
    cell = CELLS[name]
    lowers_operands = precision == "bfloat16 operands"
    dtype = jnp.float32 if lowers_operands else jnp.dtype(precision)
    run = partial(gj.unroll, cell, compute_dtype=jnp.bfloat16 if lowers_operands else None)
    measured = []
    for steps in (8, 64, 512):
        p = problem(cell, steps=steps, dtype=dtype)
        outputs, bars = jax.jit(partial(gradients, run))(p)
        in_float64 = gradients_of_scan(cell)(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p))[1]
        measured.append(max(errors(bars, in_float64).values()))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((outputs, bars)))
    print(name, precision, [f"{error:.1e}" for error in measured])
    assert max(measured) <= LIMITS[precision], measured
    # the rounding of a plain float32 sum grows with √n, and some processors' matmuls sum plainly
    assert measured[-1] <= (8 if precision == "float32" else 4) * measured[0], measured

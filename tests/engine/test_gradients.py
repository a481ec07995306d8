"""The gradients of `unroll` against autodiff of the plain scan, and against finite differences.

Other files of this folder test gradients under transformations (`test_transformations`), with
lengths, masks and resets (`test_conditions_gradients`), and with every pair of options
(`test_option_pairs`).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import (
    CELLS,
    DISTINCT,
    GATED,
    SEEDS,
    B,
    D,
    H,
    T,
    assert_close,
    compiled,
    errors,
    every_cell,
    gradients,
    gradients_of_scan,
    gradients_of_unroll,
    on_host,
    pair_by_default,
    problem,
    scan_of_step,
    tolerance,
    without_derivation,
)

pytestmark = pytest.mark.derivative


def derived_and_local(cell):
    """Returns the cell and, for three representative cells, a copy without derivation."""
    return (cell, without_derivation(cell)) if cell in map(CELLS.get, ("elman_tanh", "gru", "lstm_peephole")) else (cell,)


@every_cell
@pytest.mark.parametrize(("bias", "reverse"), [(True, False), pytest.param(False, True, marks=pytest.mark.slow)])
def test_gradients_equal_autodiff_of_the_plain_scan(cell, bias, reverse):
    for seed in SEEDS:
        p = problem(cell, seed, bias=bias)
        assert_close(gradients_of_unroll(cell, reverse)(p), gradients_of_scan(cell, reverse)(p))


@pytest.mark.parametrize(
    "name", ["elman_tanh", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gru", "lstm_peephole"))]
)
@pytest.mark.parametrize(("bias", "reverse"), [(True, False), pytest.param(False, True, marks=pytest.mark.slow)])
def test_gradients_without_derivation_equal_autodiff_of_the_plain_scan(name, bias, reverse):
    cell = CELLS[name]
    for seed in SEEDS:
        p = problem(cell, seed, bias=bias)
        assert_close(gradients_of_unroll(without_derivation(cell), reverse)(p), gradients_of_scan(cell, reverse)(p))


@pytest.mark.parametrize(
    "cell",
    [pytest.param(CELLS[name], id=name, marks=() if name in GATED else pytest.mark.slow) for name in DISTINCT],
)
def test_gradients_of_a_reversed_sequence_without_biases_equal_autodiff_of_the_plain_scan(cell):
    p = problem(cell, bias=False)
    assert_close(gradients_of_unroll(cell, reverse=True)(p), gradients_of_scan(cell, reverse=True)(p))


@pair_by_default
def test_gradients_in_float32_are_as_accurate_as_autodiff(cell):
    limit = tolerance(jnp.float32, 23 * 5 + D + H)
    for seed in SEEDS:
        p = problem(cell, seed, dtype=jnp.float32, steps=23, batch=(5,))
        _, by_autodiff = gradients_of_scan(cell)(p)
        _, in_float64 = gradients_of_scan(cell)(as_dtype(jnp.result_type(float), p))
        for tested in derived_and_local(cell):
            _, bars = gradients_of_unroll(tested)(p)
            assert {leaf.dtype for leaf in jax.tree.leaves(bars)} == {jnp.dtype(jnp.float32)}
            if not jax.config.jax_enable_x64:
                assert_close(bars, by_autodiff, tol=2 * limit)
                continue
            error, error_of_autodiff = errors(bars, in_float64), errors(by_autodiff, in_float64)
            for path in error:
                assert error[path] <= max(limit, 8 * error_of_autodiff[path]), path


def as_dtype(dtype, tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, dtype)), tree)


@pair_by_default
@pytest.mark.parametrize("scale", [pytest.param(3.0, marks=pytest.mark.slow), 8.0])
def test_gradients_of_saturated_gates_equal_autodiff(cell, scale, needs_x64):
    p = problem(cell, scale=scale if "tanh" in cell.name or "gru" in cell.name else 1.0 + 0.1 * scale)
    _, bars = gradients_of_unroll(cell)(p)
    for path, error in errors(bars, gradients_of_scan(cell)(p)[1]).items():
        assert error <= 1e-11, path


@pair_by_default
def test_gradients_of_the_last_state_alone_and_of_the_outputs_alone_equal_autodiff(cell):
    p = problem(cell)
    zeros = jax.tree.map(np.zeros_like, p.cotangents)
    for cotangents in ((p.cotangents[0], zeros[1]), (zeros[0], p.cotangents[1]), zeros):
        alone = p._replace(cotangents=cotangents)
        bars = gradients_of_unroll(cell)(alone)[1]
        assert_close(bars, gradients_of_scan(cell)(alone)[1])
    assert all(not leaf.any() for leaf in jax.tree.leaves(bars))  # zero cotangents give exactly zero

    def of_last(params):
        sum_of = lambda run: lambda params: sum(leaf.sum() for leaf in jax.tree.leaves(run(params)[0]))
        by_scan = lambda params: scan_of_step(cell, params, p.xs, cell.initial_state(params, B))
        return [jax.grad(sum_of(run))(params) for run in (lambda params: gj.unroll(cell, params, p.xs), by_scan)]

    assert_close(*compiled(of_last, p.params))


EDGE_SIZES = (
    {"steps": 0},
    {"batch": ()},
    {"batch": (0,)},
    {"steps": 1},
    {"hidden_size": 1},
    {"batch": (1,)},
    {"batch": (2, B)},
)


@pytest.mark.parametrize(
    "cell",
    [pytest.param(CELLS[name], id=name, marks=() if name == "gru" else pytest.mark.slow) for name in DISTINCT],
)
@pytest.mark.parametrize(
    "sizes", [*EDGE_SIZES[:3], *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in EDGE_SIZES[3:])], ids=str
)
def test_gradients_at_edge_sizes_equal_autodiff(cell, sizes):
    p = problem(cell, **sizes)
    _, expected = gradients_of_scan(cell)(p)
    for tested in derived_and_local(cell):
        assert_close(gradients_of_unroll(tested)(p)[1], expected)


@pair_by_default
def test_batch_major_gradients_equal_time_major_ones(cell):
    p = problem(cell)

    def batch_major(params, xs, h0):
        h_last, ys = gj.unroll(cell, params, jnp.moveaxis(xs, 0, 1), h0, time_major=False)
        return h_last, jnp.moveaxis(ys, 1, 0)

    assert_close(compiled(partial(gradients, batch_major), p)[1], gradients_of_scan(cell)(p)[1])


@pair_by_default
def test_gradients_equal_central_differences(cell, needs_x64):
    p = problem(cell)
    _, bars = gradients_of_unroll(cell)(p)
    args = on_host((p.params, p.xs, p.h0))

    @jax.jit
    def loss(args):
        outputs = gj.unroll(cell, *args)
        return sum(jnp.vdot(y, ct) for y, ct in zip(jax.tree.leaves(outputs), jax.tree.leaves(p.cotangents), strict=True))

    leaves, structure = jax.tree.flatten(args)
    for i, (leaf, bar) in enumerate(zip(leaves, jax.tree.leaves(bars), strict=True)):
        direction, step = np.random.default_rng(i).standard_normal(leaf.shape), 1e-5
        moved = [structure.unflatten([*leaves[:i], leaf + s * step * direction, *leaves[i + 1 :]]) for s in (1, -1)]
        numerical = (float(loss(moved[0])) - float(loss(moved[1]))) / (2 * step)
        np.testing.assert_allclose(np.vdot(bar, direction), numerical, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "cell",
    [pytest.param(CELLS[name], id=name, marks=() if name == "gru" else pytest.mark.slow) for name in DISTINCT],
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_half_precision_gradients_have_the_dtype_of_the_parameters_and_are_close(cell, dtype, needs_x64):
    p = problem(cell, dtype=dtype)
    _, bars = gradients_of_unroll(cell)(p)
    assert {leaf.dtype for leaf in jax.tree.leaves(bars)} == {jnp.dtype(dtype)}
    _, in_float64 = gradients_of_scan(cell)(as_dtype(jnp.float64, p))
    error, error_of_autodiff = errors(bars, in_float64), errors(gradients_of_scan(cell)(p)[1], in_float64)
    for path in error:
        assert error[path] <= max(tolerance(dtype, T * B + D + H), 2 * error_of_autodiff[path]), path

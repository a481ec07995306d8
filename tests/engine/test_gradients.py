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
    SEEDS,
    B,
    D,
    H,
    T,
    assert_close,
    errors,
    every_cell,
    gradients,
    main_cells,
    problem,
    scan_of_step,
    tolerance,
    without_derivation,
)

pytestmark = pytest.mark.derivative


def derived_and_local(cell):
    """Returns the cell and, for three cells that stand for all, a copy without derivation."""
    return (cell, without_derivation(cell)) if cell in map(CELLS.get, ("elman_tanh", "gru", "lstm_peephole")) else (cell,)


@every_cell
@pytest.mark.parametrize(("bias", "reverse"), [(True, False), (False, True)])
def test_gradients_equal_autodiff_of_the_plain_scan(cell, bias, reverse):
    by_autodiff = jax.jit(partial(gradients, partial(scan_of_step, cell, reverse=reverse)))
    by_custom_vjp = [
        jax.jit(partial(gradients, partial(gj.unroll, tested, reverse=reverse))) for tested in derived_and_local(cell)
    ]
    for seed in SEEDS:
        p = problem(cell, seed, bias=bias)
        expected = by_autodiff(p)
        for run in by_custom_vjp:
            assert_close(run(p), expected)


@every_cell
def test_gradients_in_float32_are_as_accurate_as_autodiff(cell):
    custom_vjps = [jax.jit(partial(gradients, partial(gj.unroll, tested))) for tested in derived_and_local(cell)]
    autodiff = jax.jit(partial(gradients, partial(scan_of_step, cell)))
    limit = tolerance(jnp.float32, 23 * 5 + D + H)
    for seed in SEEDS:
        p = problem(cell, seed, dtype=jnp.float32, steps=23, batch=(5,))
        _, by_autodiff = autodiff(p)
        _, in_float64 = autodiff(jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), p))
        for custom_vjp in custom_vjps:
            _, bars = custom_vjp(p)
            assert {leaf.dtype for leaf in jax.tree.leaves(bars)} == {jnp.dtype(jnp.float32)}
            if not jax.config.jax_enable_x64:
                assert_close(bars, by_autodiff, tol=2 * limit)
                continue
            error, error_of_autodiff = errors(bars, in_float64), errors(by_autodiff, in_float64)
            for path in error:
                assert error[path] <= max(limit, 8 * error_of_autodiff[path]), path


@main_cells
@pytest.mark.parametrize("scale", [3.0, 8.0])
def test_gradients_of_saturated_gates_equal_autodiff(cell, scale, needs_x64):
    p = problem(cell, scale=scale if "tanh" in cell.name or "gru" in cell.name else 1.0 + 0.1 * scale)
    _, bars = gradients(partial(gj.unroll, cell), p)
    _, expected = gradients(partial(scan_of_step, cell), p)
    for path, error in errors(bars, expected).items():
        assert error <= 1e-11, path


@main_cells
def test_gradients_of_the_last_state_alone_and_of_the_outputs_alone_equal_autodiff(cell):
    p = problem(cell)
    zeros = jax.tree.map(jnp.zeros_like, p.cotangents)
    only_last, only_outputs = (p.cotangents[0], zeros[1]), (zeros[0], p.cotangents[1])
    runs = partial(gj.unroll, cell), partial(scan_of_step, cell)
    by_custom_vjp, by_autodiff = (jax.jit(partial(gradients, run)) for run in runs)
    for cotangents in (only_last, only_outputs):
        alone = p._replace(cotangents=cotangents)
        assert_close(by_custom_vjp(alone)[1], by_autodiff(alone)[1])

    h0 = cell.initial_state(p.params, B)
    sum_of_last = lambda run, params: sum(leaf.sum() for leaf in jax.tree.leaves(run(params)[0]))
    by_last = jax.grad(partial(sum_of_last, lambda params: gj.unroll(cell, params, p.xs)))
    expected = jax.grad(partial(sum_of_last, lambda params: scan_of_step(cell, params, p.xs, h0)))
    assert_close(by_last(p.params), expected(p.params))


@main_cells
def test_zero_cotangents_give_exactly_zero_gradients(cell):
    p = problem(cell)
    silent = p._replace(cotangents=jax.tree.map(jnp.zeros_like, p.cotangents))
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradients(partial(gj.unroll, cell), silent)[1]))


@pytest.mark.parametrize(
    "cell",
    [pytest.param(CELLS[name], id=name, marks=() if name == "gru" else pytest.mark.slow) for name in DISTINCT],
)
@pytest.mark.parametrize(
    "sizes",
    [{"steps": 1}, {"steps": 0}, {"batch": (1,)}, {"batch": ()}, {"batch": (0,)}, {"batch": (2, B)}, {"hidden_size": 1}],
    ids=str,
)
def test_gradients_at_edge_sizes_equal_autodiff(cell, sizes):
    p = problem(cell, **sizes)
    _, expected = jax.jit(partial(gradients, partial(scan_of_step, cell)))(p)
    for tested in derived_and_local(cell):
        assert_close(jax.jit(partial(gradients, partial(gj.unroll, tested)))(p)[1], expected)


@main_cells
def test_gradients_have_the_type_of_the_parameters(cell):
    p = problem(cell, bias=False)
    (params_bar, xs_bar, h0_bar) = gradients(partial(gj.unroll, cell), p)[1]
    assert type(params_bar) is type(p.params)
    assert [leaf is None for leaf in params_bar] == [leaf is None for leaf in p.params]
    assert jax.tree.structure(h0_bar) == jax.tree.structure(p.h0)
    assert xs_bar.shape == p.xs.shape


@main_cells
def test_batch_major_gradients_equal_time_major_ones(cell):
    p = problem(cell)

    def batch_major(params, xs, h0):
        h_last, ys = gj.unroll(cell, params, jnp.moveaxis(xs, 0, 1), h0, time_major=False)
        return h_last, jnp.moveaxis(ys, 1, 0)

    assert_close(gradients(batch_major, p)[1], gradients(partial(scan_of_step, cell), p)[1])


@main_cells
def test_gradients_equal_central_differences(cell, needs_x64):
    p = problem(cell)
    _, bars = gradients(partial(gj.unroll, cell), p)
    args = (p.params, p.xs, p.h0)

    @jax.jit
    def loss(args):
        outputs = gj.unroll(cell, *args)
        return sum(jnp.vdot(y, ct) for y, ct in zip(jax.tree.leaves(outputs), jax.tree.leaves(p.cotangents), strict=True))

    leaves, structure = jax.tree.flatten(args)
    for i, (leaf, bar) in enumerate(zip(leaves, jax.tree.leaves(bars), strict=True)):
        direction = jax.random.normal(jax.random.key(i), leaf.shape)
        step = 1e-5
        moved = [structure.unflatten([*leaves[:i], leaf + s * step * direction, *leaves[i + 1 :]]) for s in (1, -1)]
        numerical = (loss(moved[0]) - loss(moved[1])) / (2 * step)
        np.testing.assert_allclose(jnp.vdot(bar, direction), numerical, rtol=1e-6, atol=1e-7)


@main_cells
def test_half_precision_gradients_have_the_dtype_of_the_parameters_and_are_close(cell, needs_x64):
    for dtype in (jnp.bfloat16, jnp.float16):
        p = problem(cell, dtype=dtype)
        _, bars = jax.jit(partial(gradients, partial(gj.unroll, cell)))(p)
        assert {leaf.dtype for leaf in jax.tree.leaves(bars)} == {jnp.dtype(dtype)}
        autodiff = jax.jit(partial(gradients, partial(scan_of_step, cell)))
        _, in_float64 = autodiff(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), p))
        error, error_of_autodiff = errors(bars, in_float64), errors(autodiff(p)[1], in_float64)
        for path in error:
            assert error[path] <= max(tolerance(dtype, T * B + D + H), 2 * error_of_autodiff[path]), path

"""The gradients of `unroll` under transformations, and its second derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from tests.problems import (
    CELLS,
    B,
    Problem,
    T,
    assert_close,
    gradients,
    main_cells,
    problem,
    scan_of_step,
    without_derivation,
)

pytestmark = pytest.mark.derivative


@main_cells
def test_jit_checkpoint_and_an_outer_scan_change_nothing(cell):
    p = problem(cell)
    run = partial(gj.unroll, cell)
    expected = gradients(run, p)
    assert_close(jax.jit(partial(gradients, run))(p), expected)
    assert_close(gradients(jax.checkpoint(run), p), expected)

    def twice(unroll, params, xs, h0):
        return jax.lax.scan(lambda h, _: (unroll(params, xs, h)[0], None), h0, None, length=2)[0]

    last_only = p._replace(cotangents=p.cotangents[0])
    measured = gradients(partial(twice, run), last_only)
    assert_close(measured[1], gradients(partial(twice, partial(scan_of_step, cell)), last_only)[1])


@main_cells
def test_vmap_over_data_equals_a_loop(cell):
    run = partial(gradients, partial(gj.unroll, cell))
    examples = [problem(cell, seed) for seed in range(3)]
    examples = [example._replace(params=examples[0].params) for example in examples]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *examples)._replace(params=examples[0].params)
    axes = Problem(params=None, xs=0, h0=0, cotangents=0)
    together, one = jax.jit(jax.vmap(run, in_axes=(axes,)))(stacked), jax.jit(run)
    for i, example in enumerate(examples):
        assert_close(jax.tree.map(lambda leaf: leaf[i], together), one(example))


@main_cells
def test_vmap_over_an_ensemble_of_parameters_equals_a_loop(cell):
    run = partial(gradients, partial(gj.unroll, cell))
    models = [problem(cell, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    shared = models[0]._replace(params=stacked.params)
    one = jax.jit(run)
    own_data = jax.jit(jax.vmap(run))(stacked)
    same_data = jax.jit(jax.vmap(run, in_axes=(Problem(params=0, xs=None, h0=None, cotangents=None),)))(shared)
    for i, model in enumerate(models):
        assert_close(jax.tree.map(lambda leaf: leaf[i], own_data), one(model))
        assert_close(jax.tree.map(lambda leaf: leaf[i], same_data), one(models[0]._replace(params=model.params)))


@main_cells
def test_per_example_gradients_by_vmap_of_grad_equal_a_loop(cell):
    p = problem(cell)
    lengths = jnp.array([T, 2, 0])

    def loss(params, xs, h0, length):
        h_last, ys = gj.unroll(cell, params, xs, h0, lengths=length)
        return jnp.sin(ys).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(h_last))

    per_example = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 1, 0, 0)))(p.params, p.xs, p.h0, lengths)
    one = jax.jit(jax.grad(loss))
    for b in range(B):
        expected = one(p.params, p.xs[:, b], jax.tree.map(lambda leaf: leaf[b], p.h0), lengths[b])
        assert_close(jax.tree.map(lambda leaf: leaf[b], per_example), expected)


SECOND_ORDER = [
    pytest.param(cell, derived, marks=() if name == "gru" else pytest.mark.slow)
    for name, cell in CELLS.items()
    for derived in ((True, False) if name in ("elman_tanh", "gru", "lstm") else (True,))
]


@pytest.mark.parametrize(("cell", "derived"), SECOND_ORDER, ids=lambda value: getattr(value, "name", str(value)))
def test_second_derivatives_equal_autodiff_by_hessian_and_by_reverse_over_reverse(cell, derived):
    p = problem(cell, steps=5, batch=(2,), input_size=1, hidden_size=3)
    tested = cell if derived else without_derivation(cell)

    def curved(unroll, params, h0):
        h_last, ys = unroll(params, p.xs, h0)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**3) for leaf in jax.tree.leaves(h_last))

    @jax.jit
    def all_three(params, h0):
        custom_vjp = partial(curved, partial(gj.unroll, tested))
        autodiff = partial(curved, partial(scan_of_step, cell))
        argnums = (0, 1)
        return (
            jax.hessian(custom_vjp, argnums)(params, h0),
            jax.jacrev(jax.jacrev(custom_vjp, argnums), argnums)(params, h0),
            jax.hessian(autodiff, argnums)(params, h0),
        )

    forward_over_reverse, reverse_over_reverse, expected = all_three(p.params, p.h0)
    limit = 1e-12 if p.xs.dtype == jnp.float64 else 1e-4
    assert_close(forward_over_reverse, expected, tol=limit)
    assert_close(reverse_over_reverse, expected, tol=limit)


def test_a_gradient_computed_twice_is_bitwise_equal():
    p = problem(gj.gru())
    run = jax.jit(partial(gradients, partial(gj.unroll, gj.gru())))
    first, second = run(p), run(p)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def test_shard_map_sums_the_gradient_of_replicated_parameters_over_devices():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    p = problem(gj.gru())

    def loss_gradient(params, xs):
        return jax.grad(lambda params: (gj.unroll(gj.gru(), params, xs)[1] ** 2).sum())(params)

    sharded = jax.jit(jax.shard_map(loss_gradient, mesh=mesh, in_specs=(spec(), spec(None, "batch")), out_specs=spec()))
    assert_close(sharded(p.params, p.xs), loss_gradient(p.params, p.xs))

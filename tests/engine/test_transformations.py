"""The gradients of `unroll` under transformations, and its second derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import (
    CELLS,
    B,
    Problem,
    T,
    assert_close,
    compiled,
    gradients,
    gradients_of_scan,
    gradients_of_unroll,
    main_cells,
    on_host,
    problem,
    scan_of_step,
    without_derivation,
)

pytestmark = pytest.mark.derivative


def at(i, tree):
    return jax.tree.map(lambda leaf: leaf[i], tree)


@main_cells
def test_no_jit_checkpoint_and_an_outer_scan_change_nothing(cell):
    p = problem(cell)
    run = partial(gj.unroll, cell)
    expected = gradients_of_scan(cell)(p)
    assert_close(gradients(run, p), expected)
    assert_close(compiled(partial(gradients, jax.checkpoint(run)), p), expected)

    def twice(unroll, params, xs, h0):
        return jax.lax.scan(lambda h, _: (unroll(params, xs, h)[0], None), h0, None, length=2)[0]

    runs = [partial(twice, unroll) for unroll in (run, partial(scan_of_step, cell))]
    assert_close(*compiled(lambda p: [gradients(each, p)[1] for each in runs], p._replace(cotangents=p.cotangents[0])))


@main_cells
def test_vmap_over_data_and_an_ensemble_of_parameters_equals_a_loop(cell):
    one = gradients_of_unroll(cell)
    examples = on_host([problem(cell, seed) for seed in range(3)])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
    shared = {"params": examples[0].params}, {name: getattr(examples[0], name) for name in ("xs", "h0", "cotangents")}
    for alike in (*shared, {}):  # own data, own params, own both
        axes = Problem(*(None if name in alike else 0 for name in Problem._fields))
        together = compiled(jax.vmap(one, in_axes=(axes,)), stacked._replace(**alike))
        for i, example in enumerate(examples):
            assert_close(at(i, together), one(example._replace(**alike)))


@main_cells
def test_per_example_gradients_by_vmap_of_grad_equal_a_loop(cell):
    p = on_host(problem(cell))
    lengths = np.array([T, 2, 0])

    def loss(params, xs, h0, length):
        h_last, ys = gj.unroll(cell, params, xs, h0, lengths=length)
        return jnp.sin(ys).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(h_last))

    per_example = compiled(jax.vmap(jax.grad(loss), in_axes=(None, 1, 0, 0)), p.params, p.xs, p.h0, lengths)
    one = jax.jit(jax.grad(loss))
    for b in range(B):
        assert_close(at(b, per_example), one(p.params, p.xs[:, b], at(b, p.h0), lengths[b]))


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

    def all_three(params, h0):
        custom_vjp = partial(curved, partial(gj.unroll, tested))
        autodiff = partial(curved, partial(scan_of_step, cell))
        argnums = (0, 1)
        return (
            jax.hessian(custom_vjp, argnums)(params, h0),
            jax.jacrev(jax.jacrev(custom_vjp, argnums), argnums)(params, h0),
            jax.hessian(autodiff, argnums)(params, h0),
        )

    forward_over_reverse, reverse_over_reverse, expected = compiled(all_three, p.params, p.h0)
    limit = 1e-12 if p.xs.dtype == jnp.float64 else 1e-4
    assert_close(forward_over_reverse, expected, tol=limit)
    assert_close(reverse_over_reverse, expected, tol=limit)


def test_a_gradient_computed_twice_is_bitwise_equal():
    p = problem(gj.gru())
    first, second = gradients_of_unroll(gj.gru())(p), gradients_of_unroll(gj.gru())(p)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def test_shard_map_sums_the_gradient_of_replicated_parameters_over_devices():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    p = problem(gj.gru())

    def loss_gradient(params, xs):
        return jax.grad(lambda params: (gj.unroll(gj.gru(), params, xs)[1] ** 2).sum())(params)

    sharded = jax.jit(jax.shard_map(loss_gradient, mesh=mesh, in_specs=(spec(), spec(None, "batch")), out_specs=spec()))
    assert_close(sharded(p.params, p.xs), compiled(loss_gradient, p.params, p.xs))

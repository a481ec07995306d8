"""The gradients of `unroll` under transformations, and its second derivatives."""

import itertools
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
    on_host,
    pair_by_default,
    problem,
    scan_of_step,
    without_derivation,
)

pytestmark = pytest.mark.derivative


def at(i, tree):
    return jax.tree.map(lambda leaf: leaf[i], tree)


@pair_by_default
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


@pair_by_default
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


@pair_by_default
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


ORDERS = {"hessian": jax.hessian, "reverse over reverse": lambda f, argnums: jax.jacrev(jax.jacrev(f, argnums), argnums)}
BY_DEFAULT = {("elman_tanh", True, "reverse over reverse"), ("elman_tanh", False, "hessian")}
SECOND_ORDER = [
    pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.slow)
    for case in itertools.product(CELLS, (True, False), ORDERS)
    if case[0] in ("elman_tanh", "gru", "lstm") or case[1]
]


@pytest.mark.parametrize(("name", "derived", "order"), SECOND_ORDER)
def test_second_derivatives_equal_autodiff_by_hessian_and_by_reverse_over_reverse(name, derived, order):
    cell = CELLS[name]
    p = problem(cell, steps=5, batch=(2,), input_size=1, hidden_size=3)
    tested = cell if derived else without_derivation(cell)

    def curved(unroll, params, h0):
        h_last, ys = unroll(params, p.xs, h0)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**3) for leaf in jax.tree.leaves(h_last))

    def both(params, h0):
        custom_vjp = partial(curved, partial(gj.unroll, tested))
        autodiff = partial(curved, partial(scan_of_step, cell))
        return ORDERS[order](custom_vjp, (0, 1))(params, h0), jax.hessian(autodiff, (0, 1))(params, h0)

    measured, expected = compiled(both, p.params, p.h0)
    assert_close(measured, expected, tol=1e-12 if p.xs.dtype == jnp.float64 else 1e-4)


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

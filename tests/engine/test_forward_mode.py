"""Forward mode: `CustomVJP` raises and names `CustomJVP`, whose tangents are derived."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, random_reset_state
from tests.problems import (
    CELLS,
    assert_close,
    compiled,
    gradients,
    normal,
    normal_like,
    on_host,
    pair_by_default,
    problem,
    without_derivation,
)

P = problem(gj.gru())
X_DOT = jnp.ones_like(P.xs)


def total(xs):
    return gj.unroll(gj.gru(), P.params, xs, P.h0)[1].sum()


FORWARD_MODE = {
    "jvp": lambda: jax.jvp(total, (P.xs,), (X_DOT,)),
    "jit of jvp": lambda: jax.jit(lambda xs: jax.jvp(total, (xs,), (X_DOT,)))(P.xs),
    "jvp of jit": lambda: jax.jvp(jax.jit(total), (P.xs,), (X_DOT,)),
    "linearize": lambda: jax.linearize(total, P.xs)[1](X_DOT),
    "jit of linearize": lambda: jax.jit(lambda xs: jax.linearize(total, xs)[1](X_DOT))(P.xs),
    "jacfwd": lambda: jax.jacfwd(total)(P.xs),
    "jit of jacfwd": lambda: jax.jit(jax.jacfwd(total))(P.xs),
    "in a scan": lambda: jax.jvp(
        lambda xs: jax.lax.scan(lambda c, _: (c + total(xs), None), 0.0, None, 2)[0], (P.xs,), (X_DOT,)
    ),
    "vmapped": lambda: jax.jvp(jax.vmap(total), (P.xs[None],), (X_DOT[None],)),
}


@pytest.mark.parametrize("transformation", FORWARD_MODE)
def test_forward_mode_through_custom_vjp_raises_and_names_custom_jvp(transformation):
    with pytest.raises(TypeError, match=r"Use derivative=gj\.CustomJVP\(\)"):
        FORWARD_MODE[transformation]()


def test_jacfwd_of_a_jitted_unroll_raises_with_our_message_or_with_that_of_jax():
    """When JAX batches a jitted tangent, it may meet the custom VJP before our error is raised."""
    with pytest.raises(TypeError, match=r"forward.mode"):
        jax.jacfwd(jax.jit(total))(P.xs)


def test_an_error_of_a_custom_cell_is_not_mistaken_for_forward_mode():
    def project(params, xs):
        raise TypeError("the message of the cell")

    with pytest.raises(TypeError, match="the message of the cell"):
        gj.unroll(replace(gj.gru(), project=project), P.params, P.xs)


def by_custom_jvp(cell, **options):
    return partial(gj.unroll, cell, derivative=gj.CustomJVP(), **options)


def by_autodiff(cell, **options):
    return partial(gj.unroll, cell, derivative=gj.Autodiff(), **options)


@pytest.mark.derivative
@pytest.mark.parametrize(
    ("cell", "reverse"),
    [
        pytest.param(
            CELLS[name],
            reverse,
            marks=() if reverse and name in ("gru", "lstm_peephole") else pytest.mark.slow,
            id=f"{name}-{reverse}",
        )
        for name in CELLS
        for reverse in (False, True)
    ],
)
def test_custom_jvp_has_the_tangents_and_the_gradients_of_autodiff(cell, reverse):
    options = {**ALL_THREE, "reverse": True} if reverse else {}
    p = problem(cell, bias=not reverse)

    def results(p, dots):
        for run in (by_custom_jvp(cell, **options), by_autodiff(cell, **options)):
            yield jax.jvp(run, (p.params, p.xs, p.h0), dots), gradients(run, p)

    assert_close(*compiled(lambda *args: list(results(*args)), p, normal_like(7, (p.params, p.xs, p.h0))))


@pytest.mark.derivative
@pytest.mark.parametrize("name", ["gru", pytest.param("lstm_peephole", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "sizes",
    [{"batch": ()}, pytest.param({"batch": (2, 3)}, marks=pytest.mark.slow), {"batch": (0,)}, {"steps": 1}, {"steps": 0}],
    ids=str,
)
def test_custom_jvp_has_the_tangents_of_autodiff_at_edge_sizes(name, sizes):
    cell = CELLS[name]
    p = problem(cell, **sizes)
    args = (p.params, p.xs, p.h0)
    runs = by_custom_jvp(cell), by_autodiff(cell)
    assert_close(*compiled(lambda args, dots: [jax.jvp(run, args, dots) for run in runs], args, normal_like(7, args)))


@pytest.mark.derivative
@pair_by_default
@pytest.mark.parametrize(
    ("conditions", "reverse"),
    [pytest.param({}, False, marks=pytest.mark.slow), (ALL_THREE, True)],
    ids=["plain, forward", "all conditions, reverse"],
)
def test_the_derived_tangent_is_the_transpose_of_the_derived_adjoint(cell, conditions, reverse):
    """⟨c, J v⟩ = ⟨Jᵀ c, v⟩ for one leaf of v at a time. No other derivative serves as a reference.

    J v comes from `state_jvp` and `input_jvp`, Jᵀ c from `state_vjp` and `input_vjp`.
    """
    p = problem(cell)
    params_and_reset_state = (p.params, random_reset_state(cell, p.params) if conditions else None)
    args = (params_and_reset_state, p.xs, p.h0)

    def run(derivative, params_and_reset_state, xs, h0):
        params, reset_state = params_and_reset_state
        return gj.unroll(cell, params, xs, h0, reset_state=reset_state, reverse=reverse, derivative=derivative, **conditions)

    _, bars = compiled(partial(gradients, partial(run, gj.CustomVJP())), p._replace(params=params_and_reset_state))
    leaves, structure = jax.tree.flatten(on_host(normal_like(8, args)))
    tangent = jax.jit(lambda v: jax.jvp(partial(run, gj.CustomJVP()), args, v)[1])
    for i, (leaf, bar) in enumerate(zip(leaves, jax.tree.leaves(bars), strict=True)):
        v = structure.unflatten([leaf if j == i else np.zeros_like(other) for j, other in enumerate(leaves)])
        pairs = zip(jax.tree.leaves(p.cotangents), jax.tree.leaves(tangent(v)), strict=True)
        by_tangent = sum(np.vdot(c, y_dot) for c, y_dot in pairs)
        scale = np.linalg.norm(bar) * np.linalg.norm(leaf)
        assert abs(by_tangent - np.vdot(bar, leaf)) <= scale * 100 * np.finfo(leaf.dtype).eps


@pytest.mark.derivative
@pytest.mark.parametrize(
    "name",
    ["elman_tanh", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gru", "gru_reset_after", "lstm_peephole"))],
)
def test_every_second_derivative_through_custom_jvp_equals_autodiff(name):
    cell = CELLS[name]
    p = problem(cell, steps=5, batch=(2,), input_size=1, hidden_size=2)
    curved = lambda unroll, params: (jnp.sin(unroll(params, p.xs, p.h0)[1]) ** 2).sum()

    def orders(params):
        f = partial(curved, by_custom_jvp(cell))
        over = (jax.hessian(f), jax.jacfwd(jax.jacfwd(f)), jax.jacrev(jax.jacrev(f)), jax.jacrev(jax.jacfwd(f)))
        return [order(params) for order in over], jax.hessian(partial(curved, by_autodiff(cell)))(params)

    measured, expected = compiled(orders, p.params)
    for hessian in measured:
        assert_close(hessian, expected, tol=1e-12 if p.xs.dtype == jnp.float64 else 1e-4)


def test_custom_jvp_works_under_vmap_and_in_shard_map():
    p = problem(gj.gru())
    run = jax.jit(lambda xs_dot: jax.jvp(lambda xs: by_custom_jvp(gj.gru())(p.params, xs, p.h0), (p.xs,), (xs_dot,))[1])
    dots = np.stack([normal(seed, *p.xs.shape) for seed in (1, 2)])
    assert_close(jax.vmap(run)(dots), jax.tree.map(lambda *parts: np.stack(parts), run(dots[0]), run(dots[1])))

    def tangent(xs, xs_dot):
        return jax.jvp(lambda xs: by_custom_jvp(gj.gru())(p.params, xs)[1], (xs,), (xs_dot,))[1]

    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec(None, "batch")
    sharded = jax.jit(jax.shard_map(tangent, mesh=mesh, in_specs=(spec, spec), out_specs=spec))
    assert_close(sharded(p.xs, dots[0]), compiled(tangent, p.xs, dots[0]))


def test_custom_jvp_differentiates_a_cell_without_a_tangent_by_autodiff():
    args = P.params, P.xs, P.h0
    cells = gj.gru(), without_derivation(gj.gru()), replace(gj.gru(), tangent=None)
    run = lambda args, dots: [jax.jvp(by_custom_jvp(cell), args, dots) for cell in cells]
    expected, *measured = compiled(run, args, normal_like(3, args))
    for result in measured:
        assert_close(result, expected)

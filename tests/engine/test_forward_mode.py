"""Forward mode through the custom VJP is refused, by a message that names the way out; the way out is the derived tangent."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from tests.engine.test_when import LENGTHS, MASK, RESETS, reset_state_of
from tests.problems import CELLS, assert_close, every_cell, gradients, main_cells, normal_like, problem

P = problem(gj.gru())
X_DOT = jnp.ones_like(P.xs)


def total(xs, **options):
    return gj.unroll(gj.gru(), P.params, xs, P.h0, **options)[1].sum()


FORWARD = {
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


@pytest.mark.parametrize("through", FORWARD)
def test_forward_mode_is_refused_and_the_way_out_named(through):
    with pytest.raises(TypeError, match='derivative="both"'):
        FORWARD[through]()


def of(cell, derivative, **options):
    return partial(gj.unroll, cell, derivative=derivative, **options)


def jvp(run, args, dots):
    return jax.jit(lambda args, dots: jax.jvp(run, args, dots))(args, dots)


@pytest.mark.derivative
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_both_has_the_tangents_and_the_gradients_of_autodiff(cell, reverse):
    options = {"lengths": LENGTHS, "mask": MASK, "resets": RESETS, "reverse": True} if reverse else {}
    both, autodiff = of(cell, "both", **options), of(cell, "autodiff", **options)
    p = problem(cell, bias=not reverse)
    args = (p.params, p.xs, p.h0)
    dots = normal_like(jax.random.key(7), args)
    assert_close(jvp(both, args, dots), jvp(autodiff, args, dots))
    assert_close(jax.jit(partial(gradients, both))(p), jax.jit(partial(gradients, autodiff))(p))


@pytest.mark.derivative
@pytest.mark.parametrize("name", ["linear_rnn", "gru", "lstm_peephole"])
@pytest.mark.parametrize("sizes", [{"batch": ()}, {"batch": (2, 3)}, {"batch": (0,)}, {"steps": 1}, {"steps": 0}], ids=str)
def test_both_has_the_tangents_of_autodiff_at_edge_sizes(name, sizes):
    cell = CELLS[name]
    p = problem(cell, **sizes)
    args = (p.params, p.xs, p.h0)
    dots = normal_like(jax.random.key(7), args)
    assert_close(jvp(of(cell, "both"), args, dots), jvp(of(cell, "autodiff"), args, dots))


@pytest.mark.derivative
@main_cells
@pytest.mark.parametrize("when", [{}, {"lengths": LENGTHS, "mask": MASK, "resets": RESETS}], ids=["plain", "all conditions"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_derived_tangent_and_the_derived_adjoint_prove_each_other(cell, when, reverse):
    """⟨c, J v⟩ = ⟨Jᵀ c, v⟩, J v by `push` and `drive`, Jᵀ c by `pull` and `collect`, one leaf of v at a time: no third party."""
    p = problem(cell)
    given = (p.params, reset_state_of(cell, p.params) if when else None)
    args = (given, p.xs, p.h0)

    def run(derivative, given, xs, h0):
        params, fresh = given
        return gj.unroll(cell, params, xs, h0, reset_state=fresh, reverse=reverse, derivative=derivative, **when)

    _, bars = gradients(partial(run, "adjoint"), p._replace(params=given))
    leaves, structure = jax.tree.flatten(normal_like(jax.random.key(8), args))
    tangent = jax.jit(lambda v: jax.jvp(partial(run, "both"), args, v)[1])
    for i, (leaf, bar) in enumerate(zip(leaves, jax.tree.leaves(bars), strict=True)):
        v = structure.unflatten([leaf if j == i else jnp.zeros_like(other) for j, other in enumerate(leaves)])
        pushed = sum(jnp.vdot(c, y) for c, y in zip(jax.tree.leaves(p.cotangents), jax.tree.leaves(tangent(v)), strict=True))
        scale = float(jnp.linalg.norm(bar) * jnp.linalg.norm(leaf))
        assert abs(float(pushed - jnp.vdot(bar, leaf))) <= scale * 100 * float(jnp.finfo(leaf.dtype).eps)


@pytest.mark.derivative
@pytest.mark.parametrize(
    "name",
    ["gru", *(pytest.param(name, marks=pytest.mark.slow) for name in ("elman_tanh", "gru_reset_after", "lstm_peephole"))],
)
def test_both_has_every_second_order_of_autodiff(name):
    cell = CELLS[name]
    p = problem(cell, steps=5, batch=(2,), input_size=1, hidden_size=2)
    curved = lambda derivative, params: (jnp.sin(of(cell, derivative)(params, p.xs, p.h0)[1]) ** 2).sum()

    @jax.jit
    def orders(params):
        both, autodiff = partial(curved, "both"), partial(curved, "autodiff")
        over = (jax.hessian(both), jax.jacfwd(jax.jacfwd(both)), jax.jacrev(jax.jacrev(both)), jax.jacrev(jax.jacfwd(both)))
        return [order(params) for order in over], jax.hessian(autodiff)(params)

    measured, expected = orders(p.params)
    for hessian in measured:
        assert_close(hessian, expected, tol=1e-12 if p.xs.dtype == jnp.float64 else 1e-4)


def test_both_vmaps_and_runs_in_shard_map():
    p = problem(gj.gru())
    run = lambda xs_dot: jax.jvp(lambda xs: of(gj.gru(), "both")(p.params, xs, p.h0), (p.xs,), (xs_dot,))[1]
    dots = normal_like(jax.random.key(1), jnp.stack([p.xs, p.xs]))
    assert_close(jax.vmap(run)(dots), jax.tree.map(lambda *parts: jnp.stack(parts), run(dots[0]), run(dots[1])))

    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec(None, "batch")
    tangent = lambda xs, xs_dot: jax.jvp(lambda xs: gj.unroll(gj.gru(), p.params, xs, derivative="both")[1], (xs,), (xs_dot,))[
        1
    ]
    sharded = jax.jit(jax.shard_map(tangent, mesh=mesh, in_specs=(spec, spec), out_specs=spec))
    assert_close(sharded(p.xs, dots[0]), tangent(p.xs, dots[0]))


def test_a_cell_without_a_tangent_row_is_differentiated_by_autodiff():
    plain = gj.gru()._replace(coefficients=None, pull=None, collect=None, push=None, drive=None)
    args, dots = (P.params, P.xs, P.h0), normal_like(jax.random.key(3), (P.params, P.xs, P.h0))
    assert_close(jvp(of(plain, "both"), args, dots), jvp(of(gj.gru(), "both"), args, dots))


def test_an_error_of_the_users_own_cell_is_not_mistaken_for_forward_mode():
    def project(params, xs):
        raise TypeError("the user's own")

    with pytest.raises(TypeError, match="the user's own"):
        gj.unroll(gj.gru()._replace(project=project), P.params, P.xs)


def test_jacfwd_of_a_jitted_unroll_is_refused_too_if_in_jaxs_words():
    """Batching a tangent under `jit`, JAX meets the custom VJP before our primitive is lowered: the one path with its message."""
    with pytest.raises(TypeError, match=r"forward.mode"):
        jax.jacfwd(jax.jit(total))(P.xs)

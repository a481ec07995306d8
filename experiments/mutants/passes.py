"""Wrong backward passes of a whole function: a right one whose inputs or outputs are changed."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax as gj


class PassFault(NamedTuple):
    """A wrong backward pass of `unroll`.

    Attributes:
        changes: Arguments of `with_faulty_rule`.
        wrong: The leaves that are then wrong, by their names in a report; "all"; or None if it
            depends on the cell.
    """

    changes: dict[str, Callable[..., Any]]
    wrong: set[str] | str | None


def with_faulty_rule(
    fun: Callable[..., Any],
    *,
    outputs: Callable[..., Any] = lambda y: y,
    cotangents: Callable[..., Any] = lambda u: u,
    gradients: Callable[..., Any] = lambda gradients: gradients,
) -> Callable[..., Any]:
    """Returns `fun` with a custom rule that is right except for the given changes.

    Args:
        fun: The function.
        outputs: Changes what the forward rule returns. Defaults to no change.
        cotangents: Changes the cotangents before the pullback. Defaults to no change.
        gradients: Changes what the pullback returns. Defaults to no change.
    """

    @jax.custom_vjp
    @wraps(fun)
    def f(*args):
        return fun(*args)

    def f_fwd(*args):
        y, pullback = jax.vjp(fun, *args)
        return outputs(y), pullback

    def f_bwd(pullback, u):
        return gradients(pullback(cotangents(u)))

    f.defvjp(f_fwd, f_bwd)
    return f


def unrolled(cell: gj.Cell) -> Callable[..., Any]:
    """Returns unroll(params, xs, h0) of a cell."""

    def unroll(params, xs, h0):
        return gj.unroll(cell, params, xs, h0)

    return unroll


Change = Callable[[Any], Any]


def _in_params(field: str, change: Change) -> Change:
    """Changes the gradient of one parameter."""
    return lambda gradients: (gradients[0]._replace(**{field: change(getattr(gradients[0], field))}), *gradients[1:])


def _in_xs(change: Change) -> Change:
    """Changes the gradient of xs."""
    return lambda gradients: (gradients[0], change(gradients[1]), gradients[2])


def _in_h0(change: Change) -> Change:
    """Changes each leaf of the gradient of h0."""
    return lambda gradients: (*gradients[:2], jax.tree.map(change, gradients[2]))


def _in_all(change: Change) -> Change:
    """Changes every leaf."""
    return lambda gradients: jax.tree.map(change, gradients)


PASS_FAULTS: dict[str, PassFault] = {
    "the cotangent of h_last ignored": PassFault({"cotangents": lambda u: (jax.tree.map(jnp.zeros_like, u[0]), u[1])}, None),
    "the cotangent of ys ignored": PassFault({"cotangents": lambda u: (u[0], jnp.zeros_like(u[1]))}, None),
    "the last loss step ignored": PassFault({"cotangents": lambda u: (u[0], u[1].at[-1].set(0))}, None),
    "one sequence of the batch ignored": PassFault({"cotangents": lambda u: (u[0], u[1].at[:, 0].set(0))}, None),
    "no cotangent for h0": PassFault({"gradients": lambda gradients: (*gradients[:2], None)}, {"h0"}),
    "no cotangent for xs": PassFault({"gradients": _in_xs(lambda xs_bar: None)}, {"xs"}),
    "h̄₀ with the other sign": PassFault({"gradients": _in_h0(jnp.negative)}, {"h0"}),
    "h̄₀ of another sequence": PassFault({"gradients": _in_h0(lambda h_bar: jnp.roll(h_bar, 1, axis=0))}, {"h0"}),
    "x̄ of the first step zero": PassFault({"gradients": _in_xs(lambda xs_bar: xs_bar.at[0].set(0))}, {"xs"}),
    "x̄ of the last step zero": PassFault({"gradients": _in_xs(lambda xs_bar: xs_bar.at[-1].set(0))}, {"xs"}),
    "x̄ in reverse": PassFault({"gradients": _in_xs(lambda xs_bar: xs_bar[::-1])}, {"xs"}),
    "all averaged over the batch": PassFault({"gradients": _in_all(lambda leaf: leaf / 3)}, "all"),
    "all off by 1e-3": PassFault({"gradients": _in_all(lambda leaf: leaf * (1 + 1e-3))}, "all"),
    "all off by 1e-5": PassFault({"gradients": _in_all(lambda leaf: leaf * (1 + 1e-5))}, "all"),
    "another value from the forward rule": PassFault({"outputs": lambda y: (y[0], y[1] * (1 + 1e-4))}, "out[1]"),
}
GRU_PASS_FAULTS: dict[str, PassFault] = PASS_FAULTS | {
    "U_h transposed": PassFault({"gradients": _in_params("U_h", jnp.transpose)}, {"params.U_h"}),
    "U_r transposed": PassFault({"gradients": _in_params("U_r", jnp.transpose)}, {"params.U_r"}),
    "b_r forgotten": PassFault({"gradients": _in_params("b_r", jnp.zeros_like)}, {"params.b_r"}),
    "W_z of another order": PassFault({"gradients": _in_params("W_z", lambda W_bar: W_bar[::-1])}, {"params.W_z"}),
}

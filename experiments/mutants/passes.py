"""Wrong backward passes of a whole function: the right gradient, with something done to what goes into it or comes out."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp

import gru_jax as gj

# (what `spoiled` does, the leaves that are then wrong by their names in a report; "all"; None: some).
Pass = tuple[dict[str, Any], Any]


def spoiled(
    fun: Callable[..., Any],
    *,
    bars: Callable[..., Any] = lambda bars: bars,
    cotangents: Callable[..., Any] = lambda u: u,
    forward: Callable[..., Any] = lambda y: y,
) -> Callable[..., Any]:
    """`fun` with its gradient by a rule that does something to what goes into it or comes out; by default nothing."""

    @jax.custom_vjp
    @wraps(fun)
    def f(*args):
        return fun(*args)

    def f_fwd(*args):
        outputs, pull = jax.vjp(fun, *args)
        return forward(outputs), pull

    def f_bwd(pull, u):
        return bars(pull(cotangents(u)))

    f.defvjp(f_fwd, f_bwd)
    return f


def unrolled(cell: gj.Cell) -> Callable[..., Any]:
    """unroll(params, xs, h0) of a cell, named so in reports."""

    def unroll(params, xs, h0):
        return gj.unroll(cell, params, xs, h0)

    return unroll


def _put(field: str, change: Callable[..., Any]) -> Callable[..., Any]:
    """Something done to the gradient of one parameter."""
    return lambda bars: (bars[0]._replace(**{field: change(getattr(bars[0], field))}), *bars[1:])


def _everywhere(change: Callable[..., Any]) -> Callable[..., Any]:
    """Something done to every gradient."""
    return lambda bars: jax.tree.map(change, bars)


WHOLE: dict[str, Pass] = {
    "the cotangent of h_last ignored": ({"cotangents": lambda u: (jax.tree.map(jnp.zeros_like, u[0]), u[1])}, None),
    "the cotangent of ys ignored": ({"cotangents": lambda u: (u[0], jnp.zeros_like(u[1]))}, None),
    "the last loss step ignored": ({"cotangents": lambda u: (u[0], u[1].at[-1].set(0))}, None),
    "one sequence of the batch ignored": ({"cotangents": lambda u: (u[0], u[1].at[:, 0].set(0))}, None),
    "no cotangent for h0": ({"bars": lambda bars: (*bars[:2], None)}, {"h0"}),
    "no cotangent for xs": ({"bars": lambda bars: (bars[0], None, bars[2])}, {"xs"}),
    "h̄₀ with the other sign": ({"bars": lambda bars: (*bars[:2], jax.tree.map(jnp.negative, bars[2]))}, {"h0"}),
    "h̄₀ of another sequence": ({"bars": lambda bars: (*bars[:2], jax.tree.map(lambda b: jnp.roll(b, 1, axis=0), bars[2]))}, {"h0"}),
    "x̄ of the first step zero": ({"bars": lambda bars: (bars[0], bars[1].at[0].set(0), bars[2])}, {"xs"}),
    "x̄ of the last step zero": ({"bars": lambda bars: (bars[0], bars[1].at[-1].set(0), bars[2])}, {"xs"}),
    "x̄ in reverse": ({"bars": lambda bars: (bars[0], bars[1][::-1], bars[2])}, {"xs"}),
    "all averaged over the batch": ({"bars": _everywhere(lambda b: b / 3)}, "all"),
    "all off by 1e-3": ({"bars": _everywhere(lambda b: b * (1 + 1e-3))}, "all"),
    "all off by 1e-5": ({"bars": _everywhere(lambda b: b * (1 + 1e-5))}, "all"),
    "another value from the forward rule": ({"forward": lambda y: (y[0], y[1] * (1 + 1e-4))}, "out[1]"),
}  # fmt: skip
GRU_WHOLE: dict[str, Pass] = WHOLE | {
    "U_h transposed": ({"bars": _put("U_h", jnp.transpose)}, {"params.U_h"}),
    "U_r transposed": ({"bars": _put("U_r", jnp.transpose)}, {"params.U_r"}),
    "b_r forgotten": ({"bars": _put("b_r", jnp.zeros_like)}, {"params.b_r"}),
    "W_z of another order": ({"bars": _put("W_z", lambda b: b[::-1])}, {"params.W_z"}),
}

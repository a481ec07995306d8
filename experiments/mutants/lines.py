"""Wrong lines of a derivation: one function of a cell's adjoint is replaced by a wrong one.

The faults are those that people make: a dropped factor, sign or transpose, z instead of 1 − z, h
instead of h₋, swapped gates, a mean instead of a sum, and lines as published in tutorials.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

import gru_jax as gj

LSTM_ADJOINT: Any = gj.lstm(peephole=True).adjoint

# (the function of the adjoint to replace; a function of its right result and its arguments that
# returns the wrong result; the leaves whose gradients are then wrong over one step)
Line = tuple[str, Callable[..., Any], set[str]]


def gate(*names: str) -> set[str]:
    """Returns the names of the weights and biases of some gates."""
    return {f"{letter}_{name}" for name in names for letter in "WUb"}


def mean_bias(field: str) -> Callable[..., Any]:
    """Averages a gradient over the batch instead of summing it."""
    return lambda bars, params, xs, *rest: (bars[0]._replace(**{field: getattr(bars[0], field) / xs.shape[1]}), bars[1])


def scaled(field: str, factor: float) -> Callable[..., Any]:
    """Multiplies a gradient by a factor."""
    return lambda bars, *args: (bars[0]._replace(**{field: getattr(bars[0], field) * factor}), bars[1])


def one_element(field: str) -> Callable[..., Any]:
    """Changes one entry of a gradient by 1 %."""
    return lambda bars, *args: (bars[0]._replace(**{field: getattr(bars[0], field).at[0, 0].multiply(1.01)}), bars[1])


def swapped(one: str, other: str) -> Callable[..., Any]:
    """Swaps two gradients."""
    return lambda bars, *args: (
        bars[0]._replace(**{one: getattr(bars[0], other), other: getattr(bars[0], one)}),
        bars[1],
    )


def outer(x: jax.Array, a: jax.Array) -> jax.Array:
    """Returns Σ xᵀa over time and batch."""
    return (x[..., :, None] * a[..., None, :]).sum(axis=tuple(range(x.ndim - 1)))


def last_step_skipped(bars: Any, params: Any, xs: Any, h_prevs: Any, g: Any, k: Any, h_bars: Any) -> Any:
    """Omits the last step from the gradient of W_z."""
    return bars[0]._replace(W_z=outer(xs[:-1], (k.a_z * h_bars)[:-1])), bars[1]


def new_state_for_old(bars: Any, params: Any, xs: Any, h_prevs: Any, g: Any, k: Any, h_bars: Any) -> Any:
    """Uses h_t instead of h_{t-1} in the gradient of U_z."""
    h = (1 - g.z) * h_prevs + g.z * g.g
    return bars[0]._replace(U_z=outer(h, k.a_z * h_bars)), bars[1]


BOTH_GRUS: dict[str, Line] = {
    "z for 1 − z on the carry": ("linearize", lambda k, g, h: k._replace(keep=g.z), {"h0"}),
    "h₋ − g for g − h₋": ("linearize", lambda k, g, h: k._replace(a_z=-k.a_z), gate("z") | {"xs", "h0"}),
    "no σ′ of z": ("linearize", lambda k, g, h: k._replace(a_z=g.g - h), gate("z") | {"xs", "h0"}),
    "z̄ = δ(g + z), as published": ("linearize", lambda k, g, h: k._replace(a_z=(g.g + g.z) * g.z * (1 - g.z)), gate("z") | {"xs", "h0"}),
    "no σ′ of r": ("linearize", lambda k, g, h: k._replace(a_r=k.a_r / (g.r * (1 - g.r))), gate("r") | {"xs", "h0"}),
    "no carry": ("state_vjp", lambda out, P_T, k, d: out - k.keep * d, {"h0"}),
    "no U_z path": ("state_vjp", lambda out, P_T, k, d: out - (k.a_z * d) @ P_T.U_z, {"h0"}),
    "U_z not transposed": ("state_vjp", lambda out, P_T, k, d: out + (k.a_z * d) @ (P_T.U_z.T - P_T.U_z), {"h0"}),
    "the sign of the U_z path": ("state_vjp", lambda out, P_T, k, d: out - 2 * (k.a_z * d) @ P_T.U_z, {"h0"}),
    "U_z and U_r swapped": ("input_vjp", swapped("U_z", "U_r"), {"U_z", "U_r"}),
    "W_r and W_h swapped, as published": ("input_vjp", swapped("W_r", "W_h"), {"W_r", "W_h"}),
    "b_h averaged over the batch": ("input_vjp", mean_bias("b_h"), {"b_h"}),
    "the last step skipped": ("input_vjp", last_step_skipped, {"W_z"}),
    "h for h₋ in U_z": ("input_vjp", new_state_for_old, {"U_z"}),
    "W_h off by 1e-3": ("input_vjp", scaled("W_h", 1 + 1e-3), {"W_h"}),
    "U_r off by 1e-5": ("input_vjp", scaled("U_r", 1 + 1e-5), {"U_r"}),
    "one element of U_h off by 1 %": ("input_vjp", one_element("U_h"), {"U_h"}),
    "x̄ without the update gate": ("input_vjp", lambda bars, p, xs, hs, g, k, d: (bars[0], bars[1] - (k.a_z * d) @ p.W_z.T), {"xs"}),
}  # fmt: skip

FAULTS: dict[str, dict[str, Line]] = {
    "gru": BOTH_GRUS | {
        "no tanh′": ("linearize", lambda k, g, h: k._replace(a_h=g.z), gate("h", "r") | {"xs", "h0"}),
        "σ′ of r on δ17 for δ16, as published": ("linearize", lambda k, g, h: k._replace(a_r=g.r * g.r * (1 - g.r)), gate("r") | {"xs", "h0"}),
        "no r on the way through s": ("linearize", lambda k, g, h: k._replace(r=jnp.ones_like(k.r)), {"h0"}),
        "no path through s": ("state_vjp", lambda out, P_T, k, d: out - k.r * ((k.a_h * d) @ P_T.U_h), {"h0"}),
        "no U_r path": ("state_vjp", lambda out, P_T, k, d: out - (k.a_r * ((k.a_h * d) @ P_T.U_h)) @ P_T.U_r, {"h0"}),
        "h₋ for r ⊙ h₋ in U_h, as in Seo's script": ("input_vjp", lambda bars, p, xs, hs, g, k, d: (bars[0]._replace(U_h=outer(hs, k.a_h * d)), bars[1]), {"U_h"}),
    },
    "gru_reset_after": BOTH_GRUS | {
        "no tanh′": ("linearize", lambda k, g, h: k._replace(a_h=g.z), {"W_h", "b_h", "xs"}),
        "no r on q̄": ("linearize", lambda k, g, h: k._replace(q=k.a_h), {"U_h", "c_h", "h0"}),
        "h₋ for q in r̄": ("linearize", lambda k, g, h: k._replace(a_r=k.a_r / g.q * h), gate("r") | {"xs", "h0"}),
        "no U_h path": ("state_vjp", lambda out, P_T, k, d: out - (k.q * d) @ P_T.U_h, {"h0"}),
        "no U_r path": ("state_vjp", lambda out, P_T, k, d: out - (k.a_r * d) @ P_T.U_r, {"h0"}),
        "c̄_h taken for b̄_h": ("input_vjp", lambda bars, *args: (bars[0]._replace(c_h=bars[0].b_h), bars[1]), {"c_h"}),
    },
    "lstm_peephole": {
        "no tanh′ of c": ("linearize", lambda k, g, h: k._replace(c=g.o), gate("i", "f", "g") | {"p_i", "p_f", "xs", "h0.h", "h0.c"}),
        "no σ′ of f": ("linearize", lambda k, g, h: k._replace(a_f=h.c), gate("f") | {"p_f", "xs", "h0.h", "h0.c"}),
        "c for c₋ in f̄": ("linearize", lambda k, g, h: k._replace(a_f=g.c * g.f * (1 - g.f)), gate("f") | {"p_f", "xs", "h0.h", "h0.c"}),
        "i and g swapped": ("linearize", lambda k, g, h: k._replace(a_i=k.a_g, a_g=k.a_i), gate("i", "g") | {"p_i", "xs", "h0.h", "h0.c"}),
        "i for f on the carry": ("linearize", lambda k, g, h: k._replace(keep=g.i), {"h0.c"}),
        "no memory carried back": ("state_vjp", lambda out, P_T, k, d: out._replace(c=0 * out.c), {"h0.c"}),
        "the incoming c̄ ignored": ("state_vjp", lambda out, P_T, k, d: LSTM_ADJOINT.state_vjp(P_T, k, d._replace(c=0 * d.c)), {"h0.h", "h0.c"}),
        "no U_o path": ("state_vjp", lambda out, P_T, k, d: out._replace(h=out.h - (k.a_o * d.h) @ P_T.U_o), {"h0.h"}),
        "U_o not transposed": ("state_vjp", lambda out, P_T, k, d: out._replace(h=out.h + (k.a_o * d.h) @ (P_T.U_o.T - P_T.U_o)), {"h0.h"}),
        "c₋ for c in p̄_o": ("input_vjp", lambda bars, p, xs, hs, g, k, d: (bars[0]._replace(p_o=(hs.c * k.a_o * d.h).sum((0, 1))), bars[1]), {"p_o"}),
        "U_i and U_f swapped": ("input_vjp", swapped("U_i", "U_f"), {"U_i", "U_f"}),
        "b_g averaged over the batch": ("input_vjp", mean_bias("b_g"), {"b_g"}),
        "p_i off by 1e-3": ("input_vjp", scaled("p_i", 1 + 1e-3), {"p_i"}),
        "W_f off by 1e-5": ("input_vjp", scaled("W_f", 1 + 1e-5), {"W_f"}),
        "one element of W_g off by 1 %": ("input_vjp", one_element("W_g"), {"W_g"}),
        "x̄ without the output gate": ("input_vjp", lambda bars, p, xs, hs, g, k, d: (bars[0], bars[1] - (k.a_o * d.h) @ p.W_o.T), {"xs"}),
    },
}  # fmt: skip
FAULTS["lstm"] = {
    fault: (field, make, {leaf for leaf in wrong if leaf[:2] != "p_"})
    for fault, (field, make, wrong) in FAULTS["lstm_peephole"].items()
    if "p̄" not in fault and "p_" not in fault and fault not in ("the incoming c̄ ignored",)
}
# Without peepholes no gate depends on the memory. So f̄ and ī do not reach c₋, and ō reaches no
# other gate.
for fault in ("no σ′ of f", "c for c₋ in f̄", "i and g swapped"):
    FAULTS["lstm"][fault][2].discard("h0.c")


def with_fault(cell: gj.Cell, line: Line) -> gj.Cell:
    """Returns `cell` with a wrong line instead of the right one."""
    function, make_wrong, _ = line
    adjoint: Any = cell.adjoint
    right = getattr(adjoint, function)
    return replace(cell, adjoint=replace(adjoint, **{function: lambda *args: make_wrong(right(*args), *args)}))

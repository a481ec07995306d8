"""Forward and reverse mode from one derivation: a custom JVP whose linear recurrence knows its transpose.

    ḣ_t = push(k_t, ḣ_{t-1}) + w_t,   ws = drive(…) for all t          the tangent: a scan
    δ_{t-1} = pull(k_t, δ_t), …                                        its transpose: the reverse scan

The recurrence is the solution of a linear system, (1 − shift·push) ḣs = ws, so that `lax.custom_linear_solve` can be given both
scans: forward mode solves, reverse mode solves the transposed system, and every second order follows.

`recursion` saves less and is a little faster: this is for those who need `jax.jvp`, `jax.jacfwd` or `jax.linearize`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax.bptt.cell import Cell
from gru_jax.bptt.linalg import transposed
from gru_jax.bptt.recursion import previous, states


class TangentRow(NamedTuple):
    """What a cell must bring for both modes; the fields are documented in `Cell`."""

    coefficients: Callable[[Any, Any], Any]
    push: Callable[[Any, Any, Any], Any]
    drive: Callable[[Any, Any, Any, Any, Any, Any, Any], Any]
    pull: Callable[[Any, Any, Any], Any]


def tangent_row(cell: Cell) -> TangentRow | None:
    """The row of `cell`, or None where it brings not all of it."""
    if cell.coefficients is None or cell.push is None or cell.drive is None or cell.pull is None:
        return None
    return TangentRow(cell.coefficients, cell.push, cell.drive, cell.pull)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def states_both(cell: Cell, reverse: bool, params: Any, xs: Any, h0: Any) -> Any:
    """The state after every step."""
    return states(cell, reverse, params, xs, h0)[1]


@states_both.defjvp
def states_both_jvp(cell: Cell, reverse: bool, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """(hs, ḣs): the tangent by `drive` for all t at once and a scan of `push`."""
    params, xs, h0 = primals
    params_dot, xs_dot, h0_dot = tangents
    row = tangent_row(cell)
    assert row is not None  # recursion_both is called with such a cell only
    hs = states_both(cell, reverse, params, xs, h0)
    h_prevs = previous(h0, hs, reverse)
    g = cell.gates(params, cell.project(params, xs), h_prevs)
    k = row.coefficients(g, h_prevs)
    ws = row.drive(params, params_dot, xs, xs_dot, h_prevs, g, k)
    push, pull = partial(row.push, params), partial(row.pull, transposed(params))
    zero = jax.tree.map(jnp.zeros_like, h0)

    def solve(_, ws):
        def step(h_dot, at_t):
            k_t, w = at_t
            h_dot = _add(push(k_t, h_dot), w)
            return h_dot, h_dot

        return lax.scan(step, zero, (k, ws), reverse=reverse)[1]

    def transpose_solve(_, hs_bar):
        def step(delta, at_t):
            k_t, h_bar = at_t
            h_bar = _add(delta, h_bar)
            return pull(k_t, h_bar), h_bar

        return lax.scan(step, zero, (k, hs_bar), reverse=not reverse)[1]

    def system(hs_dot):
        pushed = push(k, previous(zero, hs_dot, reverse))
        return jax.tree.map(jnp.subtract, hs_dot, pushed)

    if xs.shape[0]:
        first = -1 if reverse else 0
        pushed = push(jax.tree.map(lambda k: k[first], k), h0_dot)
        ws = jax.tree.map(lambda w, p: w.at[first].add(p), ws, pushed)
    return hs, lax.custom_linear_solve(system, ws, solve, transpose_solve)


def recursion_both(cell: Cell, reverse: bool, params: Any, xs: Any, h0: Any) -> tuple[Any, Any]:
    """(h_last, ys), differentiable in both modes."""
    hs = states_both(cell, reverse, params, xs, h0)
    last = 0 if reverse else -1
    h_last = jax.tree.map(lambda h: h[last], hs) if xs.shape[0] else h0
    return h_last, cell.output(hs)


def _add(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.add, one, other)

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

from gru_jax._engine.recursion import How, Kept, forward, outputs_of, previous
from gru_jax._engine.step_flags import When, only_counted, reset, select, zeros_like
from gru_jax.cell import Cell
from gru_jax.ops import lowered, transposed


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
def states_both(cell: Cell, how: How, params: Any, xs: Any, h0: Any, reset_state: Any, when: When) -> Any:
    """The state after every step."""
    return forward(cell, how, Kept(hs=True), params, xs, h0, reset_state, when)[1].hs


@states_both.defjvp
def states_both_jvp(cell: Cell, how: How, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """(hs, ḣs): the tangent by `drive` for all t at once and a scan of `push`.

    With the lines of `when`: ḣ_t = m ? push(k, r ? 0 : ḣ_{t-1}) : ḣ_{t-1}, plus ws = m ? w + (r ? push(k, reset_state˙) : 0) : 0.
    """
    params, xs, h0, reset_state, when = primals
    row = tangent_row(cell)
    assert row is not None  # recursion_both is called with such a cell only
    hs = states_both(cell, how, *primals)

    params_dot, xs_dot, h0_dot, reset_state_dot, _ = tangents
    params, params_dot = lowered(params, how.compute_dtype), lowered(params_dot, how.compute_dtype)
    xs, xs_dot = only_counted(when, xs), only_counted(when, xs_dot)  # (I)
    h_prevs = reset(when, reset_state, previous(h0, hs, how.reverse))  # (R)
    g = cell.gates(params, cell.project(params, xs), h_prevs)
    k = row.coefficients(g, h_prevs)
    push, pull = partial(row.push, params), partial(row.pull, transposed(params))
    zero = zeros_like(h0)

    ws = row.drive(params, params_dot, xs, xs_dot, h_prevs, g, k)
    if reset_state is not None:
        at_resets = select(when.resets, k, zeros_like(k))
        everywhere = jax.tree.map(lambda dot, w: jnp.broadcast_to(dot, w.shape), reset_state_dot, ws)
        ws = _add(ws, select(when.resets, push(at_resets, everywhere), zeros_like(ws)))
    ws = only_counted(when, ws)  # (M)

    def step(k_t, when_t, h_dot):
        return select(when_t.mask, push(k_t, reset(when_t, None, h_dot)), h_dot)  # (R) (M)

    def step_transposed(k_t, when_t, h_bar):
        pulled = pull(k_t, only_counted(when_t, h_bar))  # (M)ᵀ
        return select(when_t.mask, reset(when_t, None, pulled), h_bar)  # (R)ᵀ (M)ᵀ

    def solve(_, ws):
        def forward(h_dot, at_t):
            k_t, when_t, w = at_t
            h_dot = _add(step(k_t, when_t, h_dot), w)
            return h_dot, h_dot

        return lax.scan(forward, zero, (k, when, ws), reverse=how.reverse)[1]

    def transpose_solve(_, hs_bar):
        def backward(delta, at_t):
            k_t, when_t, h_bar = at_t
            h_bar = _add(delta, h_bar)
            return step_transposed(k_t, when_t, h_bar), h_bar

        return lax.scan(backward, zero, (k, when, hs_bar), reverse=not how.reverse)[1]

    def system(hs_dot):
        return jax.tree.map(jnp.subtract, hs_dot, step(k, when, previous(zero, hs_dot, how.reverse)))

    if jax.tree.leaves(hs)[0].shape[0]:
        first = -1 if how.reverse else 0
        at_first = lambda tree: jax.tree.map(lambda leaf: leaf[first], tree)
        from_h0 = step(at_first(k), at_first(when), h0_dot)
        ws = jax.tree.map(lambda w, p: w.at[first].add(p), ws, from_h0)
    return hs, lax.custom_linear_solve(system, ws, solve, transpose_solve)


def recursion_both(cell: Cell, how: How, params: Any, xs: Any, h0: Any, reset_state: Any, when: When) -> tuple[Any, Any]:
    """(h_last, outputs), differentiable in both modes."""
    hs = states_both(cell, how, params, xs, h0, reset_state, when)
    last = 0 if how.reverse else -1
    h_last = jax.tree.map(lambda h: h[last], hs) if jax.tree.leaves(hs)[0].shape[0] else h0
    return h_last, outputs_of(cell, how, when, hs)


def _add(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.add, one, other)

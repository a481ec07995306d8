"""The recursion over time and its transpose: the one custom VJP of the project.

    forward    us = project(xs)                                 for all t
               h_t = update(gates(u_t, h_{t-1}), h_{t-1})       lax.scan
    backward   g, k = gates(us, h_prevs), coefficients(…)       for all t, from the saved states
               h̄_t     = ȳ_t + δ_t,   δ_T = h̄_last              reverse lax.scan; carries δ and nothing else
               δ_{t-1} = pull(k_t, h̄_t)
               params̄, x̄s = collect(…, h̄s)                      for all t: one matmul per weight

`jax.grad` of the forward scan stores every intermediate (nine arrays a step for a GRU) and adds up the weight gradients inside
the loop. Here nothing is saved but the states, which are the outputs themselves.

The functions are positional and check nothing: `unroll` has.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax.bptt.adjoint import adjoint_row
from gru_jax.bptt.cell import Cell
from gru_jax.bptt.linalg import transposed


def recursion_ref(cell: Cell, reverse: bool, params: Any, xs: Any, h0: Any) -> tuple[Any, Any]:
    """(h_last, ys) of the plain scan: the forward pass, and under `jax.grad` the oracle."""
    h_last, hs = states(cell, reverse, params, xs, h0)
    return h_last, cell.output(hs)


class Saved(NamedTuple):
    """What the forward pass keeps for the backward pass: its arguments, and one array."""

    params: Any
    xs: Any
    h0: Any
    hs: Any  # the states after each step; for a cell whose output is its state these are `ys`, so they cost nothing


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recursion(cell: Cell, reverse: bool, params: Any, xs: Any, h0: Any) -> tuple[Any, Any]:
    """`recursion_ref` with the derived backward pass."""
    return recursion_ref(cell, reverse, params, xs, h0)


def recursion_fwd(cell: Cell, reverse: bool, params: Any, xs: Any, h0: Any) -> tuple[tuple[Any, Any], Saved]:
    """`recursion`, and what its backward pass needs. Calls `states` and not `recursion`: jax.hessian goes forward through it."""
    h_last, hs = states(cell, reverse, params, xs, h0)
    return (h_last, cell.output(hs)), Saved(params, xs, h0, hs)


def recursion_bwd(cell: Cell, reverse: bool, saved: Saved, cotangents: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """The cotangents of params, xs and h0 from those of h_last and ys."""
    params, xs, h0, hs = saved
    h_last_bar, ys_bar = cotangents
    row = adjoint_row(cell)

    h_prevs = previous(h0, hs, reverse)
    g = row.gates(params, cell.project(params, xs), h_prevs)
    k = row.coefficients(g, h_prevs)
    params_T = transposed(params)

    def pull_step(delta, at_t):
        k_t, y_bar = at_t
        (through_output,) = jax.linear_transpose(cell.output, delta)(y_bar)
        h_bar = jax.tree.map(jnp.add, delta, through_output)
        return row.pull(params_T, k_t, h_bar), h_bar

    h0_bar, h_bars = lax.scan(pull_step, h_last_bar, (k, ys_bar), reverse=not reverse)
    params_bar, xs_bar = row.collect(params, xs, h_prevs, g, k, h_bars)
    return params_bar, xs_bar, h0_bar


recursion.defvjp(recursion_fwd, recursion_bwd)


def states(cell: Cell, reverse: bool, params: Any, xs: Any, h0: Any) -> tuple[Any, Any]:
    """The state after the last step, and after every step."""

    def step(h, u):
        h = cell.update(cell.gates(params, u, h), h)
        return h, h

    return lax.scan(step, h0, cell.project(params, xs), reverse=reverse)


def previous(h0: Any, hs: Any, reverse: bool) -> Any:
    """h_{t-1} for every t, in the direction of travel."""

    def shift(first, h):
        steps = h.shape[0]
        pair = [h[1:], first[None]] if reverse else [first[None], h[:-1]]
        return jnp.concatenate(pair)[:steps]  # no step, no previous state

    return jax.tree.map(shift, h0, hs)

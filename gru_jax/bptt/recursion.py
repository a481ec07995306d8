"""The recursion over time and its transpose: the one custom VJP of the project.

    forward    us = project(xs)                                 for all t
               h_t = update(gates(u_t, h_{t-1}), h_{t-1})       lax.scan
    backward   g, k = gates(us, h_prevs), coefficients(…)       for all t, from the saved states
               h̄_t     = ȳ_t + δ_t,   δ_T = h̄_last              reverse lax.scan; carries δ and nothing else
               δ_{t-1} = pull(k_t, h̄_t)
               params̄, x̄s = collect(…, h̄s)                      for all t: one matmul per weight

What lengths, masks and resets do to it is derived in `when`; its lines (I), (R), (M), (O) are tagged here.

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
from gru_jax.bptt.linalg import lowered, transposed
from gru_jax.bptt.when import When, only_counted, reset, select, zeros_like


class How(NamedTuple):
    """What is known before tracing."""

    reverse: bool = False
    outputs: str = "all"  # "last", "states"; for `run` also "ys and states"
    compute_dtype: Any = None


def recursion_ref(cell: Cell, how: How, params: Any, xs: Any, h0: Any, reset_state: Any, when: When) -> tuple[Any, Any]:
    """(h_last, outputs) of the plain scan: the forward pass, and under `jax.grad` the oracle."""
    h_last, hs = states(cell, how, params, xs, h0, reset_state, when, stacked=how.outputs != "last")
    return h_last, outputs_of(cell, how, when, hs)


class Saved(NamedTuple):
    """What the forward pass keeps for the backward pass: its arguments, and one array."""

    params: Any
    xs: Any
    h0: Any
    reset_state: Any
    when: When
    hs: Any  # the states after each step; for a cell whose output is its state these are `ys`, so they cost nothing


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recursion(cell: Cell, how: How, params: Any, xs: Any, h0: Any, reset_state: Any, when: When) -> tuple[Any, Any]:
    """`recursion_ref` with the derived backward pass."""
    return recursion_ref(cell, how, params, xs, h0, reset_state, when)


def recursion_fwd(
    cell: Cell, how: How, params: Any, xs: Any, h0: Any, reset_state: Any, when: When
) -> tuple[tuple[Any, Any], Saved]:
    """`recursion`, and what its backward pass needs. Calls `states` and not `recursion`: jax.hessian goes forward through it."""
    h_last, hs = states(cell, how, params, xs, h0, reset_state, when)
    return (h_last, outputs_of(cell, how, when, hs)), Saved(params, xs, h0, reset_state, when, hs)


def recursion_bwd(cell: Cell, how: How, saved: Saved, cotangents: tuple[Any, Any]) -> tuple[Any, ...]:
    """The cotangents of params, xs, h0 and reset_state from those of h_last and the outputs."""
    params, xs, h0, reset_state, when, hs = saved
    h_last_bar, outputs_bar = cotangents
    row = adjoint_row(cell)

    low, counted_xs = lowered(params, how.compute_dtype), only_counted(when, xs)  # (I)
    h_prevs = reset(when, reset_state, previous(h0, hs, how.reverse))  # (R)
    g = row.gates(low, cell.project(low, counted_xs), h_prevs)
    k = row.coefficients(g, h_prevs)
    low_T = transposed(low)

    def through_output(h_bar, bar, when_t):
        if how.outputs == "all":
            (bar,) = jax.linear_transpose(cell.output, h_bar)(only_counted(when_t, bar))
        return h_bar if how.outputs == "last" else jax.tree.map(jnp.add, h_bar, bar)

    def pull_step(carry, at_t):
        delta, reset_bar = carry
        k_t, when_t, bar = at_t
        h_bar = through_output(delta, bar, when_t)  # (O)ᵀ
        counted = only_counted(when_t, h_bar)  # (M)ᵀ
        pulled = row.pull(low_T, k_t, counted)  # (S)ᵀ
        if reset_state is not None:
            to_reset_state = select(when_t.resets, pulled, zeros_like(pulled))
            reset_bar = jax.tree.map(jnp.add, reset_bar, to_reset_state)  # (R)ᵀ
        passed = reset(when_t, None, pulled)  # (R)ᵀ
        return (select(when_t.mask, passed, h_bar), reset_bar), counted  # (M)ᵀ

    wide = jax.tree.map(lambda h: jnp.zeros_like(h, jnp.promote_types(h.dtype, jnp.float32)), reset_state)
    carry, at = (h_last_bar, wide), (k, when, outputs_bar)
    steps = jax.tree.leaves(hs)[0].shape[0]
    (h0_bar, reset_bar), h_bars = lax.scan(pull_step, carry, at, reverse=not how.reverse, length=steps)
    params_bar, xs_bar = row.collect(low, counted_xs, h_prevs, g, k, h_bars)
    return _like(params_bar, params), only_counted(when, xs_bar), h0_bar, _like(reset_bar, reset_state), None


recursion.defvjp(recursion_fwd, recursion_bwd)


def states(
    cell: Cell, how: How, params: Any, xs: Any, h0: Any, reset_state: Any, when: When, *, stacked: bool = True
) -> tuple[Any, Any]:
    """The state after the last step, and after every step unless `stacked` is False."""
    params, xs = lowered(params, how.compute_dtype), only_counted(when, xs)  # (I)

    def step(h_prev, at_t):
        u, when_t = at_t
        h_prev = reset(when_t, reset_state, h_prev)  # (R)
        h = cell.update(cell.gates(params, u, h_prev), h_prev)  # (S)
        h = select(when_t.mask, h, h_prev)  # (M)
        return h, h if stacked else None

    return lax.scan(step, h0, (cell.project(params, xs), when), reverse=how.reverse)


def outputs_of(cell: Cell, how: How, when: When, hs: Any) -> Any:
    """What `unroll` returns beside the last state: outputs, zero where a step does not count; states; or None."""
    if how.outputs == "all":
        return only_counted(when, cell.output(hs))  # (O)
    return hs if how.outputs == "states" else None


def previous(h0: Any, hs: Any, reverse: bool) -> Any:
    """h_{t-1} for every t, in the direction of travel."""

    def shift(first, h):
        steps = h.shape[0]
        pair = [h[1:], first[None]] if reverse else [first[None], h[:-1]]
        return jnp.concatenate(pair)[:steps]  # no step, no previous state

    return jax.tree.map(shift, h0, hs)


def _like(tree: Any, reference: Any) -> Any:
    """`tree` in the dtypes of `reference`; what is no number there has no cotangent."""
    cast = lambda ref, leaf: leaf.astype(ref.dtype) if jnp.issubdtype(ref.dtype, jnp.floating) else leaf
    return jax.tree.map(cast, reference, tree)

"""The recursion over time and its transpose: the one custom VJP of the project.

    forward    us = project(xs)                                 for all t of a block
               h_t = update(gates(u_t, h_{t-1}), h_{t-1})       lax.scan
    backward   g, k = gates(us, h_prevs), coefficients(…)       for all t of a block, from the saved states
               h̄_t     = ȳ_t + δ_t,   δ_T = h̄_last              reverse lax.scan; carries δ (and a reset state's cotangent)
               δ_{t-1} = pull(k_t, h̄_t)
               params̄ += …,  x̄s = collect(…, h̄s)               for all t of a block: one matmul per weight

What lengths, masks and resets do to it is derived in `when`; its lines (I), (R), (M), (O) are tagged here. How time is cut into
blocks, and what is kept from the forward pass, is chosen in `blocks`.

`jax.grad` of the forward scan stores every intermediate (nine arrays a step for a GRU) and adds up the weight gradients inside
the loop. Here nothing has to be saved but the states, most of which are the outputs themselves; the gates too where that is faster;
or, where only the last state is asked for, the state that each block starts from.

The functions are positional and check nothing: `unroll` has.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._engine.blocks import scan_blocks
from gru_jax._engine.local_vjp import adjoint_row
from gru_jax._engine.step_flags import When, only_counted, reset, select, zeros_like
from gru_jax.cell import Cell
from gru_jax.ops import lowered, sum_dtype, transposed

UNROLL = 1  # steps in a loop's body; experiments.benchmark measures others


class How(NamedTuple):
    """What is known before tracing."""

    reverse: bool = False
    outputs: str = "all"  # "last", "states"; for `run` also "ys and states"
    compute_dtype: Any = None
    residuals: str = "auto"  # "states", "gates"; after `blocks.chosen` also "starts", and never "auto"
    block_size: int | None = None  # None: by the shapes, as `blocks.chosen` says; all of time at once in the functions here
    value_block_size: int | None = None  # the same where nothing is differentiated; `blocks.chosen` sets it


class Kept(NamedTuple):
    """What a forward pass keeps: the states after each step, the gates of each step, the state that each block starts from."""

    hs: Any = None
    gates: Any = None
    starts: Any = None


class Saved(NamedTuple):
    """What the forward pass keeps for the backward pass: its arguments, and one array, or a few."""

    params: Any
    xs: Any
    h0: Any
    reset_state: Any
    when: When
    kept: Kept  # for a cell whose output is its state, `hs` are `ys`, so they cost nothing


def recursion_ref(cell: Cell, how: How, params: Any, xs: Any, h0: Any, reset_state: Any, when: When) -> tuple[Any, Any]:
    """(h_last, outputs) of the plain scan: the forward pass, and under `jax.grad` the oracle."""
    keep = Kept(hs=how.outputs != "last")
    h_last, kept = forward(cell, how, keep, params, xs, h0, reset_state, when)
    return h_last, outputs_of(cell, how, when, kept.hs)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recursion(cell: Cell, how: How, params: Any, xs: Any, h0: Any, reset_state: Any, when: When) -> tuple[Any, Any]:
    """`recursion_ref` with the derived backward pass."""
    return recursion_ref(cell, how._replace(block_size=how.value_block_size), params, xs, h0, reset_state, when)


def recursion_fwd(
    cell: Cell, how: How, params: Any, xs: Any, h0: Any, reset_state: Any, when: When
) -> tuple[tuple[Any, Any], Saved]:
    """`recursion`, and what its backward pass needs. Calls `forward` and not `recursion`: jax.hessian goes forward through it."""
    keep = Kept(hs=how.residuals != "starts", gates=how.residuals == "gates", starts=how.residuals == "starts")
    h_last, kept = forward(cell, how, keep, params, xs, h0, reset_state, when)
    return (h_last, outputs_of(cell, how, when, kept.hs)), Saved(params, xs, h0, reset_state, when, kept)


def recursion_bwd(cell: Cell, how: How, saved: Saved, cotangents: tuple[Any, Any]) -> tuple[Any, ...]:
    """The cotangents of params, xs, h0 and reset_state from those of h_last and the outputs."""
    params, xs, h0, reset_state, when, kept = saved
    h_last_bar, outputs_bar = cotangents
    row = adjoint_row(cell)
    low = lowered(params, how.compute_dtype)
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

    def pull_block(carry, over_time, h_start):
        delta, reset_bar, params_bar = carry
        xs, when, bars, hs, g = over_time
        counted_xs = only_counted(when, xs)  # (I)
        us = None if how.residuals == "gates" else cell.project(low, counted_xs)
        if how.residuals == "starts":
            _, (hs, g, _) = forward_steps(cell, how, Kept(hs=True, gates=True), low, us, h_start, reset_state, when)
        h_prevs = reset(when, reset_state, previous(h_start, hs, how.reverse))  # (R)
        if how.residuals == "states":
            g = row.gates_from_state(hs) if row.gates_from_state else row.gates(low, us, h_prevs)
        k = row.coefficients(g, h_prevs)
        steps = jax.tree.leaves(hs)[0].shape[0]
        (delta, reset_bar), h_bars = lax.scan(
            pull_step, (delta, reset_bar), (k, when, bars), reverse=not how.reverse, length=steps, unroll=UNROLL
        )
        bar, xs_bar = row.collect(low, counted_xs, h_prevs, g, k, h_bars)
        if params_bar is not None:  # there are blocks to add up
            bar = jax.tree.map(lambda total, part: total + part.astype(total.dtype), params_bar, bar)
        return (delta, reset_bar, bar), only_counted(when, xs_bar), None

    starts = block_starts(h0, kept.hs, how) if kept.starts is None else kept.starts
    blocks = jax.tree.leaves(starts)[0].shape[0]
    nothing = lambda tree: jax.tree.map(lambda leaf: jnp.zeros_like(leaf, sum_dtype(leaf)), tree)
    carry = h_last_bar, nothing(reset_state), nothing(params) if blocks > 1 else None
    over_time = xs, when, outputs_bar, kept.hs, kept.gates
    (h0_bar, reset_bar, params_bar), xs_bar, _ = scan_blocks(
        pull_block, carry, over_time, starts, how.block_size, reverse=not how.reverse
    )
    return _like(params_bar, params), xs_bar, h0_bar, _like(reset_bar, reset_state), None


recursion.defvjp(recursion_fwd, recursion_bwd)


def forward(cell: Cell, how: How, keep: Kept, params: Any, xs: Any, h0: Any, reset_state: Any, when: When) -> tuple[Any, Kept]:
    """The state after the last step, and what `keep` says is to be kept."""
    low = lowered(params, how.compute_dtype)

    def run_block(h_start, over_time, _):
        xs, when = over_time
        us = cell.project(low, only_counted(when, xs))  # (I)
        h_last, kept = forward_steps(cell, how, keep, low, us, h_start, reset_state, when)
        return h_last, kept, h_start if keep.starts else None

    h_last, kept, starts = scan_blocks(run_block, h0, (xs, when), None, how.block_size, reverse=how.reverse)
    return h_last, kept._replace(starts=starts)


def forward_steps(
    cell: Cell, how: How, keep: Kept, params: Any, us: Any, h_start: Any, reset_state: Any, when: When
) -> tuple[Any, Kept]:
    """The steps of one block."""
    row = adjoint_row(cell) if keep.gates else None

    def step(h_prev, at_t):
        u, when_t = at_t
        h_prev = reset(when_t, reset_state, h_prev)  # (R)
        g = cell.gates(params, u, h_prev)  # (S)
        h = select(when_t.mask, cell.update(g, h_prev), h_prev)  # (S) (M)
        return h, Kept(h if keep.hs else None, row.kept(u, g) if row else None)

    return lax.scan(step, h_start, (us, when), reverse=how.reverse, unroll=UNROLL)


def outputs_of(cell: Cell, how: How, when: When, hs: Any) -> Any:
    """What `unroll` returns beside the last state: outputs, zero where a step does not count; states; or None."""
    if how.outputs == "all":
        return only_counted(when, cell.output(hs))  # (O)
    return hs if how.outputs == "states" else None


def block_starts(h0: Any, hs: Any, how: How) -> Any:
    """The state that each block starts from in the direction of travel, of the states after each step; in the order of time."""
    steps = jax.tree.leaves(hs)[0].shape[0]
    size = how.block_size or max(steps, 1)
    edges = slice(size, None, size) if how.reverse else slice(size - 1, max(steps - 1, 0), size)
    after = jax.tree.map(lambda h: h[edges], hs)
    pair = lambda first, rest: jnp.concatenate([rest, first[None]] if how.reverse else [first[None], rest])
    return jax.tree.map(pair, h0, after)


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

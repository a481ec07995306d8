"""The recursion over time and its transpose: the one custom VJP of the project.

    forward    us = project(xs)                                 for all t of a block
               h_t = update(gates(u_t, h_{t-1}), h_{t-1})       lax.scan
    backward   g, k = gates(us, h_prevs), linearize(…)          for all t of a block, from the saved states
               h̄_t     = ȳ_t + δ_t,   δ_T = h̄_last              reverse lax.scan; carries δ (and a reset state's cotangent)
               δ_{t-1} = state_vjp(k_t, h̄_t)
               params̄ += …,  x̄s = input_vjp(…, h̄s)             for all t of a block: one matmul per weight

`step_flags` derives what lengths, masks and resets do to it; its lines (I), (R), (M), (O) are
tagged here. `plan` decides how time is cut into blocks and what is saved.

`jax.grad` of the forward scan saves every intermediate value, nine arrays a step for a GRU, and
adds up the weight gradients inside the loop. Here only the states are saved, most of which are the
outputs themselves; the gates too where that is faster; or only the state that each block starts
from, where just the last state is wanted.

The functions are positional and expect validated arguments.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax import ops
from gru_jax._engine.blocks import scan_blocks
from gru_jax._engine.local_vjp import backward_functions
from gru_jax._engine.plan import Plan
from gru_jax._engine.products import joined_products
from gru_jax._engine.step_flags import StepFlags, apply_resets, tree_where, tree_zeros_like, zero_masked
from gru_jax._engine.weights import lower_matrices, transpose_matrices

Returns = Literal["outputs", "states", "last"]


@dataclass(frozen=True)
class Loop:
    """The static settings of a recursion."""

    plan: Plan
    returns: Returns = "outputs"  # beside the last state
    reverse: bool = False
    compute_dtype: Any = None


@dataclass(frozen=True)
class Save:
    """What a forward pass is asked to save."""

    states: bool = False
    gates: bool = False
    block_starts: bool = False


class Saved(NamedTuple):
    """What a forward pass has saved: the state after each step, the gates of each step, the state
    that each block starts from.

    None where it was not asked for.
    """

    states: Any = None
    gates: Any = None
    block_starts: Any = None


class Residuals(NamedTuple):
    """What the forward pass hands to the backward pass: its arguments, and what it saved."""

    params: Any
    xs: Any
    h0: Any
    reset_state: Any
    flags: StepFlags
    saved: Saved  # where the output is the state itself, the states are the outputs and cost nothing


def recursion_ref(cell: Any, loop: Loop, params: Any, xs: Any, h0: Any, reset_state: Any, flags: StepFlags) -> tuple[Any, Any]:
    """(h_last, outputs) of the plain scan: the forward pass, and under `jax.grad` the reference."""
    h_last, saved = forward(cell, loop, Save(states=loop.returns != "last"), params, xs, h0, reset_state, flags)
    return h_last, outputs_of(cell, loop, flags, saved.states)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recursion(cell: Any, loop: Loop, params: Any, xs: Any, h0: Any, reset_state: Any, flags: StepFlags) -> tuple[Any, Any]:
    """`recursion_ref` with the derived backward pass."""
    return recursion_ref(cell, loop, params, xs, h0, reset_state, flags)


def recursion_fwd(
    cell: Any, loop: Loop, params: Any, xs: Any, h0: Any, reset_state: Any, flags: StepFlags
) -> tuple[tuple[Any, Any], Residuals]:
    """`recursion`, and what its backward pass needs.

    It calls `forward`, not `recursion`: jax.hessian goes forward through it.
    """
    kind = loop.plan.residuals
    gates = kind == "gates" and backward_functions(cell).gates_from_state is None  # the states hold them otherwise
    save = Save(states=kind != "block_starts", gates=gates, block_starts=kind == "block_starts")
    h_last, saved = forward(cell, loop, save, params, xs, h0, reset_state, flags)
    return (h_last, outputs_of(cell, loop, flags, saved.states)), Residuals(params, xs, h0, reset_state, flags, saved)


# compiled once where the gradient is taken outside `jit`; inside one it is inlined
@partial(jax.jit, static_argnums=(0, 1), inline=True)
def recursion_bwd(cell: Any, loop: Loop, residuals: Residuals, cotangents: tuple[Any, Any]) -> tuple[Any, ...]:
    """Computes the cotangents of params, xs, h0 and reset_state from those of h_last and the
    outputs.
    """
    params, xs, h0, reset_state, flags, saved = residuals
    h_last_bar, outputs_bar = cotangents
    kind, plan = loop.plan.residuals, loop.plan
    backward = backward_functions(cell)
    weights = lower_matrices(params, loop.compute_dtype)
    weights_T = transpose_matrices(weights)

    def add_output_cotangent(h_bar, bar, flags_t):
        if loop.returns == "outputs":
            (bar,) = jax.linear_transpose(cell.output, h_bar)(zero_masked(flags_t, bar))
        return h_bar if loop.returns == "last" else jax.tree.map(jnp.add, h_bar, bar)

    def step_back(carry, at_t):
        delta, reset_bar = carry
        k_t, flags_t, bar = at_t
        h_bar = add_output_cotangent(delta, bar, flags_t)  # (O)ᵀ
        valid_h_bar = zero_masked(flags_t, h_bar)  # (M)ᵀ
        with joined_products(plan.join_in_loop):
            h_prev_bar = backward.state_vjp(weights_T, k_t, valid_h_bar)  # (S)ᵀ
        if reset_state is not None:
            to_reset_state = tree_where(flags_t.resets, h_prev_bar, tree_zeros_like(h_prev_bar))
            reset_bar = jax.tree.map(jnp.add, reset_bar, to_reset_state)  # (R)ᵀ
        passed_on = apply_resets(flags_t, None, h_prev_bar)  # (R)ᵀ
        return (tree_where(flags_t.mask, passed_on, h_bar), reset_bar), valid_h_bar  # (M)ᵀ

    def block_back(carry, over_time, h_start):
        delta, reset_bar, params_bar = carry
        xs, flags, bars, hs, g = over_time
        valid_xs = zero_masked(flags, xs)  # (I)
        if kind == "block_starts":
            save = Save(states=True, gates=True)
            _, (hs, g, _) = forward_block(cell, loop, save, weights, valid_xs, h_start, reset_state, flags)
        h_prevs = apply_resets(flags, reset_state, previous_states(h_start, hs, loop.reverse))  # (R)
        if backward.gates_from_state is not None:
            g = backward.gates_from_state(hs)
        elif kind == "states":
            with joined_products(plan.join_outside):
                g = backward.gates(weights, cell.project(weights, valid_xs), h_prevs)
        k = backward.linearize(g, h_prevs)
        at_all_t = k, flags, bars
        # scan knows the steps from its arrays, and takes no symbolic length of jax.export beside them
        length = None if jax.tree.leaves(at_all_t) else _steps(hs)
        (delta, reset_bar), h_bars = lax.scan(step_back, (delta, reset_bar), at_all_t, reverse=not loop.reverse, length=length)
        with joined_products(plan.join_outside):
            bar, xs_bar = backward.input_vjp(weights, valid_xs, h_prevs, g, k, h_bars)
        if params_bar is not None:  # there are several blocks to add up
            bar = jax.tree.map(lambda total, part: total + part.astype(total.dtype), params_bar, bar)
        return (delta, reset_bar, bar), zero_masked(flags, xs_bar), None  # (I)ᵀ

    starts = block_starts(h0, saved.states, loop) if saved.block_starts is None else saved.block_starts
    zeros = lambda tree: jax.tree.map(lambda leaf: jnp.zeros_like(leaf, ops.sum_dtype(leaf)), tree)
    carry = h_last_bar, zeros(reset_state), zeros(params) if _steps(starts) > 1 else None
    over_time = xs, flags, outputs_bar, saved.states, saved.gates
    (h0_bar, reset_bar, params_bar), xs_bar, _ = scan_blocks(
        block_back, carry, over_time, starts, loop.plan.block_size, reverse=not loop.reverse
    )
    return _cast_like(params_bar, params), xs_bar, h0_bar, _cast_like(reset_bar, reset_state), None


recursion.defvjp(recursion_fwd, recursion_bwd)


def forward(
    cell: Any, loop: Loop, save: Save, params: Any, xs: Any, h0: Any, reset_state: Any, flags: StepFlags
) -> tuple[Any, Saved]:
    """Returns the state after the last step, and what was saved."""
    weights = lower_matrices(params, loop.compute_dtype)

    def run_block(h_start, over_time, _):
        xs, flags = over_time
        h_last, saved = forward_block(cell, loop, save, weights, zero_masked(flags, xs), h_start, reset_state, flags)  # (I)
        return h_last, saved, h_start if save.block_starts else None

    h_last, saved, starts = scan_blocks(run_block, h0, (xs, flags), None, loop.plan.block_size, reverse=loop.reverse)
    return h_last, saved._replace(block_starts=starts)


def forward_block(
    cell: Any, loop: Loop, save: Save, weights: Any, xs: Any, h_start: Any, reset_state: Any, flags: StepFlags
) -> tuple[Any, Saved]:
    """Runs the steps of one block."""
    backward = backward_functions(cell) if save.gates else None

    def step(h_prev, at_t):
        u, flags_t = at_t
        h_prev = apply_resets(flags_t, reset_state, h_prev)  # (R)
        with joined_products(loop.plan.join_in_loop):
            g = cell.gates(weights, u, h_prev)  # (S)
        h = tree_where(flags_t.mask, cell.update(g, h_prev), h_prev)  # (S) (M)
        return h, Saved(h if save.states else None, backward.saved_gates(u, g) if backward else None)

    with joined_products(loop.plan.join_outside):
        us = cell.project(weights, xs)
    return lax.scan(step, h_start, (us, flags), reverse=loop.reverse)


def outputs_of(cell: Any, loop: Loop, flags: StepFlags, hs: Any) -> Any:
    """Returns what the loop returns beside the last state: outputs, zero on masked steps;
    states; or None.
    """
    if loop.returns == "outputs":
        return zero_masked(flags, cell.output(hs))  # (O)
    return hs if loop.returns == "states" else None


def block_starts(h0: Any, hs: Any, loop: Loop) -> Any:
    """The state that each block starts from in the processing order, from the states after
    each step; in the order of time.
    """
    steps, size = _steps(hs), loop.plan.block_size
    if size is None or size >= steps:
        return jax.tree.map(lambda h: h[None], h0)
    edges = slice(size, None, size) if loop.reverse else slice(size - 1, steps - 1, size)
    after = jax.tree.map(lambda h: h[edges], hs)
    pair = lambda first, rest: jnp.concatenate([rest, first[None]] if loop.reverse else [first[None], rest])
    return jax.tree.map(pair, h0, after)


def previous_states(h0: Any, hs: Any, reverse: bool) -> Any:
    """h_{t-1} for every t, in the processing order."""

    def shift(first, h):
        steps = h.shape[0]
        pair = [h[1:], first[None]] if reverse else [first[None], h[:-1]]
        return jnp.concatenate(pair)[:steps]  # no step, no previous state

    return jax.tree.map(shift, h0, hs)


def _steps(tree: Any) -> Any:
    """The first axis of a tree's arrays."""
    return jax.tree.leaves(tree)[0].shape[0]


def _cast_like(tree: Any, reference: Any) -> Any:
    """Casts gradients to the dtypes of `reference`.

    Leaves that are not inexact have no cotangent and stay.
    """
    cast = lambda ref, leaf: leaf.astype(ref.dtype) if jnp.issubdtype(ref.dtype, jnp.inexact) else leaf
    return jax.tree.map(cast, reference, tree)

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

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_jax import ops
from gru_jax._engine.blocks import scan_blocks
from gru_jax._engine.differentiable import partial_vjp, transpose_output, where_differentiable, without_float0
from gru_jax._engine.forward import (
    Loop,
    Save,
    Saved,
    block_starts,
    forward,
    forward_block,
    outputs_of,
    previous_states,
    state_before,
    steps_of,
)
from gru_jax._engine.local_vjp import backward_functions, one_step, project_all
from gru_jax._engine.products import joined_products
from gru_jax._engine.scan_steps import scan_steps
from gru_jax._engine.step_flags import StepFlags, apply_resets, tree_where, tree_zeros_like, zero_at_resets, zero_masked
from gru_jax._engine.weights import lower_matrices, transpose_matrices
from gru_jax._jax.partition import differentiable


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
    starts = kind == "block_starts"
    save = Save(states=not starts, gates=gates, block_starts=starts)
    h_last, saved = forward(cell, loop, save, params, xs, h0, reset_state, flags)
    return (h_last, outputs_of(cell, loop, flags, saved.states)), Residuals(params, xs, h0, reset_state, flags, saved)


def recursion_bwd(cell: Any, loop: Loop, residuals: Residuals, cotangents: tuple[Any, Any]) -> tuple[Any, ...]:
    """Computes the cotangents of params, xs, h0, reset_state and the reset states in the flags from
    those of h_last and the outputs.
    """
    return _compiled_bwd(cell, loop, residuals, without_float0(cotangents))


# compiled once where the gradient is taken outside `jit`; inside one it is inlined
@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _compiled_bwd(cell: Any, loop: Loop, residuals: Residuals, cotangents: tuple[Any, Any]) -> tuple[Any, ...]:
    params, xs, h0, reset_state, flags, saved = residuals
    h_last_bar, outputs_bar = cotangents
    kind, plan = loop.plan.residuals, loop.plan
    weights = lower_matrices(params, loop.compute_dtype)

    def run_back(vjp, carry, at_all_t, hs):
        """Scans back over the steps of a block. `vjp` is the transpose of (S) at one step."""

        def step_back(per_sequence, carry, at_t):
            h0, reset_state = per_sequence
            delta, reset_bar, params_bar = carry
            k_t, flags_t, bar = at_t
            h_bar = delta
            if loop.returns == "outputs":
                bar = transpose_output(cell.output, h0, zero_masked(flags_t, bar))
            if loop.returns != "last":
                h_bar = _add(h_bar, bar)  # (O)ᵀ
            valid_h_bar = zero_masked(flags_t, h_bar)  # (M)ᵀ
            with joined_products(plan.join_in_loop):
                h_prev_bar, params_bar, out = vjp(k_t, flags_t, valid_h_bar, params_bar)  # (S)ᵀ
            to_reset_state = None
            if reset_state is not None or flags_t.reset_states is not None:
                to_reset_state = tree_where(flags_t.resets, h_prev_bar, tree_zeros_like(h_prev_bar))  # (R)ᵀ
            if reset_state is not None:
                reset_bar, to_reset_state = _add(reset_bar, to_reset_state), None  # (R)ᵀ
            passed_on = zero_at_resets(flags_t, h_prev_bar)  # (R)ᵀ
            carry = tree_where(flags_t.mask, passed_on, h_bar), reset_bar, params_bar  # (M)ᵀ
            return carry, (out, to_reset_state)

        # scan knows the steps from its arrays, and takes no symbolic length of jax.export beside them
        length = None if jax.tree.leaves(at_all_t) else steps_of(hs)
        return scan_steps(
            plan,
            step_back,
            (h0, reset_state),
            carry,
            at_all_t,
            reverse=not loop.reverse,
            batch_rank=loop.batch_rank,
            length=length,
        )

    def derived_block(carry, over_time, h_start):
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
                g = backward.gates(weights, project_all(cell, weights, valid_xs), h_prevs)

        def vjp(k_t, flags_t, h_bar, _):
            return where_differentiable(h0, backward.state_vjp(weights_T, k_t, h_bar)), None, h_bar

        k = backward.linearize(g, h_prevs)
        (delta, reset_bar, _), (h_bars, reset_bars) = run_back(vjp, (delta, reset_bar, None), (k, flags, bars), hs)
        with joined_products(plan.join_outside):
            bar, xs_bar = backward.input_vjp(weights, valid_xs, h_prevs, g, k, h_bars)
        bar = where_differentiable(params, bar)
        if params_bar is not None:  # there are several blocks to add up
            bar = _add_to_sum(params_bar, bar)
        xs_bar = zero_masked(flags, where_differentiable(xs, xs_bar))  # (I)ᵀ
        return (delta, reset_bar, bar), (xs_bar, reset_bars), None

    def step_by_step_block(carry, over_time, h_start):
        xs, flags, bars, hs, _ = over_time
        if kind == "block_starts":
            save = Save(states=True)
            _, (hs, _, _) = forward_block(cell, loop, save, weights, zero_masked(flags, xs), h_start, reset_state, flags)

        def vjp(at_t, flags_t, h_bar, params_bar):
            x, t = at_t
            h_prev = apply_resets(flags_t, reset_state, state_before(h_start, hs, t, loop.reverse))  # (R)
            primals = weights, zero_masked(flags_t, x), h_prev  # (I)
            bar, x_bar, h_prev_bar = partial_vjp(partial(one_step, cell), primals, h_bar)
            return h_prev_bar, _add_to_sum(params_bar, bar), zero_masked(flags_t, x_bar)  # (I)ᵀ

        return *run_back(vjp, carry, ((xs, jnp.arange(steps_of(hs))), flags, bars), hs), None

    if plan.step_by_step:
        block_back = step_by_step_block
    else:
        backward, weights_T, block_back = backward_functions(cell), transpose_matrices(weights), derived_block
    starts = block_starts(h0, saved.states, loop) if saved.block_starts is None else saved.block_starts
    zeros = lambda tree: jax.tree.map(lambda leaf: jnp.zeros_like(leaf, ops.sum_dtype(leaf)), differentiable(tree))
    sums_blocks = plan.step_by_step or steps_of(starts) > 1
    carry = h_last_bar, zeros(reset_state), zeros(params) if sums_blocks else None
    over_time = xs, flags, outputs_bar, saved.states, saved.gates
    (h0_bar, reset_bar, params_bar), (xs_bar, reset_bars), _ = scan_blocks(
        block_back, carry, over_time, starts, loop.plan.block_size, reverse=not loop.reverse
    )
    flags_bar = None if flags.reset_states is None else StepFlags(reset_states=reset_bars)
    return _cast_like(params_bar, params), xs_bar, h0_bar, _cast_like(reset_bar, reset_state), flags_bar


recursion.defvjp(recursion_fwd, recursion_bwd)


def _add(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.add, one, other)


def _add_to_sum(total: Any, part: Any) -> Any:
    """Adds in the dtype of the sum."""
    return jax.tree.map(lambda total, part: total + part.astype(total.dtype), total, part)


def _cast_like(tree: Any, reference: Any) -> Any:
    """Casts gradients to the dtypes of `reference`. Leaves that are not inexact have None."""
    cast = lambda leaf, ref: None if leaf is None else leaf.astype(ref.dtype)
    return jax.tree.map(cast, tree, reference, is_leaf=lambda leaf: leaf is None)

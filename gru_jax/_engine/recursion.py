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
from gru_jax._engine.differentiable import (
    differentiable,
    is_inexact,
    partial_vjp,
    transpose_output,
    where_differentiable,
    without_float0,
)
from gru_jax._engine.local_vjp import backward_functions, one_step, project_all
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
    project_in_loop: bool = False  # and how: for the gradient of a cell without a derivation


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
    starts = kind == "block_starts"
    save = Save(states=not starts, gates=gates, block_starts=starts, project_in_loop=loop.plan.step_by_step)
    h_last, saved = forward(cell, loop, save, params, xs, h0, reset_state, flags)
    return (h_last, outputs_of(cell, loop, flags, saved.states)), Residuals(params, xs, h0, reset_state, flags, saved)


def recursion_bwd(cell: Any, loop: Loop, residuals: Residuals, cotangents: tuple[Any, Any]) -> tuple[Any, ...]:
    """Computes the cotangents of params, xs, h0 and reset_state from those of h_last and the
    outputs.
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

        def step_back(carry, at_t):
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
            if reset_state is not None:
                to_reset_state = tree_where(flags_t.resets, h_prev_bar, tree_zeros_like(h_prev_bar))
                reset_bar = _add(reset_bar, to_reset_state)  # (R)ᵀ
            passed_on = apply_resets(flags_t, None, h_prev_bar)  # (R)ᵀ
            return (tree_where(flags_t.mask, passed_on, h_bar), reset_bar, params_bar), out  # (M)ᵀ

        # scan knows the steps from its arrays, and takes no symbolic length of jax.export beside them
        length = None if jax.tree.leaves(at_all_t) else _steps(hs)
        return lax.scan(step_back, carry, at_all_t, reverse=not loop.reverse, length=length)

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
        (delta, reset_bar, _), h_bars = run_back(vjp, (delta, reset_bar, None), (k, flags, bars), hs)
        with joined_products(plan.join_outside):
            bar, xs_bar = backward.input_vjp(weights, valid_xs, h_prevs, g, k, h_bars)
        bar = where_differentiable(params, bar)
        if params_bar is not None:  # there are several blocks to add up
            bar = _add_to_sum(params_bar, bar)
        return (delta, reset_bar, bar), zero_masked(flags, where_differentiable(xs, xs_bar)), None  # (I)ᵀ

    def step_by_step_block(carry, over_time, h_start):
        xs, flags, bars, hs, _ = over_time
        if kind == "block_starts":
            save = Save(states=True, project_in_loop=True)
            _, (hs, _, _) = forward_block(cell, loop, save, weights, zero_masked(flags, xs), h_start, reset_state, flags)

        def vjp(at_t, flags_t, h_bar, params_bar):
            x, t = at_t
            h_prev = apply_resets(flags_t, reset_state, state_before(h_start, hs, t, loop.reverse))  # (R)
            primals = weights, zero_masked(flags_t, x), h_prev  # (I)
            bar, x_bar, h_prev_bar = partial_vjp(partial(one_step, cell), primals, h_bar)
            return h_prev_bar, _add_to_sum(params_bar, bar), zero_masked(flags_t, x_bar)  # (I)ᵀ

        return *run_back(vjp, carry, ((xs, jnp.arange(_steps(hs))), flags, bars), hs), None

    if plan.step_by_step:
        block_back = step_by_step_block
    else:
        backward, weights_T, block_back = backward_functions(cell), transpose_matrices(weights), derived_block
    starts = block_starts(h0, saved.states, loop) if saved.block_starts is None else saved.block_starts
    zeros = lambda tree: jax.tree.map(lambda leaf: jnp.zeros_like(leaf, ops.sum_dtype(leaf)), differentiable(tree))
    sums_blocks = plan.step_by_step or _steps(starts) > 1
    carry = h_last_bar, zeros(reset_state), zeros(params) if sums_blocks else None
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
        if save.project_in_loop:
            u = cell.project(weights, u)
        h_prev = apply_resets(flags_t, reset_state, h_prev)  # (R)
        with joined_products(loop.plan.join_in_loop):
            g = cell.gates(weights, u, h_prev)  # (S)
        h = tree_where(flags_t.mask, cell.update(g, h_prev), h_prev)  # (S) (M)
        return h, Saved(h if save.states else None, backward.saved_gates(u, g) if backward else None)

    with joined_products(loop.plan.join_outside):
        us = xs if save.project_in_loop else project_all(cell, weights, xs)
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


def state_before(h_start: Any, hs: Any, t: Any, reverse: bool) -> Any:
    """h_{t-1} of one step of a block, in the processing order.

    Read from `hs` inside a loop, where `previous_states` would be one more array of all states.
    """
    steps = _steps(hs)
    if steps == 0:  # the loop that reads it is traced all the same
        return h_start
    first, before = (steps - 1, t + 1) if reverse else (0, t - 1)
    read = lambda h: lax.dynamic_index_in_dim(h, jnp.clip(before, 0, steps - 1), keepdims=False)
    return jax.tree.map(lambda start, h: jnp.where(t == first, start, read(h)), h_start, hs)


def _add(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.add, one, other)


def _add_to_sum(total: Any, part: Any) -> Any:
    """Adds in the dtype of the sum."""
    return jax.tree.map(lambda total, part: total + part.astype(total.dtype), total, part)


def _steps(tree: Any) -> Any:
    """The first axis of a tree's arrays."""
    return jax.tree.leaves(tree)[0].shape[0]


def _cast_like(tree: Any, reference: Any) -> Any:
    """Casts gradients to the dtypes of `reference`. Leaves that are not inexact have None."""
    return jax.tree.map(lambda ref, leaf: leaf.astype(ref.dtype) if is_inexact(ref) else None, reference, tree)

"""The forward pass: blocks of time, the scan over the steps of each, and what it saves.

The functions are positional and expect validated arguments. `recursion` describes the whole.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._engine.blocks import scan_blocks
from gru_jax._engine.local_vjp import backward_functions, project_all
from gru_jax._engine.plan import Plan
from gru_jax._engine.products import joined_products
from gru_jax._engine.scan_steps import Stacking, scan_steps
from gru_jax._engine.step_flags import StepFlags, apply_resets, tree_where, zero_masked
from gru_jax._engine.weights import lower_matrices

Returns = Literal["outputs", "states", "last"]


@dataclass(frozen=True)
class Loop:
    """The static settings of a recursion."""

    plan: Plan
    returns: Returns = "outputs"  # beside the last state
    reverse: bool = False
    compute_dtype: Any = None
    batch_rank: int = 1


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
    stack = Stacking() if loop.plan.few_launches else None

    def step(reset_state, h_prev, at_t):
        u, flags_t = at_t
        if loop.plan.step_by_step:
            u = cell.project(weights, u)
        h_prev = apply_resets(flags_t, reset_state, h_prev)  # (R)
        with joined_products(loop.plan.join_in_loop):
            g = cell.gates(weights, u, h_prev)  # (S)
        h = tree_where(flags_t.mask, cell.update(g, h_prev), h_prev)  # (S) (M)
        gates = backward.saved_gates(u, g) if backward else None
        return h, Saved(h if save.states else None, stack.stack(gates) if stack else gates)

    with joined_products(loop.plan.join_outside):
        us = xs if loop.plan.step_by_step else project_all(cell, weights, xs)
    h_last, saved = scan_steps(
        loop.plan, step, reset_state, h_start, (us, flags), reverse=loop.reverse, batch_rank=loop.batch_rank
    )
    return h_last, saved._replace(gates=stack.unstack(saved.gates)) if stack else saved


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
    steps, size = steps_of(hs), loop.plan.block_size
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
    steps = steps_of(hs)
    if steps == 0:  # the loop that reads it is traced all the same
        return h_start
    first, before = (steps - 1, t + 1) if reverse else (0, t - 1)
    read = lambda h: lax.dynamic_index_in_dim(h, jnp.clip(before, 0, steps - 1), keepdims=False)
    return jax.tree.map(lambda start, h: jnp.where(t == first, start, read(h)), h_start, hs)


def steps_of(tree: Any) -> Any:
    """The first axis of a tree's arrays."""
    return jax.tree.leaves(tree)[0].shape[0]

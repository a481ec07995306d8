"""What lengths, masks and resets do to one time step, and the transpose of each line.

Two booleans per step and sequence: m says that the step is valid, r that the state is reset before
it.

    (I)   x  = m ? x : 0                       before the projection, so padding values reach nothing
    (R)   h₋ = r ? reset_state : h₋            before the step, in the processing order
    (S)   h  = update(gates(u, h₋), h₋)        the cell
    (M)   h  = m ? h : h₋                      a masked step holds the state
    (O)   y  = m ? output(h) : 0

    (O)ᵀ  h̄ += m ? outputᵀ(ȳ) : 0
    (M)ᵀ  the cell gets  m ? h̄ : 0,  h̄₋ = m ? 0 : h̄
    (S)ᵀ  h̄₋ += state_vjp(k, ·)
    (R)ᵀ  reset_state_bar += r ? h̄₋ : 0,  h̄₋ = r ? 0 : h̄₋
    (I)ᵀ  x̄ = m ? x̄ : 0

reset_state is one state for all resets, or another at each step. r is False wherever m is. Every
line selects and none multiplies, so a NaN in the padding, or in a state that is reset, never
spreads.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from gru_jax._engine.differentiable import is_number


class StepFlags(NamedTuple):
    """m and r for all steps, or for one step inside a loop; and the state that a reset at the step
    sets, where it is another at each step.

    None means that every step is valid, that none resets, or that there is one state for all resets.
    """

    mask: Bool[Array, "*t_b"] | None = None
    resets: Bool[Array, "*t_b"] | None = None
    reset_states: Any = None


def step_flags(
    mask: Bool[Array, "T *b"] | None, lengths: Array | None, resets: Bool[Array, "T *b"] | None, steps: int
) -> StepFlags:
    """Combines time-major masks and resets with lengths.

    A step is valid only if both the mask and the length mark it valid. Resets on masked steps are
    ignored.
    """
    if lengths is not None:
        # A negative traced length marks all steps valid: `unroll` turns its outputs into NaN, which
        # must reach the gradient.
        lengths = jnp.where(lengths < 0, steps, lengths)
        t = jnp.arange(steps).reshape(steps, *(1,) * lengths.ndim)
        within = t < jnp.expand_dims(lengths, 0)
        mask = within if mask is None else within & mask
    if resets is not None and mask is not None:
        resets = resets & mask
    return StepFlags(mask, resets)


def flags_of_opposite_direction(flags: StepFlags, *, reverse: bool) -> StepFlags:
    """The flags of the same segments in the opposite processing order.

    `flags.resets` mark the step at which each segment starts in the direction `reverse`. In the
    opposite one a segment starts at its last valid step, if another segment follows: the valid step
    after it, whatever masked steps lie between, has a reset.
    """
    if flags.resets is None:
        return flags

    def step(next_resets, at_t):
        valid, resets = at_t
        return jnp.where(valid, resets, next_resets), valid & next_resets

    mask = jnp.ones_like(flags.resets) if flags.mask is None else flags.mask
    none = (mask & flags.resets).any(0) & False  # placed on a mesh as the flags are
    return flags._replace(resets=jax.lax.scan(step, none, (mask, flags.resets), reverse=not reverse)[1])


def tree_where(condition: Bool[Array, "*t_b"] | None, if_true: Any, if_false: Any) -> Any:
    """Selects leaf by leaf.

    If the condition is None, returns `if_true`. Leaves may have trailing axes.
    """
    if condition is None:
        return if_true

    def choose(one, other):
        rank = max(jnp.ndim(one), jnp.ndim(other))
        return jnp.where(jnp.expand_dims(condition, tuple(range(condition.ndim, rank))), one, other)

    return jax.tree.map(choose, if_true, if_false)


def apply_resets(flags: StepFlags, reset_state: Any, h: Any) -> Any:
    """(R): the state that a step starts from, for one step or for all.

    If `reset_state` is None and the flags hold no state for each step, a reset sets zeros.
    """
    if flags.reset_states is not None:
        reset_state = flags.reset_states
    return zero_at_resets(flags, h) if reset_state is None else tree_where(flags.resets, reset_state, h)


def zero_at_resets(flags: StepFlags, h_bar: Any) -> Any:
    """(R)ᵀ and (R)˙: no cotangent or tangent of the state passes a reset."""
    return h_bar if flags.resets is None else tree_where(flags.resets, tree_zeros_like(h_bar), h_bar)


def with_reset_state_of_each_step(flags: StepFlags, reset_state: Any, h0: Any) -> tuple[StepFlags, Any]:
    """Moves a reset state that has an axis of time into the flags."""
    return (flags._replace(reset_states=reset_state), None) if has_time_axis(reset_state, h0) else (flags, reset_state)


def has_time_axis(reset_state: Any, h0: Any) -> bool:
    """Whether there is another reset state at each step."""
    return any(leaf.ndim > h.ndim for leaf, h in zip(*map(jax.tree.leaves, (reset_state, h0)), strict=False))


def zero_masked(flags: StepFlags, tree: Any) -> Any:
    """`tree` with zeros on masked steps.

    Random keys stay as they are.
    """
    return tree if flags.mask is None else tree_where(flags.mask, tree, tree_zeros_like(tree))


def tree_zeros_like(tree: Any) -> Any:
    """Zeros in the place of every leaf, but for random keys, which stay."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if is_number(leaf) else leaf, tree)

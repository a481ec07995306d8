"""Which steps count, and before which the state is reset: what lengths, masks and resets do to a state, and its transpose.

    (I)   x  = m ? x : 0                       before the projection: what stands in the padding reaches nothing
    (R)   h₋ = r ? reset_state : h₋            before the step, in the direction of travel
    (S)   h  = update(gates(u, h₋), h₋)        the cell
    (M)   h  = m ? h : h₋                      a step that does not count holds the state
    (O)   y  = m ? output(h) : 0

    (O)ᵀ  h̄ += m ? outputᵀ(ȳ) : 0
    (M)ᵀ  the cell gets  m ? h̄ : 0,  h̄₋ = m ? 0 : h̄
    (S)ᵀ  h̄₋ += pull(k, ·)
    (R)ᵀ  reset_state_bar += r ? h̄₋ : 0,  h̄₋ = r ? 0 : h̄₋
    (I)ᵀ  x̄ = m ? x̄ : 0

m and r are one boolean per step and sequence; r is False where m is. All of it selects and nothing multiplies: a NaN in the padding, or
in a state that is reset, stays where it is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


class When(NamedTuple):
    """m and r for all steps, or (inside a loop) for one of them. None: every step counts, none resets."""

    mask: Bool[Array, "*t_b"] | None = None
    resets: Bool[Array, "*t_b"] | None = None


def make_when(mask: Bool[Array, "T *b"] | None, lengths: Array | None, resets: Bool[Array, "T *b"] | None, steps: int) -> When:
    """The `When` of time-major masks and resets and of lengths: a step counts where mask and length both say so, and a reset at
    a step that does not count is none."""
    if lengths is not None:
        lengths = jnp.where(
            lengths < 0, steps, lengths
        )  # traced and wrong: its outputs become NaN, and must reach the gradient
        t = jnp.arange(steps).reshape(steps, *(1,) * lengths.ndim)
        mask = t < lengths if mask is None else (t < lengths) & mask
    if resets is not None and mask is not None:
        resets = resets & mask
    return When(mask, resets)


def select(condition: Bool[Array, "*t_b"] | None, where_true: Any, where_false: Any) -> Any:
    """`condition ? where_true : where_false`, leaf by leaf; a condition that is None always holds. A leaf may have further axes
    behind those of the condition."""
    if condition is None:
        return where_true

    def choose(one, other):
        rank = max(jnp.ndim(one), jnp.ndim(other))
        return jnp.where(jnp.expand_dims(condition, tuple(range(condition.ndim, rank))), one, other)

    return jax.tree.map(choose, where_true, where_false)


def reset(when: When, reset_state: Any, h: Any) -> Any:
    """(R): the state that a step starts from, for one step or for all; zeros where `reset_state` is None."""
    if when.resets is None:
        return h
    return select(when.resets, zeros_like(h) if reset_state is None else reset_state, h)


def only_counted(when: When, tree: Any) -> Any:
    """`tree`, zero where a step does not count; leaves that are not floating-point (the noise of a dropout) stay."""
    if when.mask is None:
        return tree
    is_number = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.tree.map(lambda leaf: select(when.mask, leaf, jnp.zeros_like(leaf)) if is_number(leaf) else leaf, tree)


def zeros_like(tree: Any) -> Any:
    """Zeros in the place of every leaf."""
    return jax.tree.map(jnp.zeros_like, tree)

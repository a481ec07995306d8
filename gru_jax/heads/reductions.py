"""Reduces losses over time, to one number per sequence."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gru_jax.heads.masks import checked_mask, masked
from gru_jax.heads.precision import as_floating, as_losses, widened


def sum_over_steps(losses: ArrayLike, *, axis: int = 0) -> jax.Array:
    """Sums losses over time, J = Σ_t L_t. Takes no mask, because masked losses are already 0.

    Args:
        losses: L, one number per step and sequence, for example `(T, B)`.
        axis: The time axis. Defaults to 0.

    Returns:
        J, the shape of `losses` without the time axis.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> gj.heads.sum_over_steps(jnp.ones((20, 2))).tolist()
        [20.0, 20.0]
    """
    return widened(as_losses(losses, axis)).sum(axis)


def mean_over_steps(losses: ArrayLike, mask: ArrayLike | None = None, *, axis: int = 0) -> jax.Array:
    """Averages losses over time, J = (1/T) Σ_t L_t.

    Args:
        losses: L, one number per step and sequence, for example `(T, B)`.
        mask: Booleans of the same shape as `losses`, True at valid steps. The mean of each sequence
            is then over its valid steps. Defaults to None, for all steps.
        axis: The time axis. Defaults to 0.

    Returns:
        J, the shape of `losses` without the time axis. A sequence without a valid step gives 0.

    Raises:
        ValueError: If `mask` and `losses` have different shapes.
        TypeError: If the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> losses = jnp.array([1.0, 3.0, 8.0])
        >>> float(gj.heads.mean_over_steps(losses)), float(gj.heads.mean_over_steps(losses, losses < 5))
        (4.0, 2.0)
    """
    losses = as_floating(as_losses(losses, axis))
    mask = checked_mask(mask, losses.shape)
    steps = jnp.asarray(losses.shape[axis] if mask is None else mask.sum(axis)).astype(losses.dtype)
    return masked(losses, mask).sum(axis) / jnp.maximum(steps, 1)


def last_step(losses: ArrayLike, mask: ArrayLike | None = None, *, axis: int = 0) -> jax.Array:
    """Selects the loss of the last step, J = L_T.

    Args:
        losses: L, one number per step and sequence, for example `(T, B)`.
        mask: Booleans of the same shape as `losses`, True at valid steps. The last valid step of
            each sequence is selected. Defaults to None, for all steps.
        axis: The time axis. Defaults to 0.

    Returns:
        J, the shape of `losses` without the time axis. A sequence without a valid step gives 0.

    Raises:
        ValueError: If `mask` and `losses` have different shapes.
        TypeError: If the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> losses = jnp.array([1.0, 3.0, 8.0])
        >>> float(gj.heads.last_step(losses)), float(gj.heads.last_step(losses, losses < 5))
        (8.0, 3.0)
    """
    losses = widened(as_losses(losses, axis))
    mask = checked_mask(mask, losses.shape)
    if mask is None:
        mask = jnp.ones(losses.shape, bool)
    other_axes = [i for i in range(losses.ndim) if i != axis % losses.ndim]
    step = jnp.expand_dims(jnp.arange(losses.shape[axis]), other_axes)
    last = jnp.max(jnp.where(mask, step, -1), axis=axis, keepdims=True, initial=-1)
    return jnp.where(step == last, losses, 0).sum(axis)

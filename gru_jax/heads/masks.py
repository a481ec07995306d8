"""Checks and applies masks over time steps."""

from typing import Any

import jax
import jax.numpy as jnp


def checked_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """Returns the mask as a boolean array of the given shape, or None if it is None.

    Raises:
        TypeError: If the mask is not boolean.
        ValueError: If the mask has another shape.
    """
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask: got dtype {mask.dtype}, expected bool. Convert it: mask > 0.")
    if mask.shape != shape:
        raise ValueError(f"mask: got shape {mask.shape}, expected {shape}, one value per step and sequence.")
    return mask


def masked(losses: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Sets the losses of masked steps to 0."""
    return losses if mask is None else jnp.where(mask, losses, 0)

"""Converts arrays to at least float32, so that sums do not overflow or lose digits."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def as_floating(x: ArrayLike) -> jax.Array:
    """Converts any array to a floating-point array in at least float32."""
    x = jnp.asarray(x)
    return x.astype(at_least_float32(x.dtype))


def widened(x: ArrayLike) -> jax.Array:
    """Converts a floating-point array to at least float32, and returns other arrays unchanged."""
    x = jnp.asarray(x)
    return as_floating(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def at_least_float32(dtype: Any) -> Any:
    """Returns float32 for half precision, the default floating dtype for integers, else `dtype`."""
    # jnp.promote_types would raise under jax.numpy_dtype_promotion("strict")
    if not jnp.issubdtype(dtype, jnp.inexact):
        return jnp.result_type(float)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)

"""Computes norms of very small and very large numbers."""

import jax
import jax.numpy as jnp

from gru_jax._jax.precision import at_least_float32


def norm(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Computes the Euclidean norm, without overflow or underflow of the squares.

        m √Σ (x / m)²,   m = max |x|

    For example, a vanished gradient of 1e-25 and an exploded gradient of 1e25 are in the range of
    float32, but their squares are not. Infinity in the array gives infinity, and NaN gives NaN.

    Args:
        x: An array of floating-point numbers.
        axis: The axis or axes over which to take the norm. Defaults to all.

    Returns:
        The norm, in at least float32.

    Raises:
        TypeError: If `x` is not an array.

    Example:
        >>> import jax.numpy as jnp
        >>> import gru_jax as gj
        >>> float(gj.flow.norm(jnp.array([3e25, 4e25], jnp.float32)) / 1e25)
        5.0
    """
    if not hasattr(x, "dtype"):
        raise TypeError(f"x: got {type(x).__name__}, expected an array.")
    x = jnp.abs(x.astype(at_least_float32(x.dtype)))
    largest = x.max(axis, keepdims=True, initial=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    total = jnp.sqrt(jnp.sum((x / scale) ** 2, axis, keepdims=True)) * scale
    return total.reshape(()) if axis is None else total.squeeze(axis)

"""Converts arrays to at least float32, so that sums do not overflow or lose digits."""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gru_jax._jax.precision import at_least_float32


def as_numbers(name: str, x: Any) -> jax.Array:
    """Converts a number or an array of numbers to a JAX array.

    Raises:
        TypeError: If `x` is something else.
    """
    try:
        return jnp.asarray(None if isinstance(x, str) else x)  # NumPy would take "a" for a dtype
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: got {type(x).__name__}, expected an array of numbers.") from error


def as_outputs(name: str, x: Any) -> jax.Array:
    """Converts an array with an axis of outputs to a floating-point array in at least float32.

    Raises:
        TypeError: If `x` is not an array of numbers.
        ValueError: If it has no axes.
    """
    x = as_numbers(name, x)
    if x.ndim == 0:
        raise ValueError(f"{name}: got a scalar, expected shape (…, K), with the outputs on the last axis. Use {name}[None].")
    return as_floating(x)


def as_losses(x: Any, axis: Any) -> jax.Array:
    """Converts losses to an array, whose axis of time is `axis`.

    Raises:
        TypeError: If `x` is not an array of numbers, or `axis` not an int.
        ValueError: If there is no such axis.
    """
    x = as_numbers("losses", x)
    if isinstance(axis, bool) or not isinstance(axis, Integral):
        raise TypeError(f"axis: got {axis!r}, expected an int, the axis of time.")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis: got {axis} for losses of shape {x.shape}, expected one of their axes, that of time.")
    return x


def as_floating(x: ArrayLike) -> jax.Array:
    """Converts any array to a floating-point array in at least float32."""
    x = jnp.asarray(x)
    is_inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return x.astype(at_least_float32(x.dtype) if is_inexact else jnp.result_type(float))


def widened(x: ArrayLike) -> jax.Array:
    """Converts a floating-point array to at least float32, and returns other arrays unchanged."""
    x = jnp.asarray(x)
    return as_floating(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x

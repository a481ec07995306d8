"""Checks of random keys."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_key(name: str, key: Any, *, axes: int = 0) -> None:
    """Checks that `key` is a `jax.random` key, or an array of keys with `axes` axes.

    Raises:
        TypeError: If it is not.
    """
    is_array = isinstance(key, jax.Array | np.ndarray)
    is_typed = is_array and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    is_raw = is_array and key.dtype == jnp.uint32 and key.ndim > 0  # a raw key is a vector of uint32
    found = key.ndim if is_typed else key.ndim - 1 if is_raw else None
    if found == axes:
        return
    arrived = f"{key.dtype}{list(key.shape)}" if is_array else type(key).__name__
    if axes:
        raise TypeError(f"{name}: got {arrived}, expected one key per model, for example jax.random.split(key, N).")
    fix = " Pass one of these keys, or use jax.vmap." if found else ""
    raise TypeError(f"{name}: got {arrived}, expected a jax.random key, for example jax.random.key(0).{fix}")

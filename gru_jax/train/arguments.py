"""Checks that the public functions share for their arguments."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checked_count(name: str, value: Any, *, least: int = 1) -> int:
    """Returns `value` as a Python integer.

    Raises:
        TypeError: If `value` is not an integer. Booleans and floats are rejected.
        ValueError: If `value` is smaller than `least`.
    """
    if isinstance(value, bool | np.bool_ | str) or not _is_index(value):
        raise TypeError(
            f"{name}: got {value!r} ({type(value).__name__}), expected an integer of at least {least}.{_hint(value)}"
        )
    count = operator.index(value)
    if count < least:
        raise ValueError(f"{name}: got {count}, expected at least {least}.")
    return count


def optional_count(name: str, value: Any, *, least: int = 1) -> int | None:
    """Returns `value` as a Python integer, or None if it is None. Raises like `checked_count`."""
    return None if value is None else checked_count(name, value, least=least)


def checked_flag(name: str, value: Any) -> bool:
    """Returns `value` as a Python bool.

    Raises:
        TypeError: If `value` is not a boolean.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}), expected True or False.")
    return bool(value)


def check_callable(name: str, value: Any, signature: str) -> None:
    """Checks that `value` can be called.

    Raises:
        TypeError: If `value` cannot be called.
    """
    if not callable(value):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a function {signature}.")


def check_optimizer(optimizer: Any) -> None:
    """Checks that `optimizer` is an optax transformation.

    Raises:
        TypeError: If it is something else, for example the function `optax.adam` itself.
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        fix = f" Call it: {optimizer.__name__}(learning_rate)." if hasattr(optimizer, "__name__") else ""
        raise TypeError(f"optimizer: got {type(optimizer).__name__}, expected an optax.GradientTransformation.{fix}")


def check_key(name: str, key: Any, *, axes: int = 0) -> None:
    """Checks that `key` is a `jax.random` key, or an array of keys with `axes` axes.

    Raises:
        TypeError: If it is not.
    """
    new_style = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    shape = jnp.shape(key) if new_style else jnp.shape(key)[:-1]  # a raw key is a vector of uint32
    is_key = new_style or (isinstance(key, jax.Array | np.ndarray) and key.dtype == jnp.uint32 and key.ndim > 0)
    if not is_key or len(shape) != axes:
        what, example = (
            ("a jax.random key", "jax.random.key(0)") if axes == 0 else ("one key per model", "jax.random.split(key, N)")
        )
        arrived = f"{key.dtype}{list(key.shape)}" if isinstance(key, jax.Array | np.ndarray) else type(key).__name__
        raise TypeError(f"{name}: got {arrived}, expected {what}, for example {example}.")


def _is_index(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _hint(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return f" Pass int({value!r})." if whole else ""

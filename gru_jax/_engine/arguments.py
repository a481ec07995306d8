"""Checks of plain arguments: options, counts, flags, and how a wrong one is described."""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_option(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises a ValueError unless `value` is one of `choices`."""
    if not isinstance(value, type(choices[0])) or value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, choices))}.")


def check_positive_int(name: str, value: Any, alternative: str = "") -> int:
    """Returns a positive int as a Python int. NumPy's integers are accepted, bools are not."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: got {value!r}, expected an int of at least 1{alternative and ', ' + alternative}.")
    if value < 1:
        raise ValueError(f"{name}: got {value!r}, expected an int of at least 1{alternative and ', ' + alternative}.")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """Returns a Python bool. Other values raise: the string "False" would be truthy."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {value!r}, expected True or False.")
    return bool(value)


def is_array(x: Any) -> bool:
    """Whether `x` is an array of JAX or NumPy, or a tracer."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def describe(x: Any) -> str:
    """Describes a value for an error message."""
    if is_array(x):
        return f"an array of shape {tuple(x.shape)} and dtype {x.dtype}"
    return type(x).__name__


def checked_dtype(name: str, value: Any) -> Any:
    """Returns a floating dtype. Without x64, float64 becomes float32, as everywhere in JAX."""
    try:
        dtype = jax.dtypes.canonicalize_dtype(value)
    except TypeError as error:
        raise TypeError(f"{name}: got {value!r}, expected float64, float32, bfloat16 or float16.") from error
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name}: got {dtype}, expected float64, float32, bfloat16 or float16.")
    return dtype

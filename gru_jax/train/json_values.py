"""Converts values to the types that JSON supports."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def to_json_value(value: Any, *, nonfinite: Callable[[float], Any] = lambda number: None) -> Any:
    """Converts arrays, NumPy scalars, tuples and non-finite numbers to types that JSON supports.

    Args:
        value: Nested dicts, lists and tuples of numbers, strings, NumPy or JAX arrays.
        nonfinite: A function that converts NaN and infinities, which JSON does not support.
            Defaults to a function that returns None, which JSON writes as null. `str` gives their
            names.

    Returns:
        Nested dicts and lists of Python numbers and strings, ready for
        `json.dumps(…, allow_nan=False)`.

    Example:
        >>> import numpy as np
        >>> to_json_value({"loss": np.float32(0.5), "norms": (1, np.inf)})
        {'loss': 0.5, 'norms': [1, None]}
    """
    if isinstance(value, dict):
        return {str(name): to_json_value(item, nonfinite=nonfinite) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item, nonfinite=nonfinite) for item in value]
    if isinstance(value, np.ndarray | jax.Array | np.generic):
        return to_json_value(np.asarray(value).tolist(), nonfinite=nonfinite)
    if isinstance(value, float) and not math.isfinite(value):
        return nonfinite(value)
    return value

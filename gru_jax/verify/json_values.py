"""Converts Python values to values that JSON can hold."""

import math
from collections.abc import Mapping
from typing import Any


def to_json_value(value: Any) -> Any:
    """Returns `value` with mappings as dicts, and with lists and tuples as lists.

    NaN and infinity become strings, because JSON has no numbers for them.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

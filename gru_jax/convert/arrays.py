"""Converts arrays of any library to JAX arrays of one dtype, and JAX arrays to NumPy.

NumPy and PyTorch arrays are copied. Otherwise JAX would share memory with a model that may still be
trained in place. Nothing is unpickled.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._engine.validate_cell import FLOATS
from gru_jax._jax.tracing import is_traced

LabelOf = Callable[[str], str]  # maps the name of a tensor to the label that error messages use


def to_jax_arrays(tensors: Mapping[str, Any], dtype: Any, label_of: LabelOf) -> dict[str, jax.Array]:
    """Converts tensors to JAX arrays of one dtype.

    JAX arrays and tracers pass through. NumPy arrays, PyTorch tensors (on any device) and Flax
    variables are copied.

    Args:
        tensors: The tensors by name.
        dtype: The dtype to cast to, or None to keep the tensors' own.
        label_of: Maps a tensor's name to the label that error messages use.

    Raises:
        TypeError: If a value is not an array of floating-point numbers, if it is float64 while x64
            is disabled, or if the tensors have different dtypes and `dtype` is None.
    """
    target = None if dtype is None else _checked_dtype(dtype)
    arrays = {name: _to_jax_array(value, target, label_of(name)) for name, value in tensors.items()}
    first_of: dict[Any, str] = {}
    for name, array in arrays.items():
        first_of.setdefault(array.dtype, name)
    if len(first_of) > 1:
        (expected, first), (other, second) = list(first_of.items())[:2]
        raise TypeError(
            f"{label_of(second)}: got {other}, expected {expected}, the dtype of {label_of(first)}. Cast all tensors to one "
            f"dtype: dtype=jnp.{expected}."
        )
    return arrays


def _checked_dtype(dtype: Any) -> Any:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in FLOATS:
        got = repr(dtype) if found is None else found
        raise TypeError(f"dtype: got {got}, expected {', '.join(FLOATS)}, or None, which keeps the tensors' own.")
    return found


def to_numpy_arrays(tensors: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Converts JAX arrays to writable NumPy arrays. Tracers pass through."""
    return {name: t if is_traced(t) else np.array(t, order="C") for name, t in tensors.items()}


def as_array(value: Any, label: str) -> Any:
    """Converts an array of any library to a NumPy or JAX array in native byte order.

    The result may share its memory.

    Raises:
        TypeError: If `value` is not an array.
    """
    if not isinstance(value, jax.Array) and hasattr(value, "__jax_array__"):  # a Flax variable
        value = value.__jax_array__()
    if isinstance(value, jax.Array):
        return value
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a PyTorch tensor, recognised without importing PyTorch
        value = value.detach().cpu()
    try:
        if "bfloat16" in str(getattr(value, "dtype", "")) and not isinstance(value, np.ndarray):
            return jnp.array(jnp.from_dlpack(value), copy=True)
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{label}: got {type(value).__name__}, expected an array. ({error})") from error
    if array.dtype == object:
        raise TypeError(
            f"{label}: got {type(value).__name__} of dtype object, expected an array of numbers. Convert it first, for example with "
            "np.asarray(value, np.float32)."
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _to_jax_array(value: Any, dtype: Any, label: str) -> jax.Array:
    """Converts one tensor; see `to_jax_arrays`."""
    array = as_array(value, label)
    if array.dtype.name not in FLOATS:
        raise TypeError(
            f"{label}: got {array.dtype}, expected floating-point numbers ({', '.join(FLOATS)}). If these are the weights, cast them "
            "with astype(np.float32)."
        )
    target = array.dtype if dtype is None else dtype
    if jax.dtypes.canonicalize_dtype(target) != target:
        raise TypeError(
            f"{label}: got float64, expected at most float32 while x64 is disabled. Pass dtype=jnp.float32, or enable x64: "
            'jax.config.update("jax_enable_x64", True).'
        )
    return array.astype(target) if isinstance(array, jax.Array) else jnp.array(array, target, copy=True)

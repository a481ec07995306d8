"""What comes in becomes JAX arrays of one dtype, copied and never unpickled; what goes to a library that is not JAX's, NumPy arrays."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._engine.validate import FLOATS
from gru_jax._jax.tracing import is_traced

Say = Callable[[str], str]  # how a message calls the tensor of this name


def read(tensors: Mapping[str, Any], dtype: Any, say: Say) -> dict[str, jax.Array]:
    """The tensors as JAX arrays of one dtype.

    JAX arrays and tracers stay what they are; everything else (NumPy, PyTorch on any device, Flax' variables) is copied: JAX
    would otherwise share the memory of an array that its owner goes on training in place.

    Args:
        tensors: by name.
        dtype: to cast to; None keeps theirs.
        say: for messages.

    Raises:
        TypeError: not an array of one of the four dtypes, float64 where x64 is off, different dtypes.
    """
    wanted = None if dtype is None else jnp.dtype(dtype)
    if wanted is not None and wanted.name not in FLOATS:
        raise TypeError(f"dtype: got {wanted}, expected {', '.join(FLOATS)}, or None.")
    arrays = {name: _array(value, wanted, say(name)) for name, value in tensors.items()}
    kinds = {array.dtype: name for name, array in arrays.items()}
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise TypeError(
            f"{say(second)}: got {other} beside the {one} of {say(first)}, expected one dtype. Pass dtype=jnp.{one}."
        )
    return arrays


def _array(value: Any, dtype: Any, label: str) -> jax.Array:
    if not isinstance(value, jax.Array) and hasattr(value, "__jax_array__"):  # Flax' variables
        value = value.__jax_array__()
    if not isinstance(value, jax.Array):
        value = _from_elsewhere(value, label)
    if value.dtype.name not in FLOATS:
        raise TypeError(f"{label}: got {value.dtype}, expected floating-point numbers ({', '.join(FLOATS)}).")
    target = value.dtype if dtype is None else dtype
    if jax.dtypes.canonicalize_dtype(target) != target:
        raise TypeError(
            f"{label}: got float64, which JAX would cut to float32 here. Pass dtype=jnp.float32, or switch float64 on first: "
            'jax.config.update("jax_enable_x64", True).'
        )
    return value.astype(target) if isinstance(value, jax.Array) else jnp.array(value, target, copy=True)


def _from_elsewhere(value: Any, label: str) -> Any:
    """A NumPy array, or a JAX array of its own."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # PyTorch's, without importing it
        value = value.detach().cpu()
    try:
        if "bfloat16" in str(getattr(value, "dtype", "")) and not isinstance(value, np.ndarray):
            return jnp.array(jnp.from_dlpack(value), copy=True)
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{label}: got {type(value).__name__}, expected an array. ({error})") from error
    if array.dtype == object:
        raise TypeError(f"{label}: got {type(value).__name__}, expected an array.")
    return array


def write(tensors: Mapping[str, jax.Array]) -> dict[str, Any]:
    """NumPy arrays of their own, which their receiver may write to. Tracers stay what they are."""
    return {name: t if is_traced(t) else np.array(t, order="C") for name, t in tensors.items()}


def flatten(tree: Any, label: str, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by path, joined by "/"."""
    if not isinstance(tree, Mapping):
        raise TypeError(f"{label}: got {type(tree).__name__}, expected a mapping of names to arrays.")
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{label}[{key!r}]", f"{prefix}{key}/") if nested else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[name] = value
    return tree


def check_names(got: Iterable[str], required: Iterable[str], optional: Iterable[str], label: str, hint: str = "") -> bool:
    """Raises where a name is missing or surplus; whether the optional ones, all or none, are there.

    Raises:
        ValueError: names the missing and the surplus, and what was expected.
    """
    names, required, optional = set(got), list(required), list(optional)
    some = [name for name in optional if name in names]
    expected = required + (optional if some else [])
    missing = [name for name in expected if name not in names]
    surplus = sorted(names - set(expected))
    if missing or surplus:
        told = [
            f"{word} {', '.join(map(repr, those))}" for word, those in (("missing", missing), ("surplus", surplus)) if those
        ]
        may = f" and, with a bias, {', '.join(map(repr, optional))}" if optional and not some else ""
        raise ValueError(f"{label}: {'; '.join(told)}. Expected {', '.join(map(repr, expected))}{may}.{hint and ' ' + hint}")
    return bool(some)

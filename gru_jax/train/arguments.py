"""Checks that the public functions share for their arguments."""

import inspect
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax.partition import is_inexact


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


def check_callable(name: str, value: Any, signature: str, *, arguments: int | None = None) -> None:
    """Checks that `value` can be called, with a number of arguments unless that is None.

    Raises:
        TypeError: If it cannot.
    """
    if not callable(value):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a function {signature}.")
    if arguments is not None:
        problem = _why_not(value, arguments)
        if problem:
            raise TypeError(
                f"{name}: got a function that cannot be called with {arguments} argument{'s' * (arguments > 1)} ({problem}), expected "
                f"a function {signature}."
            )


def check_takes_keywords(name: str, function: Callable[..., Any], keywords: Any) -> None:
    """Checks that a function has parameters of these names.

    Raises:
        TypeError: If it has not.
    """
    try:
        inspect.signature(function).bind_partial(**dict.fromkeys(keywords))
    except TypeError as error:
        raise TypeError(f"{name}: got a function without the parameters {', '.join(keywords)}. ({error})") from error
    except ValueError:  # of a builtin
        pass


def _why_not(function: Callable[..., Any], arguments: int) -> str:
    """Returns why a function cannot be called with a number of arguments, or an empty string."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a builtin
        return ""
    try:
        signature.bind(*range(arguments))
    except TypeError as error:
        return str(error)
    return ""


def checked_directory(name: str, value: Any) -> Path:
    """Returns the absolute path of a directory, which need not exist.

    Raises:
        TypeError: If `value` is not a path.
        ValueError: If it is empty, contains a null character, or begins with `~`, which Python does
            not expand.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"{name}: got {type(value).__name__}, expected the path of a directory.")
    is_home = text == "~" or text.startswith("~/")
    if not text or "\0" in text or is_home:
        fix = " Expand it: os.path.expanduser(path)." if is_home else ""
        raise ValueError(f"{name}: got {text!r}, expected the path of a directory.{fix}")
    return Path(text).absolute()


def check_optimizer(optimizer: Any) -> None:
    """Checks that `optimizer` is an optax transformation.

    Raises:
        TypeError: If it is something else, for example the function `optax.adam` itself.
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        fix = f" Call it: {optimizer.__name__}(learning_rate)." if hasattr(optimizer, "__name__") else ""
        raise TypeError(f"optimizer: got {type(optimizer).__name__}, expected an optax.GradientTransformation.{fix}")


def check_params(params: Any) -> None:
    """Checks that `params` is a pytree of arrays, some of which can be trained.

    Raises:
        TypeError: If a leaf is not an array, or none holds floating-point or complex numbers.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            raise TypeError(f"params{jax.tree_util.keystr(path)}: got {type(leaf).__name__}, expected an array.")
    check_numbers("params", params, keys=True)
    if not any(map(is_inexact, jax.tree.leaves(params))):
        raise TypeError(f"params: got {type(params).__name__} without floating-point numbers, expected some to train.")


def check_numbers(name: str, tree: Any, *, keys: bool = False) -> None:
    """Checks that every leaf of a tree is an array of numbers or booleans, or of random keys.

    Raises:
        TypeError: If one is not, for example an array of keys, of text or of Python objects.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)
        if isinstance(leaf, str | bytes):
            raise TypeError(f"{name}{jax.tree_util.keystr(path)}: got {type(leaf).__name__}, expected numbers or booleans.")
        if dtype is None or jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_):
            continue
        is_key = jnp.issubdtype(dtype, jax.dtypes.prng_key)
        if is_key and keys:
            continue
        fix = (
            "Pass jax.random.key_data(keys), and call jax.random.wrap_key_data in loss_fn."
            if is_key
            else "Convert it to numbers."
        )
        raise TypeError(f"{name}{jax.tree_util.keystr(path)}: got dtype {dtype}, expected numbers or booleans. {fix}")


def has_objects(leaf: Any) -> bool:
    """Tells whether `leaf` is an array of Python objects or text."""
    return isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "OSUMm"


def _is_index(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _hint(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return f" Pass int({value!r})." if whole else ""

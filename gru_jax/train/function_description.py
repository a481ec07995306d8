"""Describes functions by what can be known of them: names, constants, and the code of the user's own.

    describe_function(optax.sgd(1e-2))
    {…, ".update": "optax….update_fn", ".update.update_fns[1].tx.update.step_size": -0.01, …}

A function that was made in another process from the same source has the same description.
"""

import dataclasses
import functools
import hashlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from gru_jax.train.json_values import to_json_value

_DEEPEST = 12
# the packages whose functions are known by name and version
_LIBRARIES = ("builtins", "gru_jax", "jax", "jaxlib", "numpy", "optax")


def describe_functions(**functions: Any) -> dict[str, Any]:
    """Describes functions, optax transformations and None by name, as JSON values.

    The entry "versions" names the versions with which descriptions can be compared.
    """
    versions = f"Python {sys.version_info[0]}.{sys.version_info[1]}, optax {optax.__version__}"
    return {"versions": versions, **{name: describe_function(function) for name, function in functions.items()}}


def describe_function(function: Any) -> dict[str, Any]:
    """Describes a function or an optax transformation by path.

    The values are names of functions and types, numbers, strings, and digests of arrays and code.
    """
    module = getattr(getattr(function, "update", function), "__module__", None) or ""
    return dict(_described(function, "", module, frozenset(), 0))


def differences_of_functions(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, list[str]]:
    """Describes by name how functions differ.

    Returns nothing for other versions, which cannot be compared.
    """
    if saved.get("versions") != current.get("versions"):
        return {}
    differences = {}
    for name in current.keys() - {"versions"}:
        before, now = saved.get(name, {}), current[name]
        paths = [path for path in {**before, **now} if before.get(path) != now.get(path)]
        # the constants of a transformation are in its update, and some again in its init
        paths = [path for path in paths if not path.startswith(".init")] or paths
        if paths:
            differences[name] = [_difference(path, before.get(path), now.get(path)) for path in paths]
    return differences


def _difference(path: str, before: Any, now: Any) -> str:
    if path.endswith(".code"):
        return f"the code of {path.removesuffix('.code').lstrip('.') or 'the function'} has changed"
    return f"{path.lstrip('.') or 'the function'} was {before!r} and is {now!r}"


def _described(value: Any, path: str, module: str, within: frozenset[int], depth: int) -> Iterator[tuple[str, Any]]:
    """Yields the path and the description of everything that a value holds."""
    if id(value) in within or depth > _DEEPEST:
        return
    go_on = functools.partial(_described, module=module, within=within | {id(value)}, depth=depth + 1)
    if value is None or isinstance(value, bool | int | float | str):
        yield path, to_json_value(value, nonfinite=str)
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        yield path, _of_array(value)
    elif isinstance(value, functools.partial):
        yield from go_on(value.func, path)
        yield from go_on((value.args, value.keywords), f"{path}.arguments")
    elif isinstance(value, types.MethodType):
        yield from go_on(value.__func__, path)
        yield from go_on(value.__self__, f"{path}.self")
    elif isinstance(value, types.FunctionType):
        yield path, _name(value, module)
        for name, held in _held_by(value, module):
            yield from [(f"{path}{name}", held)] if name == ".code" else go_on(held, f"{path}{name}")
    elif hasattr(value, "__wrapped__"):  # for example of jax.jit
        yield from go_on(value.__wrapped__, path)
    elif isinstance(value, list | tuple):
        yield path, _name(type(value), module)
        names = getattr(value, "_fields", [f"[{i}]" for i in range(len(value))])
        for name, item in zip(names, value, strict=True):
            yield from go_on(item, f"{path}{name}" if name.startswith("[") else f"{path}.{name}")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from go_on(
                item, f"{path}[{name!r}]" if isinstance(name, str | int) else f"{path}[{_name(type(name), module)}]"
            )
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield path, _name(type(value), module)
        for field in dataclasses.fields(value):
            yield from go_on(getattr(value, field.name, None), f"{path}.{field.name}")
    elif hasattr(value, "__dict__") and type(value).__module__.split(".")[0] in ("optax", module.split(".")[0]):
        yield path, _name(type(value), module)
        for name, item in vars(value).items():
            yield from go_on(item, f"{path}.{name}")
    else:
        yield path, _name(value if isinstance(value, type) or hasattr(value, "__name__") else type(value), module)


def _held_by(function: types.FunctionType, module: str) -> Iterator[tuple[str, Any]]:
    """Yields what a function holds: its closure, defaults, code, and what it uses of its own module."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".{name}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    if function.__defaults__ or function.__kwdefaults__:
        yield ".defaults", (function.__defaults__, function.__kwdefaults__)
    if function.__module__ != module or module.split(".")[0] in _LIBRARIES:
        return
    yield ".code", _digest_of_code(code, function.__doc__)
    for name in sorted(set(_global_names(code))):
        used = function.__globals__.get(name)
        own = isinstance(used, types.FunctionType) and used.__module__ == module
        if own or isinstance(used, bool | int | float | str):
            yield f".{name}", used


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _digest_of_code(code: types.CodeType, doc: str | None = None) -> str:
    """Returns a digest of instructions, names and constants. Comments and lines do not count."""

    def constant(value: Any) -> str:
        if isinstance(value, types.CodeType):
            return _digest_of_code(value)
        return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)

    constants = [constant(value) for value in code.co_consts if doc is None or value != doc]
    content = (code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _of_array(value: Any) -> Any:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind in "biuf":
        return to_json_value(array, nonfinite=str)
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
    return f"{array.dtype}{list(array.shape)} {digest}"


def _name(value: Any, module: str) -> str:
    """Returns the name of a function or type, with its module unless that is the user's."""
    # the user's module is `__main__` in a script, and has another name when it is imported
    name = getattr(value, "__qualname__", getattr(value, "__name__", "?"))
    home = getattr(value, "__module__", "")
    return name if home == module else f"{home}.{name}"

"""Pytrees of params and states: how they are described in messages, and rebuilt from dicts that
a file gave back.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax._engine.arguments import describe, is_array


def describe_structure(tree: Any) -> str:
    """Describes a state or params for a message: `gj.cells.LSTMState(h, c)`, `a tuple of 2`, an
    array.
    """
    if hasattr(tree, "_fields"):
        return f"{_public_name(type(tree))}({', '.join(tree._fields)})"
    if isinstance(tree, tuple | list):
        return f"a {type(tree).__name__} of {len(tree)} ({', '.join(map(describe_structure, tree))})"
    if isinstance(tree, Mapping):
        return f"a dict with the keys {', '.join(map(str, tree))}"
    return "one array" if is_array(tree) else describe(tree)


def _public_name(kind: type) -> str:
    """How a user writes a NamedTuple: those of this library with their module."""
    part = kind.__module__.split(".")[1] if kind.__module__.startswith("gru_jax.") else ""
    return f"gj.{part}.{kind.__name__}" if part in ("cells", "layers") else kind.__name__


def rebuild(params: Any, params_type: Any, path: str) -> Any:
    """Returns `params` as `params_type` if they are a dict with the same names, as msgpack and
    Orbax give them back.

    Raises:
        TypeError: If they are of another type and their names do not match. The message says how to
            convert them.
    """
    if params_type is None or isinstance(params, params_type):
        return params
    fields = params_type._fields
    name, signature = _public_name(params_type), f"{params_type.__name__}({', '.join(fields)})"
    if isinstance(params, Mapping):
        if set(params) <= set(fields) and set(params):
            return params_type(**{field: params.get(field) for field in fields})
        raise TypeError(
            f"{path}: got a dict with the keys {', '.join(map(str, params))}, expected {signature}. "
            f"If the arrays are these under other names: {name}(W=…, U=…, …) with the names on the right."
            if not set(params) & set(fields)
            else f"{path}: got a dict with the keys {', '.join(map(str, params))}, expected those of {signature}."
        )
    if isinstance(params, tuple | list) and not hasattr(params, "_fields"):
        raise TypeError(
            f"{path}: got a {type(params).__name__} of {len(params)}, expected {signature}. "
            f"If it holds these fields in this order: {name}(*{path})."
        )
    raise TypeError(
        f"{path}: got {describe(params)}, expected {params_type.__name__}. "
        "Use the cell that made them, or make new ones with cell.init(key, input_size, hidden_size)."
    )


def rebuild_tuple(params: Any, length: int) -> Any:
    """Returns a list, or a dict with the keys 0, 1, …, of this length as a tuple; anything else
    as it is.
    """
    if isinstance(params, list) and len(params) == length:
        return tuple(params)
    if isinstance(params, Mapping) and {str(key) for key in params} == {str(i) for i in range(length)}:
        by_name = {str(key): value for key, value in params.items()}
        return tuple(by_name[str(i)] for i in range(length))
    return params


def check_same_form(cell_name: str, new: Any, old: Any) -> None:
    """Raises unless a step returns a state of the structure, shapes and dtypes that it was
    given.
    """
    if jax.tree.structure(new) != jax.tree.structure(old):  # type: ignore[operator] # jax: PyTreeDef has no stub
        raise TypeError(
            f"cell: update of cell {cell_name} returned {describe_structure(new)}, expected {describe_structure(old)}, the state "
            "it was given. Return the same structure, or give the cell a zero_state of this one."
        )
    for (path, after), before in zip(jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(old), strict=True):
        state, shape, dtype = "state" + jax.tree_util.keystr(path), jnp.shape(after), jnp.result_type(after)
        if shape != before.shape:
            raise ValueError(
                f"cell: update of cell {cell_name} returned a {state} of shape {shape}, expected {before.shape}, the shape "
                "it was given. Check zero_state, h0 and the axes that update sums over."
            )
        if dtype != before.dtype:
            raise TypeError(
                f"cell: update of cell {cell_name} returned a {state} of dtype {dtype} from one of dtype {before.dtype}, "
                "expected the same. Make zero_state (or h0) in the dtype that update returns, for example "
                f"jnp.zeros(size, '{dtype}'), or cast the result of update."
            )

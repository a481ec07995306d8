"""What bad input is told: which argument, what arrived, what was expected, and the fix.

The public functions call these before any arithmetic; shapes and dtypes are known under `jit` too, so a traced call is told the
same. Nothing here looks at a value.
"""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp

FLOATS = ("float64", "float32", "bfloat16", "float16")


def check_option(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, choices))}.")


def check_cell(cell: Any) -> None:
    """Raises unless `cell` is a cell, rather than the factory that makes one."""
    if not (hasattr(cell, "project") and hasattr(cell, "gates") and hasattr(cell, "update")):
        hint = " Call the factory: gj.gru() rather than gj.gru." if callable(cell) else ""
        raise TypeError(f"cell: got {_describe(cell)}, expected a gj.Cell such as gj.gru().{hint}")


def check_params(cell: Any, params: Any) -> tuple[Any, int | None]:
    """`params` as JAX arrays, all of one floating dtype, and the input size they are for (None: unknown)."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise TypeError(
            f"params: got {_describe(params)} without arrays, expected the parameters of cell {cell.name}. "
            "Make them with cell.init(key, input_size, hidden_size)."
        )
    for path, leaf in leaves:
        if not _is_array(leaf) or str(leaf.dtype) not in FLOATS:
            raise TypeError(
                f"params{jax.tree_util.keystr(path)}: got {_describe(leaf)}, expected an array of dtype {', '.join(FLOATS)}. "
                "Convert it: jnp.asarray(value, jnp.float32)."
            )
    dtypes = {str(leaf.dtype) for _, leaf in leaves}
    if len(dtypes) > 1:
        raise TypeError(
            f"params: got the dtypes {', '.join(sorted(dtypes))}, expected one for all leaves. "
            "Cast them: jax.tree.map(lambda p: p.astype(jnp.float32), params)."
        )
    input_size = None if cell.check is None else cell.check(params)
    return jax.tree.map(jnp.asarray, params), input_size


def check_input(name: str, x: Any, input_size: int | None, dtype: Any, *, least_rank: int) -> jax.Array:
    """`x` as a JAX array of `dtype`, whose last axis is the input size."""
    if not _is_array(x):
        raise TypeError(f"{name}: got {_describe(x)}, expected an array. Stack the steps: jnp.stack({name}).")
    if str(x.dtype) not in FLOATS:
        raise TypeError(
            f"{name}: got dtype {x.dtype}, expected a floating dtype. Convert it ({name}.astype(jnp.float32)), or encode "
            f"symbols first (jax.nn.one_hot({name}, number_of_symbols))."
        )
    if x.ndim < least_rank:
        wanted = "(T, *batch, D), or (*batch, T, D) with time_major=False" if least_rank == 2 else "(*batch, D)"
        raise ValueError(
            f"{name}: got shape {x.shape}, expected {wanted}. Give a single feature an axis of its own: {name}[..., None]."
        )
    if input_size not in (None, x.shape[-1]):
        raise ValueError(
            f"{name}: got {x.shape[-1]} features on the last axis (shape {x.shape}), expected {input_size}, the input size of "
            f"params. The features come last; else make params with cell.init(key, {x.shape[-1]}, hidden_size)."
        )
    return jnp.asarray(x, dtype)


def check_state(name: str, h: Any, cell: Any, params: Any, batch: tuple[int, ...]) -> Any:
    """`h` as JAX arrays: the structure, shapes and dtypes of this cell's state for this batch."""
    try:
        expected = zero_state(cell, params)
    except ValueError:  # a cell of the user's with letters of its own: the scan compares the carry that comes out with h
        return jax.tree.map(jnp.asarray, h)
    if jax.tree.structure(h) != jax.tree.structure(expected):  # type: ignore[operator] # jax: PyTreeDef has no stub
        raise TypeError(
            f"{name}: got {_describe(h)}, expected the state of cell {cell.name}. "
            f"Make one with cell.initial_state(params, batch_shape={batch})."
        )
    for leaf, zeros in zip(jax.tree.leaves(h), jax.tree.leaves(expected), strict=True):
        shape, dtype = batch + zeros.shape, zeros.dtype
        if not _is_array(leaf) or leaf.shape != shape:
            raise ValueError(
                f"{name}: got {_describe(leaf)}, expected shape {shape} (*batch, H). "
                f"Make one with cell.initial_state(params, batch_shape={batch}), or broadcast yours: "
                f"jnp.broadcast_to({name}, {shape})."
            )
        if leaf.dtype != dtype:
            raise TypeError(
                f"{name}: got dtype {leaf.dtype}, expected {dtype} as in params. Cast it: {name}.astype('{dtype}')."
            )
    return jax.tree.map(jnp.asarray, h)


def zero_state(cell: Any, params: Any) -> Any:
    """The state of `cell` without batch axes, all zeros."""
    if cell.zero_state is not None:
        return cell.zero_state(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if getattr(path[-1], "name", getattr(path[-1], "key", None) or "").startswith("U"):
            return jnp.zeros(leaf.shape[-1], leaf.dtype)
    raise ValueError(
        f"params: got {_describe(params)} without a field U…, by whose last axis cell {cell.name} would know its hidden size. "
        "Give the cell zero_state=lambda params: …, or call unroll with h0."
    )


def batch_shape(shape: Any) -> tuple[int, ...]:
    """A batch shape as a tuple; an int is taken as `(int,)`."""
    axes = (int(shape),) if isinstance(shape, Integral) else tuple(shape)
    if any(axis < 0 for axis in axes):
        raise ValueError(f"batch_shape: got {shape}, expected sizes of at least 0.")
    return axes


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _describe(x: Any) -> str:
    if _is_array(x):
        return f"an array of shape {tuple(x.shape)} and dtype {x.dtype}"
    return f"{type(x).__name__}"

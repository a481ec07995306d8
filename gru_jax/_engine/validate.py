"""Checks of what `unroll` and `step` are given: every error names the argument, what arrived, what
was expected, and the fix.

The public functions call these before any arithmetic. Shapes and dtypes are known under `jit` too,
so a traced call raises the same errors. Values are checked where they are concrete
(`check_lengths`).
"""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._engine.arguments import describe, is_array
from gru_jax._engine.inputs import check_leading_axes
from gru_jax._engine.structures import describe_structure
from gru_jax._engine.validate_cell import (
    FLOATS,
    check_array,
    check_float_array,
    check_params,
    is_big_endian,
    is_torch,
    state_shapes,
)
from gru_jax._jax.tracing import is_traced
from gru_jax.derivative import Autodiff, CustomJVP, CustomVJP


def check_derivative(derivative: Any) -> None:
    """Raises unless `derivative` is one of the three objects."""
    if not isinstance(derivative, CustomVJP | CustomJVP | Autodiff):
        hint = f" Write gj.{derivative.__name__}()." if isinstance(derivative, type) else ""
        raise TypeError(f"derivative: got {derivative!r}, expected gj.CustomVJP(…), gj.CustomJVP() or gj.Autodiff().{hint}")


def check_input(name: str, xs: Any, layer: Any, input_size: int | None, *, of_step: bool = False) -> tuple[Any, ...]:
    """Returns the leading axes of the inputs: (T, *batch) in the layout of `xs`, or *batch of one
    step.

    A cell whose params tell its input size takes one array of floats, whose last axis has this
    size. Other cells take any pytree of arrays.
    """
    if isinstance(xs, list):
        raise TypeError(f"{name}: got {describe(xs)}, expected an array. Stack the steps: jnp.stack({name}).")
    if input_size is not None:
        _check_features(name, xs, input_size, of_step=of_step)
    else:
        for path, leaf in jax.tree_util.tree_leaves_with_path(xs):
            own = name + jax.tree_util.keystr(path)
            check_not_masked(own, leaf)
            check_array(own, leaf)
    return check_leading_axes(layer, xs, name, least=0 if of_step else 1)


def _check_features(name: str, x: Any, input_size: int, *, of_step: bool) -> None:
    """Raises unless `x` is an array of floats whose last axis is the input size."""
    if not is_array(x):
        fix = f"Stack the steps: jnp.stack({name})" if isinstance(x, tuple) else f"Convert it: jnp.asarray({name})"
        raise TypeError(f"{name}: got {describe(x)}, expected an array. {fix}.")
    check_not_masked(name, x)
    if is_torch(x) or is_big_endian(x):
        check_float_array(name, x)
    if str(x.dtype) not in FLOATS:
        raise TypeError(
            f"{name}: got dtype {x.dtype}, expected a floating dtype. Convert it with {name}.astype(jnp.float32), or encode "
            f"symbols first: jax.nn.one_hot({name}, number_of_symbols)."
        )
    if x.ndim >= (1 if of_step else 2) and x.shape[-1] != input_size:
        raise ValueError(
            f"{name}: got {x.shape[-1]} features on the last axis (shape {x.shape}), expected {input_size}, the input size of "
            f"params. The features come last. Otherwise make params with cell.init(key, {x.shape[-1]}, hidden_size)."
        )


def check_not_masked(name: str, x: Any) -> None:
    """Raises for a NumPy masked array, whose hidden values would be used. JAX refuses it too."""
    if isinstance(x, np.ma.MaskedArray):
        padding = ", and mask=~xs.mask.any(-1), which is True at valid steps" if name == "xs" else ""
        raise TypeError(f"{name}: got a NumPy masked array, expected an array. Pass {name}.filled(0){padding}.")


def check_state(
    name: str, h: Any, layer: Any, params: Any, batch: tuple[int, ...], *, broadcasts: bool = False, axes: str = "*batch"
) -> None:
    """Raises unless `h` has the structure, shapes and dtypes of the layer's state.

    With `broadcasts`, shapes that broadcast to it will do. Messages call the axes of `batch` by
    `axes`.
    """
    expected = state_shapes(layer, params)
    if expected is None:  # `check_functions` compares h with what comes out
        return
    make = f"Make one with cell.initial_state(params, batch_shape={batch})"
    if jax.tree.structure(h) != jax.tree.structure(expected):  # type: ignore[operator] # jax: PyTreeDef has no stub
        raise TypeError(
            f"{name}: got {describe_structure(h)}, expected {describe_structure(expected)}, the state of cell {layer.name}. {make}."
        )
    for (path, leaf), like in zip(jax.tree_util.tree_leaves_with_path(h), jax.tree.leaves(expected), strict=True):
        shape, own = batch + like.shape, name + jax.tree_util.keystr(path)
        check_not_masked(own, leaf)
        if not is_array(leaf) or not (_broadcasts(leaf.shape, shape) if broadcasts else leaf.shape == shape):
            fix = f", or one that broadcasts to it such as {like.shape}. {make}" if broadcasts else f". {make}"
            fix += "" if broadcasts else f", or broadcast yours: jnp.broadcast_to({own}, {shape})"
            raise ValueError(f"{own}: got {describe(leaf)}, expected shape {shape} {_state_axes(like, axes)}{fix}.")
        if leaf.dtype != like.dtype:
            raise TypeError(
                f"{own}: got dtype {leaf.dtype}, expected {like.dtype}, the dtype of this cell's state. "
                f"Cast it: {own}.astype('{like.dtype}')."
            )


def check_step(layer: Any, params: Any, h: Any, x: Any) -> tuple[Any, Any, Any]:
    """Returns `params` in the layer's own types, `h` and `x` of one time step."""
    params, input_size = check_params(layer, params)
    batch = check_input("x", x, layer, input_size, of_step=True)
    check_state("h", h, layer, params, batch)
    return params, h, x


def check_lengths(lengths: Any, batch: tuple[int, ...], steps: int) -> Any:
    """Returns `lengths` as an array of one integer per sequence, from 0 to the number of steps
    (checked where concrete).
    """
    check_not_masked("lengths", lengths)
    traced = is_traced(lengths)
    lengths = lengths if traced else np.asarray(lengths)
    if not np.issubdtype(lengths.dtype, np.integer):
        raise TypeError(
            f"lengths: got dtype {lengths.dtype}, expected integers, the number of steps of each sequence. "
            "Convert them: jnp.asarray(lengths, int). A boolean array that marks valid steps goes to mask."
        )
    if lengths.shape != batch:
        raise ValueError(
            f"lengths: got shape {lengths.shape}, expected {batch} (*batch): one number per sequence. "
            "If xs is batch-major, (*batch, T, features), pass time_major=False."
        )
    if not traced and lengths.size and (lengths.min() < 0 or lengths.max() > steps):
        where = np.unravel_index(int(np.argmax((lengths < 0) | (lengths > steps))), lengths.shape)
        raise ValueError(
            f"lengths: got {int(lengths[where])} at {tuple(map(int, where))}, expected 0 to {steps}, the number of steps of xs. "
            f"Pad xs to the longest sequence, or cut the lengths: jnp.minimum(lengths, {steps})."
        )
    # the number of steps may exceed a narrow dtype, and differences go below an unsigned one
    return lengths.astype(lengths.dtype if traced and lengths.dtype.itemsize == 8 and lengths.dtype.kind == "i" else np.int32)


def check_flags(name: str, flags: Any, shape: tuple[int, ...], axes: str) -> None:
    """Raises unless `flags` are booleans of `shape`, whose axes are called `axes`."""
    check_not_masked(name, flags)
    if not is_array(flags) or flags.dtype != bool:
        raise TypeError(
            f"{name}: got {describe(flags)}, expected booleans. Check what its values mean, then convert it: "
            f"jnp.asarray({name}, bool)."
        )
    if flags.shape != shape:
        raise ValueError(
            f"{name}: got shape {tuple(flags.shape)}, expected {shape} ({axes}), the axes of xs without the features. Time comes "
            "first, or last with time_major=False. Use jnp.moveaxis, or jnp.broadcast_to where all sequences share it."
        )


def check_reset_state(state: Any, layer: Any, params: Any, leading: tuple[int, ...], *, time_major: bool) -> None:
    """Raises unless `state` is a state of the layer, or one for each step.

    `leading` are the axes of the inputs without the features.
    """
    batch, axes = (leading[1:], "T, *batch") if time_major else (leading[:-1], "*batch, T")
    expected, leaves = jax.tree.leaves(state_shapes(layer, params)), jax.tree.leaves(state)
    rank_of = lambda leaf: getattr(leaf, "ndim", 0)
    of_each_step = [rank_of(leaf) == len(leading) + len(like.shape) for leaf, like in zip(leaves, expected, strict=False)]
    if any(of_each_step) and not all(of_each_step):
        shapes = ", ".join(str(jnp.shape(leaf)) for leaf in leaves)
        raise ValueError(
            f"reset_state: got arrays of the shapes {shapes}, expected an axis of time in all of them, for a state of each step, "
            "or in none."
        )
    if any(of_each_step):
        check_state("reset_state", state, layer, params, leading, broadcasts=True, axes=axes)
    else:
        check_state("reset_state", state, layer, params, batch, broadcasts=True)


def check_resets(resets: Any, reset_state: Any, name: str = "resets") -> None:
    """Raises if there is a reset state but nothing resets to it."""
    if reset_state is not None and resets is None:
        raise ValueError(
            f"reset_state: got a state without {name}, expected {name} too: booleans that say where it is set. "
            "The state before the first step is h0."
        )


def check_compute_dtype(compute_dtype: Any, dtype: Any) -> Any:
    """Returns the dtype of the matmuls' operands, or None where that is the dtype of the params."""
    if compute_dtype is None:
        return None
    try:
        jnp.dtype(compute_dtype)
    except TypeError as error:
        raise TypeError(f"compute_dtype: got {compute_dtype!r}, expected a dtype such as jnp.bfloat16, or None.") from error
    if str(jnp.dtype(compute_dtype)) not in FLOATS or jnp.dtype(compute_dtype).itemsize > dtype.itemsize:
        raise ValueError(
            f"compute_dtype: got {jnp.dtype(compute_dtype)}, expected a floating dtype ({', '.join(FLOATS)}) not wider than "
            f"{dtype}, the dtype of params. For a wider one cast the params."
        )
    return None if jnp.dtype(compute_dtype) == dtype else jnp.dtype(compute_dtype)


def check_batch_shape(shape: Any) -> tuple[Any, ...]:
    """Returns a batch shape as a tuple. An int stands for one axis."""
    given = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if any(axis is None or isinstance(axis, float | str | bool) for axis in given):
        raise TypeError(f"batch_shape: got {shape!r}, expected an int or a tuple of ints.")
    axes = (int(shape),) if isinstance(shape, Integral) else tuple(shape)
    if any(isinstance(axis, Integral) and axis < 0 for axis in axes):
        raise ValueError(f"batch_shape: got {shape}, expected sizes of at least 0.")
    return axes


def _state_axes(like: Any, axes: str) -> str:
    """Names the axes of a leaf of the state, which may be an image or a matrix."""
    return f"({axes}, H)" if len(like.shape) == 1 else f"({axes} and {like.shape})"


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (m, 1) for n, m in zip(shape[::-1], to[::-1], strict=False))

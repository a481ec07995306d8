"""Checks of what `unroll` and `step` are given: every error names the argument, what arrived, what
was expected, and the fix.

The public functions call these before any arithmetic. Shapes and dtypes are known under `jit` too,
so a traced call raises the same errors. Values are checked where they are concrete
(`check_lengths`).
"""

from functools import lru_cache
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._engine.arguments import describe, is_array
from gru_jax._engine.structures import check_same_form, describe_structure, rebuild
from gru_jax._jax.tracing import is_traced
from gru_jax.derivative import Autodiff, CustomJVP, CustomVJP

FLOATS = ("float64", "float32", "bfloat16", "float16")


def check_derivative(derivative: Any) -> None:
    """Raises unless `derivative` is one of the three objects."""
    if not isinstance(derivative, CustomVJP | CustomJVP | Autodiff):
        hint = f" Write gj.{derivative.__name__}()." if isinstance(derivative, type) else ""
        raise TypeError(f"derivative: got {derivative!r}, expected gj.CustomVJP(…), gj.CustomJVP() or gj.Autodiff().{hint}")


def check_params(layer: Any, params: Any) -> tuple[Any, int | None]:
    """Returns the params in the layer's own types, and the input size they are for (None if
    unknown).
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise TypeError(
            f"params: got {describe(params)} without arrays, expected the parameters of cell {layer.name}. "
            "Make them with cell.init(key, input_size, hidden_size)."
        )
    for path, leaf in leaves:
        check_float_array("params" + jax.tree_util.keystr(path), leaf)
    dtypes = {str(leaf.dtype) for _, leaf in leaves}
    if len(dtypes) > 1:
        raise TypeError(
            f"params: got the dtypes {', '.join(sorted(dtypes))}, expected one for all leaves. "
            "Cast them: jax.tree.map(lambda p: p.astype(jnp.float32), params)."
        )
    return layer._validated_params(params)


def check_float_array(name: str, x: Any) -> None:
    """Raises unless `x` is an array of a floating dtype that JAX can compute with."""
    if is_array(x) and str(x.dtype) in FLOATS and not is_torch(x):
        return
    wanted = f"{name}: got {describe(x)}, expected an array of dtype {', '.join(FLOATS)}. "
    if is_torch(x):
        raise TypeError(
            wanted + "Convert it: jnp.asarray(tensor.detach().cpu().numpy()), or a whole state dict by gj.convert.from_pytorch."
        )
    if is_big_endian(x):
        raise TypeError(wanted + "Its bytes are in the other order: convert it with x.astype(x.dtype.newbyteorder('=')).")
    if is_array(x) and np.issubdtype(x.dtype, np.complexfloating):
        raise TypeError(
            wanted + "Complex parameters are not supported: keep the real and the imaginary part as two leaves, and join them "
            "where they are used with jax.lax.complex(re, im)."
        )
    raise TypeError(wanted + "Convert it: jnp.asarray(value, jnp.float32).")


def is_torch(x: Any) -> bool:
    """Whether `x` is a PyTorch tensor."""
    return type(x).__module__.partition(".")[0] == "torch"


def is_big_endian(x: Any) -> bool:
    """Whether `x` is a NumPy array whose bytes are in another order than this machine's."""
    return isinstance(x, np.ndarray | np.generic) and not x.dtype.isnative


def check_cell_params(cell: Any, params: Any, path: str) -> tuple[Any, int | None]:
    """Returns the params of one cell in its own type, and their input size.

    Messages name them by `path`.
    """
    params = rebuild(params, cell.params_type, path)
    if cell.check_params is None:
        return params, None
    try:
        return params, cell.check_params(params)
    except (TypeError, ValueError) as error:
        if path == "params":
            raise
        raise type(error)(str(error).replace("params", path, 1)) from error


def check_input(name: str, x: Any, input_size: int | None, *, least_rank: int) -> None:
    """Raises unless `x` is an array of floats whose last axis is the input size."""
    if not is_array(x):
        raise TypeError(f"{name}: got {describe(x)}, expected an array. Stack the steps: jnp.stack({name}).")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got a NumPy masked array, expected an array. Pass {name}.filled(0) and the steps that are valid as mask=…."
        )
    if is_torch(x) or is_big_endian(x):
        check_float_array(name, x)
    if str(x.dtype) not in FLOATS:
        raise TypeError(
            f"{name}: got dtype {x.dtype}, expected a floating dtype. Convert it with {name}.astype(jnp.float32), or encode "
            f"symbols first: jax.nn.one_hot({name}, number_of_symbols)."
        )
    if x.ndim < least_rank:
        wanted = "(T, *batch, D), or (*batch, T, D) with time_major=False" if least_rank == 2 else "(*batch, D)"
        raise ValueError(
            f"{name}: got shape {x.shape}, expected {wanted}. Give a single feature an axis of its own: {name}[..., None]."
        )
    if input_size not in (None, x.shape[-1]):
        raise ValueError(
            f"{name}: got {x.shape[-1]} features on the last axis (shape {x.shape}), expected {input_size}, the input size of "
            f"params. The features come last. Otherwise make params with cell.init(key, {x.shape[-1]}, hidden_size)."
        )


def check_state(name: str, h: Any, layer: Any, params: Any, batch: tuple[int, ...]) -> None:
    """Raises unless `h` has the structure, shapes and dtypes of the layer's state."""
    expected = state_shapes(layer, params)
    if expected is None:  # `check_functions` compares h with what comes out
        return
    make = f"Make one with cell.initial_state(params, batch_shape={batch})"
    if jax.tree.structure(h) != jax.tree.structure(expected):  # type: ignore[operator] # jax: PyTreeDef has no stub
        raise TypeError(
            f"{name}: got {describe_structure(h)}, expected {describe_structure(expected)}, the state of cell {layer.name}. {make}."
        )
    for leaf, like in zip(jax.tree.leaves(h), jax.tree.leaves(expected), strict=True):
        shape = batch + like.shape
        if not is_array(leaf) or leaf.shape != shape:
            raise ValueError(
                f"{name}: got {describe(leaf)}, expected shape {shape} (*batch, H). {make}, or broadcast yours: "
                f"jnp.broadcast_to({name}, {shape})."
            )
        if leaf.dtype != like.dtype:
            raise TypeError(
                f"{name}: got dtype {leaf.dtype}, expected {like.dtype}, the dtype of this cell's state. "
                f"Cast it: {name}.astype('{like.dtype}')."
            )


def state_shapes(layer: Any, params: Any) -> Any:
    """The shapes and dtypes of a layer's state without batch axes, or None if `params` do not
    tell.
    """
    leaves, structure = jax.tree.flatten(params)
    return _state_shapes(layer, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@lru_cache(maxsize=1024)
def _state_shapes(layer: Any, structure: Any, forms: tuple[Any, ...]) -> Any:
    params = structure.unflatten([jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in forms])
    try:
        return jax.eval_shape(layer._zeros, params)
    except ValueError:
        return None


def default_zero_state(cell_name: str, params: Any) -> jax.Array:
    """Zeros of the size of the last axis of the first leaf whose field name begins with U."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path and str(getattr(path[-1], "name", getattr(path[-1], "key", ""))).startswith("U"):
            return jnp.zeros(leaf.shape[-1], leaf.dtype)
    raise ValueError(
        f"params: got {describe(params)} without a field whose name begins with U, by whose last axis cell {cell_name} knows "
        "its hidden size. Give the cell zero_state=lambda params: …, or call unroll with h0."
    )


def check_functions(cell: Any, params: Any, xs: Any, h0: Any) -> None:
    """Raises if a step of a cell of one's own fails, or returns something else than a state.
    Evaluates shapes only.

    A cell with `check_params` has been checked already.
    """
    if cell.check_params is not None:
        return
    at_one_step = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
    x, h = at_one_step(xs), jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), h0)
    shapes = lambda tree: ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(tree))
    try:
        u = jax.eval_shape(cell.project, params, x)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"xs: got steps of shape {shapes(x)}, which project of cell {cell.name} does not take ({error}). "
            "Expected the input size that params were made for: the features are the last axis of xs."
        ) from error
    new = jax.eval_shape(lambda params, u, h: cell.update(cell.gates(params, u, h), h), params, u, h)
    check_same_form(cell.name, new, h)
    try:
        jax.eval_shape(lambda h, y: jax.linear_transpose(cell.output, h)(y), h, jax.eval_shape(cell.output, h))
    except Exception as error:
        raise TypeError(
            f"cell: got an output of cell {cell.name} that is not linear in the state, expected a linear one such as "
            "lambda state: state.h. Apply what is not linear to the outputs of unroll, or keep it in the state."
        ) from error


def check_step(layer: Any, params: Any, h: Any, x: Any) -> tuple[Any, Any, Any]:
    """Returns `params` in the layer's own types, `h` and `x` of one time step."""
    if layer.needs_key:
        raise ValueError(
            f"cell: got {layer.name}, which draws noise for whole sequences, expected a cell without noise in step. "
            "Step the cell for evaluation: cell.deterministic()."
        )
    params, input_size = check_params(layer, params)
    check_input("x", x, input_size, least_rank=1)
    check_state("h", h, layer, params, x.shape[:-1])
    return params, h, x


def check_lengths(lengths: Any, batch: tuple[int, ...], steps: int) -> Any:
    """Returns `lengths` as an array of one integer per sequence, from 0 to the number of steps
    (checked where concrete).
    """
    traced = is_traced(lengths)
    lengths = lengths if traced else np.asarray(lengths)
    if not np.issubdtype(lengths.dtype, np.integer):
        raise TypeError(
            f"lengths: got dtype {lengths.dtype}, expected integers, the number of steps of each sequence. "
            "Convert them with lengths.astype(int). A boolean array that marks valid steps goes to mask."
        )
    if lengths.shape != batch:
        raise ValueError(f"lengths: got shape {lengths.shape}, expected {batch} (*batch): one number per sequence.")
    if not traced and lengths.size and (lengths.min() < 0 or lengths.max() > steps):
        where = np.unravel_index(int(np.argmax((lengths < 0) | (lengths > steps))), lengths.shape)
        raise ValueError(
            f"lengths: got {int(lengths[where])} at {tuple(map(int, where))}, expected 0 to {steps}, the number of steps of xs. "
            "Pad xs to the longest sequence, or cut the lengths: jnp.minimum(lengths, xs.shape[0])."
        )
    # the number of steps may exceed a narrow dtype, and differences go below an unsigned one
    return lengths.astype(lengths.dtype if traced and lengths.dtype.itemsize == 8 and lengths.dtype.kind == "i" else np.int32)


def check_flags(name: str, flags: Any, shape: tuple[int, ...], axes: str) -> None:
    """Raises unless `flags` are booleans of `shape`, whose axes are called `axes`."""
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


def check_reset_state(reset_state: Any, layer: Any, params: Any, batch: tuple[int, ...]) -> None:
    """Raises unless `reset_state` has the structure and dtypes of the layer's state, and shapes
    that broadcast to it.
    """
    expected = state_shapes(layer, params)
    if expected is None:  # broadcasting to the state fails where it does not fit
        return
    if jax.tree.structure(reset_state) != jax.tree.structure(expected):  # type: ignore[operator] # jax: PyTreeDef has no stub
        raise TypeError(
            f"reset_state: got {describe_structure(reset_state)}, expected {describe_structure(expected)}, the state of cell "
            f"{layer.name}. Make one with cell.initial_state(params)."
        )
    for leaf, like in zip(jax.tree.leaves(reset_state), jax.tree.leaves(expected), strict=True):
        shape = batch + like.shape
        if not is_array(leaf) or not _broadcasts(leaf.shape, shape):
            raise ValueError(
                f"reset_state: got {describe(leaf)}, expected shape {shape} (*batch, H), or one that broadcasts to it such "
                f"as {shape[-1:]}."
            )
        if leaf.dtype != like.dtype:
            raise TypeError(
                f"reset_state: got dtype {leaf.dtype}, expected {like.dtype}, the dtype of this cell's state. "
                f"Cast it: reset_state.astype('{like.dtype}')."
            )


def check_resets(resets: Any, reset_state: Any, name: str = "resets") -> None:
    """Raises if there is a reset state but nothing resets to it."""
    if reset_state is not None and resets is None:
        raise ValueError(
            f"reset_state: got a state without {name}, expected {name} too: booleans that say where it is set. "
            "The state before the first step is h0."
        )


def check_key(key: Any, layer: Any) -> None:
    """Raises if noise is drawn without a key, or `key` is not a key."""
    if key is None and layer.needs_key:
        raise ValueError(
            f"key: got None, expected a jax.random key, because {layer.name} draws noise. Pass key=…, a new one for each call, or "
            "evaluate without noise: gj.unroll(cell.deterministic(), …)."
        )
    is_key = key is None or (is_array(key) and (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or str(key.dtype) == "uint32"))
    if not is_key:
        raise TypeError(f"key: got {describe(key)}, expected a jax.random key: jax.random.key(seed).")


def check_compute_dtype(compute_dtype: Any, dtype: Any) -> Any:
    """Returns the dtype of the matmuls' operands, or None where that is the dtype of the params."""
    if compute_dtype is None:
        return None
    if str(jnp.dtype(compute_dtype)) not in FLOATS or jnp.dtype(compute_dtype).itemsize > dtype.itemsize:
        raise ValueError(
            f"compute_dtype: got {jnp.dtype(compute_dtype)}, expected one of {', '.join(FLOATS)} that is no wider than {dtype}, "
            "the dtype of params. For a wider one cast the params."
        )
    return None if jnp.dtype(compute_dtype) == dtype else jnp.dtype(compute_dtype)


def check_batch_shape(shape: Any) -> tuple[Any, ...]:
    """Returns a batch shape as a tuple. An int stands for one axis."""
    axes = (int(shape),) if isinstance(shape, Integral) else tuple(shape)
    if any(isinstance(axis, Integral) and axis < 0 for axis in axes):
        raise ValueError(f"batch_shape: got {shape}, expected sizes of at least 0.")
    return axes


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))

"""What bad input is told: which argument, what arrived, what was expected, and the fix.

The public functions call these before any arithmetic; shapes and dtypes are known under `jit` too, so a traced call is told the
same. Values are looked at where they are concrete (`check_lengths`).
"""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax.tracing import is_traced

FLOATS = ("float64", "float32", "bfloat16", "float16")


def check_option(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, choices))}.")


def check_block_size(block_size: Any) -> int | None:
    """A number of steps, or None."""
    return None if block_size is None else check_steps("block_size", block_size, ", or None to have it chosen")


def check_steps(name: str, steps: Any, otherwise: str = "") -> int:
    """A number of steps, at least one; NumPy's integers are numbers too."""
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"{name}: got {steps!r}, expected a number of steps, at least 1{otherwise}.")
    return int(steps)


def check_cell(cell: Any) -> None:
    """Raises unless `cell` is a cell, rather than the factory that makes one."""
    is_layer = hasattr(cell, "run") and hasattr(cell, "needs_key")  # a stack, two directions
    if not is_layer and not (hasattr(cell, "project") and hasattr(cell, "gates") and hasattr(cell, "update")):
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


def check_step(cell: Any, params: Any, h: Any, x: Any) -> tuple[Any, Any, jax.Array]:
    """`params`, `h` and `x` of one time step as JAX arrays."""
    params, input_size = check_params(cell, params)
    x = check_input("x", x, input_size, jax.tree.leaves(params)[0].dtype, least_rank=1)
    return params, check_state("h", h, cell, params, x.shape[:-1]), x


def check_no_noise(cell: Any) -> None:
    """Raises where a single step is asked of what draws noise for whole sequences."""
    if cell.needs_key:
        raise ValueError(
            f"cell: got {cell.name}, which draws noise for whole sequences, expected one without, in step. "
            "Step its expectation: cell.deterministic().step(…)."
        )


def check_lengths(lengths: Any, batch: tuple[int, ...], steps: int) -> jax.Array:
    """`lengths` as a JAX array: one integer per sequence, from 0 to the number of steps (looked at where concrete)."""
    traced = is_traced(lengths)
    lengths = lengths if traced else np.asarray(lengths)
    if not np.issubdtype(lengths.dtype, np.integer):
        raise TypeError(
            f"lengths: got dtype {lengths.dtype}, expected integers, the number of steps of each sequence. "
            "Convert them (lengths.astype(int)); a boolean array that says which steps count goes to mask."
        )
    if lengths.shape != batch:
        raise ValueError(f"lengths: got shape {lengths.shape}, expected {batch} (*batch): one number per sequence.")
    if not traced and lengths.size and (lengths.min() < 0 or lengths.max() > steps):
        where = np.unravel_index(int(np.argmax((lengths < 0) | (lengths > steps))), lengths.shape)
        raise ValueError(
            f"lengths: got {int(lengths[where])} at {tuple(map(int, where))}, expected 0 to {steps}, the number of steps of xs. "
            "Pad xs to the longest sequence, or cut the lengths (jnp.minimum(lengths, xs.shape[0]))."
        )
    # the number of steps may be beyond a narrow dtype, and differences below an unsigned one
    return jnp.asarray(lengths, jnp.int64 if lengths.dtype.itemsize == 8 and traced else jnp.int32)


def check_flags(name: str, flags: Any, shape: tuple[int, ...], axes: str) -> jax.Array:
    """`flags` as a JAX array: booleans of `shape`, whose axes are called `axes`."""
    if not _is_array(flags) or flags.dtype != bool:
        raise TypeError(
            f"{name}: got {_describe(flags)}, expected booleans. Convert it: jnp.asarray({name}, bool), after a look at what "
            "its values mean."
        )
    if flags.shape != shape:
        raise ValueError(
            f"{name}: got shape {tuple(flags.shape)}, expected {shape} ({axes}), the axes of xs without the features. "
            "Time comes first, or last with time_major=False: jnp.moveaxis, or jnp.broadcast_to where all sequences share it."
        )
    return jnp.asarray(flags)


def check_reset_state(reset_state: Any, cell: Any, h: Any) -> Any:
    """`reset_state` as JAX arrays in the shape of the state `h`."""
    if jax.tree.structure(reset_state) != jax.tree.structure(h):  # type: ignore[operator] # jax: PyTreeDef has no stub
        raise TypeError(
            f"reset_state: got {_describe(reset_state)}, expected the state of cell {cell.name}. "
            "Make one with cell.initial_state(params)."
        )

    def fit(leaf, like):
        if not _is_array(leaf) or not _broadcasts(leaf.shape, like.shape):
            raise ValueError(
                f"reset_state: got {_describe(leaf)}, expected shape {like.shape} (*batch, H) or one that broadcasts to it, "
                f"{like.shape[-1:]} say."
            )
        if leaf.dtype != like.dtype:
            raise TypeError(
                f"reset_state: got dtype {leaf.dtype}, expected {like.dtype} as in params. "
                f"Cast it: reset_state.astype('{like.dtype}')."
            )
        return jnp.broadcast_to(leaf, like.shape)

    return jax.tree.map(fit, reset_state, h)


def check_resets(resets: Any, reset_state: Any, name: str = "resets") -> None:
    """Raises where a reset state is given and nothing that resets."""
    if reset_state is not None and resets is None:
        raise ValueError(
            f"reset_state: got a state without {name}, expected {name} too: booleans that say where it is set. "
            "The state before the first step is h0."
        )


def check_key(key: Any, cell: Any) -> None:
    """Raises where noise is to be drawn without a key, or from what is no key."""
    if key is None and cell.needs_key:
        raise ValueError(
            f"key: got None, expected a jax.random key: {cell.name} draws noise. Pass key=…, a new one for each call; or "
            "evaluate without noise: gj.unroll(cell.deterministic(), …)."
        )
    is_key = key is None or (_is_array(key) and (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or str(key.dtype) == "uint32"))
    if not is_key:
        raise TypeError(f"key: got {_describe(key)}, expected a jax.random key: jax.random.key(seed).")


def check_compute_dtype(compute_dtype: Any, dtype: Any) -> Any:
    """The dtype in which matmuls take their operands; None where that is the dtype of the params."""
    if compute_dtype is None:
        return None
    if str(jnp.dtype(compute_dtype)) not in FLOATS or jnp.dtype(compute_dtype).itemsize > dtype.itemsize:
        raise ValueError(
            f"compute_dtype: got {jnp.dtype(compute_dtype)}, expected one of {', '.join(FLOATS)} that is no wider than the "
            f"params' {dtype}: it lowers the operands of the matmuls. For a wider one cast the params."
        )
    return None if jnp.dtype(compute_dtype) == dtype else jnp.dtype(compute_dtype)


def batch_shape(shape: Any) -> tuple[int, ...]:
    """A batch shape as a tuple; an int is taken as `(int,)`."""
    axes = (int(shape),) if isinstance(shape, Integral) else tuple(shape)
    if any(axis < 0 for axis in axes):
        raise ValueError(f"batch_shape: got {shape}, expected sizes of at least 0.")
    return axes


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))


def _describe(x: Any) -> str:
    if _is_array(x):
        return f"an array of shape {tuple(x.shape)} and dtype {x.dtype}"
    return f"{type(x).__name__}"

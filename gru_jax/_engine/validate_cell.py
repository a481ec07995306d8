"""Checks of a cell and its params: types, dtypes, the shapes of its state, and what its functions return."""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._engine.arguments import describe, is_array
from gru_jax._engine.differentiable import transpose_output
from gru_jax._engine.inputs import example_input
from gru_jax._engine.structures import check_same_form, rebuild
from gru_jax._jax.partition import differentiable, is_inexact

FLOATS = ("float64", "float32", "bfloat16", "float16")


def check_params(layer: Any, params: Any) -> tuple[Any, int | None]:
    """Returns the params in the layer's own types, and the input size they are for (None if
    unknown).
    """
    if params is None:
        raise TypeError(
            f"params: got NoneType without arrays, expected the parameters of cell {layer.name}. "
            "Make them with cell.init(key, input_size, hidden_size). A cell without parameters has the params ()."
        )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        check_array("params" + jax.tree_util.keystr(path), leaf)
    dtypes = {str(real_dtype(leaf)) for _, leaf in leaves if is_inexact(leaf)}
    if len(dtypes) > 1:
        raise TypeError(
            f"params: got the dtypes {', '.join(sorted(dtypes))}, expected one for all leaves that are not integers or booleans. "
            "Cast them: jax.tree.map(lambda p: p.astype(jnp.float32), params)."
        )
    return layer._validated_params(params)


def real_dtype(leaf: Any) -> Any:
    """The dtype of the real part: float32 for complex64."""
    return jnp.finfo(leaf.dtype).dtype


def float_dtype(params: Any, *others: Any) -> Any:
    """The floating dtype that all inexact leaves of validated params share.

    Where there is none, that of the first inexact leaf of `others`, the inputs and the state.
    """
    arrays = (leaf for leaf in jax.tree.leaves((params, others)) if is_inexact(leaf))
    first = next(arrays, None)
    return jnp.finfo(jax.dtypes.canonicalize_dtype(float if first is None else first.dtype)).dtype


def check_array(name: str, x: Any) -> None:
    """Raises unless `x` is an array that JAX can compute with: floating-point, complex, integer,
    boolean or a random key.
    """
    if not is_array(x) or is_torch(x) or is_big_endian(x) or not _is_jax_dtype(x.dtype):
        check_float_array(name, x)


def _is_jax_dtype(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (np.number, np.bool_, jax.dtypes.extended))


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
        raise TypeError(
            wanted + f"It has non-native byte order: convert it with {name}.astype({name}.dtype.newbyteorder('='))."
        )
    if is_array(x) and np.issubdtype(x.dtype, np.complexfloating):
        raise TypeError(
            wanted + f"The weights of this cell are real: take {name}.real. A cell of your own may have complex ones."
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
    for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        check_float_array(path + jax.tree_util.keystr(leaf_path), leaf)
    try:
        return params, cell.check_params(params)
    except (TypeError, ValueError) as error:
        if path == "params":
            raise
        raise type(error)(str(error).replace("params", path, 1)) from error


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


def output_size(cell: Any, params: Any, input_size: int | None) -> int | None:
    """The size of the last axis of a cell's outputs. None if it depends on an unknown input size."""
    if cell.read_out is not None and input_size is None:
        input_size = cell._validated_params(params)[1]
    leaves, structure = jax.tree.flatten(params)
    return _output_size(cell, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), input_size)


@lru_cache(maxsize=1024)  # asked at every call of a stack
def _output_size(cell: Any, structure: Any, forms: tuple[Any, ...], input_size: int | None) -> int | None:
    params = structure.unflatten([jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in forms])
    output = lambda params: cell.output(cell._zeros(params))
    if cell.read_out is None:
        return _last_axis(jax.eval_shape(output, params))
    if input_size is None or not isinstance(cell.num_feature_axes, int):
        return None
    x = example_input(cell.num_feature_axes, input_size, float_dtype(params))
    try:
        return _last_axis(jax.eval_shape(lambda params, x: cell.read_out(params, x, output(params)), params, x))
    except Exception:  # the run raises it, or the function takes no single pixel
        return None


def _last_axis(y: Any) -> int | None:
    """The size of the last axis of outputs, or None for those of several arrays."""
    return y.shape[-1] if is_array(y) else None


def broadcast_state(layer: Any, params: Any, state: Any, batch: tuple[Any, ...]) -> Any:
    """Returns a validated state with all its batch axes."""
    expected = state_shapes(layer, params)
    if expected is None:  # it is not known which axes are batch axes
        return state
    return jax.tree.map(lambda leaf, like: jnp.broadcast_to(leaf, batch + like.shape), state, expected)


def broadcast_reset_state(state: Any, h0: Any, steps: Any, *, time_axis: int = 0) -> Any:
    """Returns a validated reset state with all its batch axes, and with time first if it has one for
    each step.
    """

    def broadcast(leaf, h):
        if leaf.ndim > h.ndim:
            return jnp.broadcast_to(jnp.moveaxis(leaf, time_axis, 0), (steps, *h.shape))
        return jnp.broadcast_to(leaf, h.shape)

    return jax.tree.map(broadcast, state, h0)


def default_zero_state(cell_name: str, params: Any) -> jax.Array:
    """Zeros of the size of the last axis of the first leaf whose field name begins with U."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path and str(getattr(path[-1], "name", getattr(path[-1], "key", ""))).startswith("U"):
            return jnp.zeros(leaf.shape[-1], leaf.dtype)
    raise ValueError(
        f"params: got {describe(params)} without a field whose name begins with U, by whose last axis cell {cell_name} knows "
        "its hidden size. Give the cell zero_state=lambda params: …, or call unroll with h0."
    )


@lru_cache(maxsize=1024)
def _is_zeros(layer: Any, structure: Any, forms: tuple[Any, ...]) -> bool:
    params = structure.unflatten([jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in forms])
    try:
        with jax.ensure_compile_time_eval():
            return not any(np.any(leaf) for leaf in jax.tree.leaves(layer._zeros(params)))
    except Exception:  # it reads values of params, which may be anything, or makes keys
        return False


def default_reset_state(layer: Any, params: Any) -> Any:
    """The initial state, without batch axes. None, which stands for zeros, where it is zeros."""
    leaves, structure = jax.tree.flatten(params)
    is_zeros = _is_zeros(layer, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
    return None if is_zeros or state_shapes(layer, params) is None else layer._zeros(params)


def check_functions(cell: Any, params: Any, xs: Any, h0: Any) -> None:
    """Raises if a step fails or does not return a state. Evaluates shapes only."""
    at_one_step = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
    x, h = at_one_step(xs), jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), h0)
    u = _projected(cell, params, x)
    new = jax.eval_shape(lambda params, u, h: cell.update(cell.gates(params, u, h), h), params, u, h)
    check_same_form(cell.name, new, h)
    if cell.check_params is None:  # a user's cell
        _check_output_is_linear(cell, h)
        if cell.adjoint is not None:
            _check_gates_of_all_steps(cell, params, u, h)


def _projected(cell: Any, params: Any, x: Any) -> Any:
    """The shapes of what `project` returns for one step."""
    try:
        return jax.eval_shape(cell.project, params, x)
    except (TypeError, ValueError) as error:
        shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(x))
        raise type(error)(
            f"xs: got steps of shape {shapes}, which project of cell {cell.name} does not take ({error}). "
            "Expected the input size that params were made for: the features are the last axis of xs."
        ) from error


def _check_gates_of_all_steps(cell: Any, params: Any, u: Any, h: Any) -> None:
    """Raises if a value of `gates` stays without a time axis when `u` and `h` have one."""
    with_steps = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), tree)
    of_one_step = jax.eval_shape(cell.gates, params, u, h)
    of_two_steps = jax.eval_shape(cell.gates, params, with_steps(u), with_steps(h))
    for one, two in zip(jax.tree.leaves(of_one_step), jax.tree.leaves(of_two_steps), strict=True):
        if two.shape != (2, *one.shape):
            raise ValueError(
                f"cell: got gates of cell {cell.name} that return shape {two.shape} for two steps at once, expected "
                f"{(2, *one.shape)}. With an adjoint, gates runs for many steps at once: give each value that it returns all "
                "axes of the state, for example jnp.broadcast_to(alpha, g.shape)."
            )


def _check_output_is_linear(cell: Any, h: Any) -> None:
    try:
        y = jax.eval_shape(lambda h: differentiable(cell.output(h)), h)
        jax.eval_shape(partial(transpose_output, cell.output), h, y)
    except Exception as error:
        raise TypeError(
            f"cell: got an output of cell {cell.name} that is not linear in the state, expected a linear one such as "
            "lambda state: state.h. Apply what is not linear to the outputs of unroll, or keep it in the state."
        ) from error

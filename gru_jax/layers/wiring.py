"""How the layers of a stack are connected: one after the other, with residuals and skip connections."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gru_jax._engine.arguments import check_flag, check_option, is_array
from gru_jax._engine.structures import describe_structure


def connect(
    stack: Any,
    xs: Any,
    run: Callable[[int, Any], Any],
    *,
    drop: Callable[[int, Any], Any] = lambda layer, ys: ys,
    masked: Callable[[Any], Any] = lambda xs: xs,
) -> Any:
    """Feeds inputs through the layers of a stack, and returns the outputs of the stack.

    Args:
        stack: The stack.
        xs: Its inputs, of a sequence or of one step.
        run: `run(layer, inputs) -> outputs`. None as outputs of the last layer ends the run.
        drop: Applies dropout to the outputs of a layer below another.
        masked: Sets the inputs at masked steps to zero.
    """
    top, below, outputs = len(stack.cells) - 1, xs, []
    for i in range(top + 1):
        ys = run(i, _side_by_side(stack, [xs, below]) if stack.skip_connections and i else below)
        if ys is None:
            return None
        if is_residual(stack.residual, i):
            ys = _sum(stack, below if i else masked(xs), ys)
        outputs.append(ys)
        below = ys if i == top else drop(i, ys)
    if stack.skip_connections:
        return _side_by_side(stack, outputs)
    return _sum(stack, masked(xs), below) if stack.residual == "block" else below


def sizes(stack: Any, params: Any, input_size: int | None) -> tuple[list[int | None], list[int | None]]:
    """Computes the input and the output size of each layer. An unknown size is None."""
    inputs: list[int | None] = []
    outputs: list[int | None] = []
    for cell, own in zip(stack.cells, params, strict=True):
        inputs.append(input_of(stack, input_size, outputs[-1]) if outputs else input_size)
        outputs.append(cell._output_size(own, inputs[-1]))
    return inputs, outputs


def input_of(stack: Any, input_size: int | None, below: int | None) -> int | None:
    """Computes the input size of a layer above the first."""
    if not stack.skip_connections:
        return below
    return None if input_size is None or below is None else input_size + below


def is_residual(residual: Any, layer: int) -> bool:
    """Whether the input of a layer is added to its output."""
    return layer > 0 if residual is True else isinstance(residual, tuple) and residual[layer]


def checked_residual(residual: Any, layers: int) -> Any:
    """Returns False, True, "block", or a tuple of bools of which one is True."""
    if isinstance(residual, str):
        check_option("residual", residual, ("block",))
    elif isinstance(residual, list | tuple):
        if len(residual) != layers:
            raise ValueError(f"residual: got {len(residual)} values, expected {layers}, one for each layer.")
        chosen = tuple(check_flag(f"residual[{i}]", own) for i, own in enumerate(residual))
        return any(chosen) and chosen
    else:
        return check_flag("residual", residual)
    return residual


def _sum(stack: Any, xs: Any, ys: Any) -> Any:
    _check_arrays(stack, (xs, ys), f"residual={stack.residual!r}")
    return xs + ys


def _side_by_side(stack: Any, parts: list[Any]) -> Any:
    _check_arrays(stack, parts, "skip_connections=True")
    return jnp.concatenate(parts, axis=-1)


def _check_arrays(stack: Any, parts: Any, option: str) -> None:
    """Raises unless all inputs and outputs that are put together are single arrays."""
    for part in parts:
        if not is_array(part):
            raise TypeError(
                f"cells: got inputs or outputs of several arrays ({describe_structure(part)}) in {stack.name}, expected single "
                f"arrays with {option}. Put a gj.feedforward between the layers that makes one array of them."
            )

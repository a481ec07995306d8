"""Stacks in `flow`: as one cell where a gradient passes through all layers, and layer by layer where
each layer is measured for itself.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax

from gru_jax._engine.functions import bind
from gru_jax._engine.layer import check_cell
from gru_jax._engine.step_flags import step_flags, zero_masked
from gru_jax.cell import Cell
from gru_jax.flow.conditions import Conditions
from gru_jax.layers.feedforward import FeedForward
from gru_jax.layers.stack import Stack
from gru_jax.layers.wiring import connect
from gru_jax.unroll import Arrays, unroll, validated


def check_layer(layer: Any) -> None:
    """Raises unless `layer` is a cell or a stack of cells, without noise and in one direction."""
    check_cell(layer)
    _check_parts(layer)
    if layer.needs_key:
        raise ValueError(f"cell: got {layer.name}, which draws noise, expected a cell without noise: cell.deterministic().")
    if not _has_state(layer):
        raise TypeError(f"cell: got {layer.name}, which has no state, expected a gj.Cell, or a gj.stack with one.")


def _check_parts(layer: Any) -> None:
    if isinstance(layer, Stack):
        for part in layer.cells:
            _check_parts(part)
    elif not isinstance(layer, Cell | FeedForward):
        raise TypeError(
            f"cell: got {layer.name}, expected a gj.Cell or a gj.stack of cells, in one direction. Pass the cells of a "
            "bidirectional layer one by one: the forward one with xs, the other with xs reversed."
        )


def _has_state(layer: Any) -> bool:
    return any(map(_has_state, layer.cells)) if isinstance(layer, Stack) else isinstance(layer, Cell)


@lru_cache(maxsize=256)  # equal layers make one cell, so that JAX traces it once
def as_cell(layer: Any) -> Cell:
    """A stack as one cell without a derivation, whose state is that of the stack."""
    if isinstance(layer, Cell):
        return layer
    return Cell(
        layer.init,
        project=_project,
        gates=bind(_new_states, layer),
        update=_update,
        read_out=bind(outputs_from_states, layer),
        zero_state=layer._zeros,
        num_feature_axes=layer.num_feature_axes,
        name=layer.name,
    )


def _project(params: Any, xs: Any) -> Any:
    return xs


def _update(new: Any, h: Any) -> Any:
    return new


def _new_states(stack: Stack, params: Any, x: Any, h: Any) -> Any:
    return stack._step(params, h, x)[0]


def outputs_from_states(layer: Any, params: Any, x: Any, h: Any) -> Any:
    """The output of one step, from its input and the states after it."""
    if isinstance(layer, FeedForward):
        return layer._step(params, h, x)[1]
    if isinstance(layer, Cell):
        y = layer.output(h)
        return y if layer.read_out is None else layer.read_out(params, x, y)
    return connect(layer, x, lambda i, x: outputs_from_states(layer.cells[i], params[i], x, h[i]))


def by_layer(layer: Any, of_cell: Callable[[Any], Any], states: Any) -> Any:
    """Applies `of_cell` to the state of every cell: a tuple for a stack, with () for a layer without
    state.
    """
    if isinstance(layer, Stack):
        return tuple(by_layer(part, of_cell, own) for part, own in zip(layer.cells, states, strict=True))
    return () if isinstance(layer, FeedForward) else of_cell(states)


def run_by_layer(
    function: Callable[..., Any], stack: Stack, params: Any, xs: Any, h0: Any, conditions: Conditions
) -> tuple[Any, ...]:
    """Calls `function` for each layer of a stack, with the inputs that the layers below give it."""
    params, arrays = validated(stack, params, Arrays(xs, h0, *conditions, None), time_major=True)
    results = []

    def run(i, xs):
        cell = stack.cells[i]
        own_h0 = None if h0 is None else arrays.h0[i]
        reset_state = None if conditions.reset_state is None else arrays.reset_state[i]
        options = conditions._replace(reset_state=reset_state)._asdict()
        results.append(() if isinstance(cell, FeedForward) else function(cell, params[i], xs, own_h0, **options))
        return unroll(cell, params[i], xs, own_h0, **options)[1] if i < len(stack.cells) - 1 else None

    flags = step_flags(arrays.mask, arrays.lengths, arrays.resets, jax.tree.leaves(xs)[0].shape[0])
    connect(stack, xs, run, masked=partial(zero_masked, flags))
    return tuple(results)

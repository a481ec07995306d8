"""Splits stacks and bidirectional layers into single cells, and joins their parameters again.

Libraries such as PyTorch store a stack of bidirectional layers in one object. A `Position` locates a
cell within it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array

from gru_jax._engine.layer import check_cell
from gru_jax.convert.library import Library, plain_form
from gru_jax.convert.packing import pack
from gru_jax.layers.bidirectional import Bidirectional, BidirectionalParams
from gru_jax.layers.stack import Stack


class Position(NamedTuple):
    """The position of a single cell in a stack of layers.

    Attributes:
        layer: The layer, counted from the inputs.
        direction: 0 for forward and 1 for backward.
    """

    layer: int
    direction: int


def single_cells(cell: Any) -> dict[Position, Any]:
    """Lists the single cells of any cell by position: layer by layer, forward before backward."""
    cells: dict[Position, Any] = {}
    for i, layer in enumerate(_layers(cell)):
        if isinstance(layer, Bidirectional):
            cells[Position(i, 0)], cells[Position(i, 1)] = layer.forward_cell, layer.backward_cell
        else:
            cells[Position(i, 0)] = layer
    return cells


def split_params(cell: Any, params: Any) -> dict[Position, Any]:
    """Checks `params`, and splits them into those of the single cells.

    Raises:
        TypeError, ValueError: If `params` do not belong to `cell`.
    """
    params, _ = cell._validated_params(params)
    split: dict[Position, Any] = {}
    for i, (layer, own) in enumerate(zip(_layers(cell), params if isinstance(cell, Stack) else (params,), strict=True)):
        if isinstance(layer, Bidirectional):
            split[Position(i, 0)], split[Position(i, 1)] = own.forward, own.backward
        else:
            split[Position(i, 0)] = own
    return split


def join_params(cell: Any, params_by_position: Mapping[Position, Any]) -> Any:
    """Inverts `split_params`."""
    joined = tuple(
        BidirectionalParams(params_by_position[Position(i, 0)], params_by_position[Position(i, 1)])
        if isinstance(layer, Bidirectional)
        else params_by_position[Position(i, 0)]
        for i, layer in enumerate(_layers(cell))
    )
    return joined if isinstance(cell, Stack) else joined[0]


def build_params(cell: Any, params_at: Callable[[Position], Any]) -> Any:
    """Builds the parameters of `cell` from those of its single cells, which `params_at` returns."""
    params = join_params(cell, {position: params_at(position) for position in single_cells(cell)})
    params, _ = cell._validated_params(params)
    return params


def pack_cells(library: Library, cell: Any, params: Any) -> dict[Position, dict[str, Array]]:
    """Converts the parameters of every single cell to the library's tensors.

    Raises:
        TypeError: If the library cannot represent one of the cells.
        ValueError: If the library cannot represent the biases, or only some of the cells have
            biases.
    """
    tables = {position: library.table_for(one) for position, one in single_cells(cell).items()}
    packed = {position: pack(tables[position], own, library.name) for position, own in split_params(cell, params).items()}
    has_bias = [set(tables[position].optional) <= set(tensors) for position, tensors in packed.items()]
    if any(has_bias) and not all(has_bias):
        raise ValueError(
            "params: got biases in some layers or directions and None in others, expected biases in all or in none, as "
            f"{library.name} requires. Set the missing ones to zeros, which compute the same function: "
            "params._replace(b=jnp.zeros(H)) for each bias of a cell."
        )
    return packed


def check_composition(
    cell: Any, library: str, merges: tuple[str | None, ...] = ("concat",), *, other_activations: bool = False
) -> None:
    """Checks that a library can combine layers in the way that `cell` does.

    Args:
        cell: A cell, a stack, or a bidirectional layer.
        library: The name of the library, for error messages.
        merges: The ways in which the library merges the outputs of both directions.
        other_activations: Whether the library's two directions may have different activations.

    Raises:
        TypeError: If `cell` is not a cell, is a residual or nested stack, merges directions in a
            way that the library lacks, has a stack inside a direction, or has different cells in
            its two directions.
    """
    check_cell(cell)
    if isinstance(cell, Stack) and (cell.residual or cell.skip_connections):
        option = "skip_connections" if cell.skip_connections else "residual"
        raise TypeError(
            f"cell: got {cell.name} with {option}={getattr(cell, option)!r}, expected {option}=False: {library} has no such stack. "
            "Convert the layers one by one."
        )
    for layer in _layers(cell):
        if isinstance(layer, Stack):
            raise TypeError(
                f"cell: got a stack inside a stack, {layer.name}, expected single layers. Put all layers into one gj.stack([…])."
            )
        if isinstance(layer, Bidirectional):
            _check_bidirectional(layer, library, merges, other_activations=other_activations)


def _check_bidirectional(
    layer: Bidirectional, library: str, merges: tuple[str | None, ...], *, other_activations: bool
) -> None:
    """Checks that a library can represent this bidirectional layer."""
    if layer.merge not in merges:
        raise TypeError(
            f"cell: got merge={layer.merge!r}, expected {' or '.join(map(repr, merges))}, which {library} supports. Convert the "
            "directions one by one, and merge their outputs yourself."
        )
    if isinstance(layer.forward_cell, Stack | Bidirectional) or isinstance(layer.backward_cell, Stack | Bidirectional):
        raise TypeError(
            f"cell: got {layer.name}, expected a single cell in each direction: {library} merges both directions after every "
            "layer. Use gj.stack([gj.bidirectional(cell), …])."
        )
    forward, backward = layer.forward_cell, layer.backward_cell
    if other_activations:
        forward, backward = plain_form(forward), plain_form(backward)
    if forward != backward:
        but = ", but for its activations" if other_activations else ""
        raise TypeError(
            f"cell: got {layer.forward_cell.name} forward and {layer.backward_cell.name} backward, expected the same cell in "
            f"both directions{but}, as {library} requires. Convert the directions one by one."
        )


def _layers(cell: Any) -> tuple[Any, ...]:
    """Returns the layers of a stack, or any other cell as the only layer."""
    return cell.cells if isinstance(cell, Stack) else (cell,)

"""What every library's file shares: the forms it has, and the layers and directions of a cell that is put together."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

from jax import Array

from gru_jax._engine.layer import check_cell
from gru_jax.cell import Cell
from gru_jax.cells.elman import Activation, elman
from gru_jax.cells.gru import gru
from gru_jax.cells.lstm import lstm
from gru_jax.convert.table import Table, pack
from gru_jax.layers.bidirectional import Bidirectional, BidirectionalParams
from gru_jax.layers.stack import Stack

ELMANS = tuple(elman(activation) for activation in get_args(Activation))
_NEVER = "no weights of one are the other's function."
WHY = {
    gru(): f"Its GRU resets after the matmul, gj.gru() before it: {_NEVER} Use gj.gru(reset_after=True).",
    gru(True): f"Its GRU resets before the matmul, gj.gru(reset_after=True) after it: {_NEVER} Use gj.gru().",
    lstm(peephole=True): "Its LSTM has no peepholes.",
}


class Library(NamedTuple):
    """A library by name, and the table of each cell it has."""

    name: str
    tables: Mapping[Cell, Table]

    def table(self, cell: Any) -> Table:
        """The layout of a cell.

        Raises:
            TypeError: no cell, or one that the library cannot represent, with the reason.
        """
        check_cell(cell)
        if isinstance(cell, Stack | Bidirectional):
            raise TypeError(
                f"cell: got {cell.name}, expected one cell: {self.name} keeps the parts in modules of their own. Convert each "
                "part, and put them together: a stack's params are a tuple, two directions' are BidirectionalParams(forward, backward)."
            )
        if cell not in self.tables:
            forms = ", ".join(f"gj.{form.name}" for form in self.tables)
            raise TypeError(
                f"cell: got {cell.name}, which {self.name} cannot represent; it has {forms}. {WHY.get(cell, '')}".rstrip()
            )
        return self.tables[cell]


class Place(NamedTuple):
    """Where a cell stands: its layer from below, and its direction, 0 forward and 1 backward."""

    layer: int
    direction: int


def build(cell: Any, make: Callable[[Place, Any], Any]) -> Any:
    """The parameters of a cell, a stack, or two directions, from `make(place, one cell)`."""

    def layer(i: int, part: Any) -> Any:
        if isinstance(part, Bidirectional):
            return BidirectionalParams(make(Place(i, 0), part.forward_cell), make(Place(i, 1), part.backward_cell))
        return make(Place(i, 0), part)

    if isinstance(cell, Stack):
        return tuple(layer(i, part) for i, part in enumerate(cell.cells))
    return layer(0, cell)


def cells(cell: Any) -> list[tuple[Place, Any]]:
    """The single cells with their places, in the order layer by layer, forward before backward."""
    found: list[tuple[Place, Any]] = []
    build(cell, lambda place, one: found.append((place, one)))
    return found


def each(cell: Any, params: Any) -> Iterator[tuple[Place, Any, Any]]:
    """The single cells with their places and parameters."""
    cell.check(params)
    layers = zip(cell.cells, params, strict=True) if isinstance(cell, Stack) else [(cell, params)]
    for i, (part, own) in enumerate(layers):
        if isinstance(part, Bidirectional):
            yield Place(i, 0), part.forward_cell, own.forward
            yield Place(i, 1), part.backward_cell, own.backward
        else:
            yield Place(i, 0), part, own


def packed(library: Library, cell: Any, params: Any) -> list[tuple[Place, dict[str, Array]]]:
    """The tensors of every single cell, with its place.

    Raises:
        TypeError: a cell that the library cannot represent.
        ValueError: biases that it cannot represent, or in some cells only.
    """
    tables = {place: library.table(one) for place, one in cells(cell)}
    found = [(place, pack(tables[place], own, library.name)) for place, _, own in each(cell, params)]
    with_bias = [set(tables[place].optional) <= set(tensors) for place, tensors in found]
    if any(with_bias) and not all(with_bias):
        raise ValueError(
            f"params: got biases in some layers or directions and None in others, which {library.name} has in all or in none. Zeros "
            "are the same function: params._replace(b=jnp.zeros(H)), for every bias of a cell."
        )
    return found


def check_composition(cell: Any, library: str, merges: tuple[str, ...] = ("concat",)) -> None:
    """Raises where a library has no such stack or no such two directions.

    Raises:
        TypeError: no cell; a residual stack; outputs that are added up; layers inside a direction; unequal directions.
    """
    check_cell(cell)
    if isinstance(cell, Stack) and cell.residual:
        raise TypeError(f"cell: got {cell.name} with residual=True, which {library} has no module for. Convert layer by layer.")
    for part in cell.cells if isinstance(cell, Stack) else (cell,):
        if isinstance(part, Stack):
            raise TypeError(f"cell: got a stack in a stack, expected its layers in one: gj.stack([…]). {part.name}")
        if isinstance(part, Bidirectional):
            if part.merge not in merges:
                raise TypeError(
                    f"cell: got merge={part.merge!r}, which {library} does not have; it has {', '.join(map(repr, merges))}."
                )
            if isinstance(part.forward_cell, Stack | Bidirectional) or isinstance(part.backward_cell, Stack | Bidirectional):
                raise TypeError(
                    f"cell: got {part.name}, which runs each direction through its layers alone; {library} joins the directions "
                    "after every layer: gj.stack([gj.bidirectional(cell), …])."
                )
            if part.forward_cell != part.backward_cell:
                raise TypeError(
                    f"cell: got {part.forward_cell.name} forward and {part.backward_cell.name} backward, expected the same cell "
                    f"in both directions, as {library} has it."
                )

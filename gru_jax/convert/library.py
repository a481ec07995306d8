"""Describes a library by a table for each cell that it can represent."""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from gru_jax._engine.layer import check_cell
from gru_jax.cell import Cell
from gru_jax.cells.elman import Activation, elman
from gru_jax.cells.gru import gru
from gru_jax.cells.lstm import lstm
from gru_jax.convert.table import Table
from gru_jax.layers.bidirectional import Bidirectional
from gru_jax.layers.stack import Stack

ELMAN_CELLS = tuple(elman(activation) for activation in get_args(Activation))

# Cells compare by value, so a copied or unpickled cell finds its entry here.
_WHY_NOT = {
    gru(): (
        "Its GRU applies the reset gate after the matmul, but gj.gru() applies it before, so no weights make them equal. "
        "Use gj.gru(reset_after=True)."
    ),
    gru(reset_after=True): (
        "Its GRU applies the reset gate before the matmul, but gj.gru(reset_after=True) applies it after, so no weights make "
        "them equal. Use gj.gru()."
    ),
    lstm(peephole=True): "Its LSTM has no peephole connections. Use gj.lstm().",
}


class Library(NamedTuple):
    """A library: its name, and the table of each cell that it can represent."""

    name: str
    tables: Mapping[Cell, Table]

    def table_for(self, cell: Any) -> Table:
        """Looks up the layout of a single cell.

        Raises:
            TypeError: If `cell` is not a cell, is made of several cells, or is one that the library
                cannot represent. The message gives the reason.
        """
        check_cell(cell)
        if isinstance(cell, Stack | Bidirectional):
            raise TypeError(
                f"cell: got {cell.name}, expected a single cell: {self.name} keeps each layer and direction in a module of its "
                "own. Convert them one by one. The params of a stack are a tuple, and those of a bidirectional layer are "
                "BidirectionalParams(forward, backward)."
            )
        if cell not in self.tables:
            names = ", ".join(f"gj.{known.name}" for known in self.tables)
            raise TypeError(
                f"cell: got {cell.name}, which {self.name} cannot represent. Expected one of {names}. "
                f"{_WHY_NOT.get(cell, '')}".rstrip()
            )
        return self.tables[cell]

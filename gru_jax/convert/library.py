"""Describes a library by a table for each cell that it can represent."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from gru_jax._engine.layer import check_cell
from gru_jax.cell import Cell
from gru_jax.cells.activations import Activation
from gru_jax.cells.elman import elman
from gru_jax.cells.gru import gru
from gru_jax.cells.make_lstm import lstm
from gru_jax.convert.table import Table
from gru_jax.layers.bidirectional import Bidirectional
from gru_jax.layers.stack import Stack

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
    lstm(proj_size=1): "Its LSTM has no projection. Use gj.lstm().",
}


_GATED: tuple[Any, ...] = (gru, partial(gru, reset_after=True), lstm, partial(lstm, peephole=True))
PROJECTED = lstm(proj_size=1)  # the key of the tables for every projection size
_DEFAULTS = (elman(), *(make() for make in _GATED))


def activations_of(cell: Any) -> tuple[Activation, ...]:
    """The activations of a built-in cell: that of its gates, if it has gates, and the other."""
    return tuple(a for a in getattr(getattr(cell, "gates", None), "arguments", ()) if isinstance(a, Activation))


def plain_form(cell: Any) -> Any:
    """Returns the built-in cell with the default activations and a projection to one unit, if it has
    one. Returns any other cell itself.
    """
    own, proj_size = activations_of(cell), proj_size_of(cell)
    if len(own) == 1 and cell == elman(*own):
        return elman()
    named: Any = {"gate_activation": own[0], "activation": own[1]} if len(own) == 2 else {}
    if proj_size is not None:
        return PROJECTED if named and cell == lstm(proj_size=proj_size, **named) else cell
    return next((make() for make in _GATED if named and cell == make(**named)), cell)


def proj_size_of(cell: Any) -> int | None:
    """The size of a projected LSTM's output, or None for any other cell."""
    return getattr(getattr(cell, "init", None), "proj_size", None)


class Library(NamedTuple):
    """A library: its name, and the table of each cell that it can represent.

    Attributes:
        name: The name of the library.
        tables: The table of each cell.
        any_activation: Whether the library also has these cells with other activations, which the
            weights do not show. If False, it has only those of `tables`.
    """

    name: str
    tables: Mapping[Cell, Table]
    any_activation: bool = False

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
        plain = plain_form(cell)
        has_defaults = set(activations_of(cell)) <= set(activations_of(plain))
        # a table for chosen activations alone, such as PyTorch's of elman("relu"), names the cell itself
        table = self.tables.get(plain if has_defaults or self.any_activation else cell) or self.tables.get(cell)
        if table is None:
            names = ", ".join(f"gj.{known.name}" for known in self.tables).replace("proj_size=1", "proj_size=…")
            others = ", with these or other activations" if self.any_activation else ""
            got = "a cell made by replace of " * _has_the_name_of_another(cell, plain) + cell.name
            raise TypeError(
                f"cell: got {got}, which {self.name} cannot represent. Expected one of {names}{others}. "
                f"{_WHY_NOT.get(plain, '') or _about_inner_cell(cell)}".rstrip()
            )
        _check_update_gate(cell, table, self.name)
        return table


def _has_the_name_of_another(cell: Any, plain: Any) -> bool:
    """Whether a cell was made of a built-in one, and still has its name."""
    return plain == cell and cell not in (*_DEFAULTS, PROJECTED) and cell.name in {known.name for known in _DEFAULTS}


def _about_inner_cell(cell: Any) -> str:
    """A sentence about the cell that a wrapper such as `gj.zoneout` was given, if there is one."""
    functions = (getattr(cell, name, None) for name in ("sample_noise", "update"))
    inner = next((a for own in functions for a in getattr(own, "arguments", ()) if isinstance(a, Cell)), None)
    return "" if inner is None else f"Its params are those of gj.{inner.name}, without the noise: pass that cell."


def _check_update_gate(cell: Any, table: Table, library: str) -> None:
    """Raises if the library's update gate is 1 − z, and another sign of the weights does not make it so."""
    if "-W_z" not in " ".join(table.tensors.values()):
        return
    gate, _ = activations_of(cell)
    if not (gate.name == "sigmoid" or (gate.name == "hard_sigmoid" and gate.beta == 0.5)):
        raise TypeError(
            f"cell: got {cell.name}, which {library} cannot represent: its z multiplies the old state, so it is 1 − z of this "
            f"package, and with gate_activation={gate!r} no weights make them equal. Use one with σ(−a) = 1 − σ(a), such as "
            "'sigmoid' or 'hard_sigmoid'."
        )

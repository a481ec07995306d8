"""Helpers that the layers share: checks of cells and rates."""

from numbers import Real
from typing import Any

from gru_jax._engine.layer import check_cell
from gru_jax.cell import Cell


def check_cells(cells: Any) -> tuple[Any, ...]:
    """Returns the cells as a tuple of at least one."""
    if not isinstance(cells, list | tuple) or not cells:
        raise TypeError(f"cells: got {type(cells).__name__}, expected a list of cells: gj.stack([gj.gru(), gj.gru()]).")
    for cell in cells:
        check_cell(cell)
    return tuple(cells)


def check_single_cell(cell: Any, what: str) -> None:
    """Raises unless `cell` is a `gj.Cell`, rather than a stack or both directions."""
    check_cell(cell)
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: got {cell.name}, expected a gj.Cell. Put {what} on the cells inside: it acts on each step.")


def check_rate(name: str, rate: Any) -> float:
    """Returns a probability below 1 as a Python float."""
    if not isinstance(rate, Real) or isinstance(rate, bool):
        raise TypeError(f"{name}: got {rate!r}, expected a probability, a float in [0, 1).")
    if not 0 <= float(rate) < 1:
        raise ValueError(f"{name}: got {rate!r}, expected a probability in [0, 1).")
    return float(rate)

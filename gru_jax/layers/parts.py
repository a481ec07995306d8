"""What a stack and two directions ask of their parts."""

from typing import Any

import jax

from gru_jax._engine import validate


def check_part(part: Any, params: Any, path: str) -> int | None:
    """The input size of a part by its `params`, which stand at `path`; what is wrong with them is told with the path."""
    if part.check is None:
        return None
    try:
        return part.check(params)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("params", path, 1)) from error


def check_cells(cells: Any) -> tuple[Any, ...]:
    """The cells as a tuple, at least one."""
    if not isinstance(cells, list | tuple) or (isinstance(cells, tuple) and hasattr(cells, "_fields")) or not cells:
        raise TypeError(f"cells: got {type(cells).__name__}, expected a list of cells: gj.stack([gj.gru(), gj.gru()]).")
    for cell in cells:
        validate.check_cell(cell)
    return tuple(cells)


def check_rate(name: str, rate: Any) -> float:
    """A probability of dropping, below 1."""
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < 1:
        raise ValueError(f"{name}: got {rate!r}, expected a number from 0 to below 1, the share that is dropped.")
    return float(rate)


def split(key: jax.Array | None, parts: int) -> list[Any]:
    """A key for each part; None where there is none."""
    return [None] * parts if key is None else list(jax.random.split(key, parts))

"""Helpers that the layers share: checks of cells and rates."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import jax

from gru_jax._engine.inputs import FrozenDict
from gru_jax._engine.layer import check_cell
from gru_jax._engine.structures import describe_structure
from gru_jax._jax.partition import is_inexact
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


def check_rate(name: str, rate: Any, *, at_most_one: bool = False) -> float:
    """Returns a probability below 1, or with `at_most_one` up to 1, as a Python float."""
    interval = "[0, 1]" if at_most_one else "[0, 1)"
    if not isinstance(rate, Real) or isinstance(rate, bool):
        raise TypeError(f"{name}: got {rate!r}, expected a probability, a float in {interval}.")
    if not (0 <= float(rate) < 1 or (at_most_one and rate == 1)):
        raise ValueError(f"{name}: got {rate!r}, expected a probability in {interval}.")
    return float(rate)


def check_rates(name: str, rates: Any) -> Any:
    """Returns one probability, or a tuple, NamedTuple or dict of them, in a form that can be hashed.

    Raises:
        TypeError, ValueError: If one is not a number in [0, 1).
    """
    if isinstance(rates, Mapping):
        return FrozenDict({key: check_rates(f"{name}[{key!r}]", own) for key, own in rates.items()})
    if hasattr(rates, "_fields"):
        return type(rates)(*(check_rates(f"{name}.{field}", own) for field, own in zip(rates._fields, rates, strict=True)))
    if isinstance(rates, tuple):
        return tuple(check_rates(f"{name}[{i}]", own) for i, own in enumerate(rates))
    return check_rate(name, rates)


def any_rate(rates: Any) -> bool:
    """Whether one of the rates is above 0."""
    return any(jax.tree.leaves(_as_pytree(rates)))


def rate_of_each(rates: Any, tree: Any, name: str, tree_name: str) -> Any:
    """One rate for each leaf of `tree`. A single one holds for all that are not integers or booleans.

    Raises:
        TypeError: If there is not one for each, or one above 0 for an integer or a boolean.
    """
    if isinstance(rates, float):
        return jax.tree.map(lambda leaf: rates if is_inexact(leaf) else 0.0, tree)
    rates = _as_pytree(rates)
    if jax.tree.structure(rates) != jax.tree.structure(tree):  # type: ignore[operator] # jax: PyTreeDef has no stub
        raise TypeError(
            f"{tree_name}: got {describe_structure(tree)}, expected the structure of {name}={rates}. Give one probability for all "
            f"arrays, or one for each array of {tree_name}."
        )
    for (path, leaf), rate in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(rates), strict=True):
        if rate and not is_inexact(leaf):
            own = jax.tree_util.keystr(path)
            raise TypeError(
                f"{name}{own}: got {rate} for {tree_name}{own} of dtype {leaf.dtype}, expected 0: integers and booleans are not "
                "scaled."
            )
    return rates


def _as_pytree(rates: Any) -> Any:
    """The rates with dicts that JAX knows."""
    if isinstance(rates, Mapping):
        return {key: _as_pytree(own) for key, own in rates.items()}
    if hasattr(rates, "_fields"):
        return type(rates)(*map(_as_pytree, rates))
    return tuple(map(_as_pytree, rates)) if isinstance(rates, tuple) else rates

"""The adjoint row of a cell: its own derivation, or `jax.vjp` of its value row in the same places."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gru_jax.cell import Cell
from gru_jax.ops import transposed


class AdjointRow(NamedTuple):
    """What the backward pass calls; the fields are documented in `Cell`."""

    gates: Callable[[Any, Any, Any], Any]
    kept: Callable[[Any, Any], Any]  # of (u, g), what `gates` would give: for residuals="gates"
    coefficients: Callable[[Any, Any], Any]
    pull: Callable[[Any, Any, Any], Any]
    collect: Callable[[Any, Any, Any, Any, Any, Any], tuple[Any, Any]]
    gates_from_state: Callable[[Any], Any] | None = None


def adjoint_row(cell: Cell) -> AdjointRow:
    """The derived row where the cell brings one, else the local one.

    Raises:
        ValueError: the cell brings a part of the row.
    """
    if cell.coefficients is not None and cell.pull is not None and cell.collect is not None:
        return AdjointRow(cell.gates, lambda u, g: g, cell.coefficients, cell.pull, cell.collect, cell.gates_from_state)
    missing = [field for field in ("coefficients", "pull", "collect") if getattr(cell, field) is None]
    if len(missing) < 3:
        raise ValueError(
            f"cell: got {cell.name} with a part of the adjoint row, expected {' and '.join(missing)} too, or none of "
            "coefficients, pull and collect: then unroll differentiates project, gates and update itself."
        )
    return _local(cell)


def _local(cell: Cell) -> AdjointRow:
    """`jax.vjp` of `project`, `gates` and `update`: one step at a time for the state, once for all of time for the rest.

    The step in the loop evaluates `gates` again, so k is (u, h_prev), and the row's own `gates` hands u on unchanged.
    """

    def gates(params, us, h_prevs):
        return us

    def coefficients(us, h_prevs):
        return us, h_prevs

    def pull(params_T, k, h_bar):
        params = transposed(params_T)
        u, h_prev = k
        _, pull_h = jax.vjp(lambda h: cell.update(cell.gates(params, u, h), h), h_prev)
        return pull_h(h_bar)[0]

    def collect(params, xs, h_prevs, us, k, h_bars):
        def all_steps(params: Any, xs: Any) -> Any:
            return cell.update(cell.gates(params, cell.project(params, xs), h_prevs), h_prevs)

        _, pull_rest = jax.vjp(all_steps, params, xs)
        return pull_rest(h_bars)

    return AdjointRow(gates, lambda u, g: u, coefficients, pull, collect)

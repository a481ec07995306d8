"""The backward functions of a cell: its own derivation, or `jax.vjp` of its value functions in
the same places.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gru_jax._engine.weights import transpose_matrices


class BackwardFunctions(NamedTuple):
    """What the backward pass calls. `gru_jax.cell.Adjoint` documents those of the same names."""

    gates: Callable[[Any, Any, Any], Any]
    saved_gates: Callable[[Any, Any], Any]  # (u, what the cell's `gates` gave) -> what `gates` above would give
    linearize: Callable[[Any, Any], Any]
    state_vjp: Callable[[Any, Any, Any], Any]
    input_vjp: Callable[[Any, Any, Any, Any, Any, Any], tuple[Any, Any]]
    gates_from_state: Callable[[Any], Any] | None = None


def backward_functions(cell: Any) -> BackwardFunctions:
    """Returns the derived functions where the cell has an `Adjoint`, and local ones otherwise."""
    if cell.adjoint is None:
        return _local(cell)
    own = cell.adjoint
    return BackwardFunctions(cell.gates, lambda u, g: g, own.linearize, own.state_vjp, own.input_vjp, own.gates_from_state)


def _local(cell: Any) -> BackwardFunctions:
    """Takes `jax.vjp` of `project`, `gates` and `update`: with respect to the state
    step by step, and to params and inputs for all steps at once.

    The step in the loop evaluates `gates` again, so the coefficients k are (u, h_prev), and `gates`
    hands u on unchanged.
    """

    def gates(params, us, h_prevs):
        return us

    def linearize(us, h_prevs):
        return us, h_prevs

    def state_vjp(params_T, k, h_bar):
        params = transpose_matrices(params_T)
        u, h_prev = k
        _, vjp_by_h = jax.vjp(lambda h: cell.update(cell.gates(params, u, h), h), h_prev)
        return vjp_by_h(h_bar)[0]

    def input_vjp(params, xs, h_prevs, us, k, h_bars):
        def all_steps(params: Any, xs: Any) -> Any:
            return cell.update(cell.gates(params, cell.project(params, xs), h_prevs), h_prevs)

        _, vjp_by_inputs = jax.vjp(all_steps, params, xs)
        return vjp_by_inputs(h_bars)

    return BackwardFunctions(gates, lambda u, g: u, linearize, state_vjp, input_vjp)

"""The backward functions of a cell: its own derivation, or `jax.vjp` of its value functions in
the same places.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from gru_jax._engine.differentiable import partial_vjp
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


def one_step(cell: Any, params: Any, x: Any, h: Any) -> Any:
    """The new state of one step."""
    return cell.update(cell.gates(params, cell.project(params, x), h), h)


def project_all(cell: Any, params: Any, xs: Any) -> Any:
    """Projects the inputs of all steps.

    The functions of a cell without a derivation are only ever called on one step, so they need not
    care for leading axes.
    """
    return cell.project(params, xs) if cell.adjoint is not None else jax.vmap(partial(cell.project, params))(xs)


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
        (h_prev_bar,) = partial_vjp(lambda h: cell.update(cell.gates(params, u, h), h), (h_prev,), h_bar)
        return h_prev_bar

    def input_vjp(params, xs, h_prevs, us, k, h_bars):
        def all_steps(params: Any, xs: Any) -> Any:
            return jax.vmap(partial(one_step, cell, params))(xs, h_prevs)

        return partial_vjp(all_steps, (params, xs), h_bars)

    return BackwardFunctions(gates, lambda u, g: u, linearize, state_vjp, input_vjp)

"""Runs a cell along a sequence and linearises every step.

This is the only file of `flow` that calls the engine.
"""

from typing import Any, NamedTuple

import jax

from gru_jax._engine import validate
from gru_jax._engine.custom_jvp import tangent_row
from gru_jax._engine.local_vjp import adjoint_row
from gru_jax._engine.recursion import How, Kept, forward, previous
from gru_jax._engine.step_flags import When


class Trajectory(NamedTuple):
    """The values at every step of a sequence.

    Attributes:
        params: The parameters, the same at every step.
        xs: The inputs, of shape `(T, *batch, D)`.
        hs: The state after each step.
        h_prevs: The state before each step.
        g: The gates.
        k: The coefficients of the linearised step.
    """

    params: Any
    xs: jax.Array
    hs: Any
    h_prevs: Any
    g: Any
    k: Any


def linearize_along(cell: Any, params: Any, xs: Any, h0: Any) -> Trajectory:
    """Checks the arguments as `gj.unroll` does, runs the forward pass, and linearises every step.

    Raises:
        TypeError, ValueError: If `cell` is a stack or draws noise, and as `gj.unroll` does.
    """
    validate.check_cell(cell)
    if not hasattr(cell, "gates"):
        raise TypeError(f"cell: got {cell.name}, expected a gj.Cell. Pass the layers one by one, each with its own inputs.")
    if cell.needs_key:
        raise ValueError(f"cell: got {cell.name}, which draws noise, expected a cell without noise: cell.deterministic().")
    params, input_size = validate.check_params(cell, params)
    xs = validate.check_input("xs", xs, input_size, jax.tree.leaves(params)[0].dtype, least_rank=2)
    batch = xs.shape[1:-1]
    h0 = cell.initial_state(params, batch) if h0 is None else validate.check_state("h0", h0, cell, params, batch)
    hs = forward(cell, How(), Kept(hs=True), params, xs, h0, None, When())[1].hs
    h_prevs = previous(h0, hs, False)
    row = adjoint_row(cell)
    g = row.gates(params, cell.project(params, xs), h_prevs)
    return Trajectory(params, xs, hs, h_prevs, g, row.coefficients(g, h_prevs))


def state_vjp(cell: Any, params_T: Any, k: Any, h_bar: Any) -> Any:
    """Applies the adjoint of one step with respect to the state: δ₋ = δ Jᵀ."""
    return adjoint_row(cell).pull(params_T, k, h_bar)


def params_vjp(cell: Any, params: Any, x: Any, h_prev: Any, g: Any, k: Any, h_bar: Any) -> Any:
    """Applies the adjoint of one step with respect to the parameters, ∂⁺h_k/∂θ."""
    return adjoint_row(cell).collect(params, x, h_prev, g, k, h_bar)[0]


def state_jvp(cell: Any, params: Any, x: Any, h_prev: Any, k: Any, h_dot: Any) -> Any:
    """Applies the tangent of one step with respect to the state: ḣ = ḣ₋ J.

    Uses the derivation of the cell if it has one, and `jax.jvp` otherwise.
    """
    row = tangent_row(cell)
    if row is not None:
        return row.push(params, k, h_dot)
    step = lambda h: cell.update(cell.gates(params, cell.project(params, x), h), h)
    return jax.jvp(step, (h_prev,), (h_dot,))[1]

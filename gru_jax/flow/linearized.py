"""Runs a cell along a sequence and linearises every step.

This is the only file of `flow` that calls the engine.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_jax._engine import validate, validate_cell
from gru_jax._engine.layer import check_cell
from gru_jax._engine.local_vjp import backward_functions
from gru_jax._engine.plan import Plan
from gru_jax._engine.recursion import Loop, Save, forward, previous_states
from gru_jax._engine.step_flags import StepFlags
from gru_jax.cell import Cell


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
    """Checks the arguments, runs the forward pass, and linearises every step.

    Raises:
        TypeError, ValueError: If `cell` is a stack or draws noise, and as `gj.unroll` does.
    """
    check_cell(cell)
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: got {cell.name}, expected a gj.Cell. Pass its layers one by one, each with its own inputs.")
    if cell.needs_key:
        raise ValueError(f"cell: got {cell.name}, which draws noise, expected a cell without noise. Pass cell.deterministic().")
    params, input_size = validate_cell.check_params(cell, params)
    validate.check_input("xs", xs, input_size, least_rank=2)
    if h0 is not None:
        validate.check_state("h0", h0, cell, params, xs.shape[1:-1])
    params = jax.tree.map(jnp.asarray, params)
    xs = jnp.asarray(xs, jax.tree.leaves(params)[0].dtype)
    h0 = cell.initial_state(params, xs.shape[1:-1]) if h0 is None else jax.tree.map(jnp.asarray, h0)
    validate_cell.check_functions(cell, params, xs, h0)
    hs = forward(cell, Loop(Plan()), Save(states=True), params, xs, h0, None, StepFlags())[1].states
    h_prevs = previous_states(h0, hs, reverse=False)
    backward = backward_functions(cell)
    g = backward.gates(params, cell.project(params, xs), h_prevs)
    return Trajectory(params, xs, hs, h_prevs, g, backward.linearize(g, h_prevs))


def state_vjp(cell: Any, params_T: Any, k: Any, h_bar: Any) -> Any:
    """Applies the adjoint of one step with respect to the state: δ₋ = δ Jᵀ."""
    return backward_functions(cell).state_vjp(params_T, k, h_bar)


def params_vjp(cell: Any, params: Any, x: Any, h_prev: Any, g: Any, k: Any, h_bar: Any) -> Any:
    """Applies the adjoint of one step with respect to the parameters: δ · ∂⁺h_k/∂θ."""
    return backward_functions(cell).input_vjp(params, x, h_prev, g, k, h_bar)[0]


def state_jvp(cell: Any, params: Any, x: Any, h_prev: Any, k: Any, h_dot: Any) -> Any:
    """Applies the tangent of one step with respect to the state: ḣ = ḣ₋ J.

    Uses the tangent of the cell if it has one, and `jax.jvp` of its step otherwise.
    """
    if cell.tangent is not None:
        return cell.tangent.state_jvp(params, k, h_dot)
    step = lambda h: cell.update(cell.gates(params, cell.project(params, x), h), h)
    return jax.jvp(step, (h_prev,), (h_dot,))[1]

"""Runs a cell along a sequence and linearises every step.

This is the only file of `flow` that calls the engine.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_jax._engine import validate_cell
from gru_jax._engine.differentiable import differentiable, fill, partial_vjp
from gru_jax._engine.inputs import cast_inputs, leading_shape
from gru_jax._engine.layer import check_cell
from gru_jax._engine.local_vjp import backward_functions, one_step, project_all
from gru_jax._engine.plan import Plan
from gru_jax._engine.recursion import Loop, Save, forward, previous_states
from gru_jax._engine.step_flags import StepFlags, apply_resets, step_flags, zero_masked
from gru_jax.cell import Cell
from gru_jax.unroll import Arrays, validated


class Conditions(NamedTuple):
    """Lengths, mask, resets and reset state of a sequence, as `gj.unroll` takes them."""

    lengths: Any = None
    mask: Any = None
    resets: Any = None
    reset_state: Any = None


class Trajectory(NamedTuple):
    """The values at every step of a sequence.

    Attributes:
        params: The parameters, the same at every step.
        xs: The inputs, of shape `(T, *batch, D)`, zero on masked steps.
        hs: The state after each step.
        h_prevs: The state that each step starts from, after a reset.
        g: The gates.
        k: The coefficients of the linearised step.
        flags: Which steps are valid, and before which the state is reset.
    """

    params: Any
    xs: jax.Array
    hs: Any
    h_prevs: Any
    g: Any
    k: Any
    flags: StepFlags

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes."""
        return jax.tree.leaves(self.xs)[0].shape[1:-1]


def linearize_along(cell: Any, params: Any, xs: Any, h0: Any, conditions: Conditions) -> Trajectory:
    """Checks the arguments as `gj.unroll` does, runs the forward pass, and linearises every step.

    Raises:
        TypeError, ValueError: If `cell` is a stack or draws noise, and as `gj.unroll` does.
    """
    check_cell(cell)
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: got {cell.name}, expected a gj.Cell. Pass the layers one by one, each with its own inputs.")
    if cell.needs_key:
        raise ValueError(f"cell: got {cell.name}, which draws noise, expected a cell without noise: cell.deterministic().")
    params, arrays = validated(cell, params, Arrays(xs, h0, *conditions, None), time_major=True)
    params, arrays = jax.tree.map(jnp.asarray, (params, arrays))
    xs = cast_inputs(arrays.xs, validate_cell.float_dtype(params))
    steps, *batch_axes = leading_shape(cell, xs)
    batch = tuple(batch_axes)
    zeros = cell.initial_state(params, batch)
    over_batch = lambda state: jax.tree.map(lambda leaf, zero: jnp.broadcast_to(leaf, zero.shape), state, zeros)
    h0 = zeros if h0 is None else over_batch(arrays.h0)
    resets_to = arrays.reset_state
    if arrays.resets is not None and resets_to is None:
        resets_to = validate_cell.default_reset_state(cell, params)
    reset_state = None if resets_to is None else over_batch(resets_to)
    flags = step_flags(arrays.mask, arrays.lengths, arrays.resets, steps)
    validate_cell.check_functions(cell, params, xs, h0)
    xs = zero_masked(flags, xs)
    hs = forward(cell, Loop(Plan()), Save(states=True), params, xs, h0, reset_state, flags)[1].states
    h_prevs = apply_resets(flags, reset_state, previous_states(h0, hs, reverse=False))
    backward = backward_functions(cell)
    g = backward.gates(params, project_all(cell, params, xs), h_prevs)
    return Trajectory(params, xs, hs, h_prevs, g, backward.linearize(g, h_prevs), flags)


def state_vjp(cell: Any, params_T: Any, k: Any, h_bar: Any) -> Any:
    """Applies the adjoint of one step with respect to the state: δ₋ = δ Jᵀ."""
    return backward_functions(cell).state_vjp(params_T, k, h_bar)


def params_vjp(cell: Any, params: Any, x: Any, h_prev: Any, g: Any, k: Any, h_bar: Any) -> Any:
    """Applies the adjoint of one step with respect to the parameters, ∂⁺h_k/∂θ."""
    if cell.adjoint is None:
        return partial_vjp(lambda params: one_step(cell, params, x, h_prev), (params,), h_bar)[0]
    return cell.adjoint.input_vjp(params, x, h_prev, g, k, h_bar)[0]


def state_jvp(cell: Any, params: Any, x: Any, h_prev: Any, k: Any, h_dot: Any) -> Any:
    """Applies the tangent of one step with respect to the state: ḣ = ḣ₋ J.

    Uses the derivation of the cell if it has one, and `jax.jvp` otherwise.
    """
    if cell.tangent is not None:
        return cell.tangent.state_jvp(params, k, h_dot)
    step = lambda part: differentiable(one_step(cell, params, x, fill(h_prev, part)))
    return jax.jvp(step, (differentiable(h_prev),), (h_dot,))[1]

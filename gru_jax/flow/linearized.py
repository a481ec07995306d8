"""Runs a cell along a sequence and linearises every step.

The other files of `flow` combine what this one computes.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_jax._engine import validate_cell
from gru_jax._engine.differentiable import is_number, partial_vjp
from gru_jax._engine.forward import Loop, Save, forward, previous_states
from gru_jax._engine.inputs import cast_inputs, leading_shape
from gru_jax._engine.local_vjp import backward_functions, one_step, project_all
from gru_jax._engine.plan import Plan
from gru_jax._engine.step_flags import StepFlags, apply_resets, step_flags, with_reset_state_of_each_step, zero_masked
from gru_jax._jax.partition import differentiable, fill
from gru_jax.flow.conditions import Conditions
from gru_jax.flow.layered import as_cell, check_layer, outputs_from_states
from gru_jax.unroll import Arrays, validated


class Trajectory(NamedTuple):
    """The values at every step of a sequence.

    Attributes:
        cell: The cell, or a stack as one cell.
        params: The parameters, the same at every step.
        xs: The inputs, leaves `(T, *batch, D)`, zero on masked steps.
        hs: The state after each step.
        h_prevs: The state that each step starts from, after a reset.
        g: The gates.
        k: The coefficients of the linearised step.
        flags: Which steps are valid, and before which the state is reset.
        steps: T.
        batch: The batch axes.
    """

    cell: Any
    params: Any
    xs: Any
    hs: Any
    h_prevs: Any
    g: Any
    k: Any
    flags: StepFlags
    steps: int
    batch: tuple[int, ...]


def linearize_along(layer: Any, params: Any, xs: Any, h0: Any, conditions: Conditions) -> Trajectory:
    """Checks the arguments as `gj.unroll` does, runs the forward pass, and linearises every step.

    Raises:
        TypeError, ValueError: If `layer` is bidirectional or draws noise, and as `gj.unroll` does.
    """
    check_layer(layer)
    params, arrays = validated(layer, params, Arrays(xs, h0, *conditions, None), time_major=True)
    params, arrays = jax.tree.map(jnp.asarray, (params, arrays))
    xs = cast_inputs(arrays.xs, validate_cell.float_dtype(params, arrays.xs, arrays.h0))
    steps, *batch_axes = leading_shape(layer, xs)
    zeros = layer.initial_state(params, tuple(batch_axes))
    h0 = zeros if h0 is None else jax.tree.map(lambda leaf, zero: jnp.broadcast_to(leaf, zero.shape), arrays.h0, zeros)
    reset_state = arrays.reset_state
    if arrays.resets is not None and reset_state is None:
        reset_state = validate_cell.default_reset_state(layer, params)
    reset_state = None if reset_state is None else validate_cell.broadcast_reset_state(reset_state, zeros, steps)
    flags = step_flags(arrays.mask, arrays.lengths, arrays.resets, steps)
    flags, reset_state = with_reset_state_of_each_step(flags, reset_state, zeros)
    cell = as_cell(layer)
    validate_cell.check_functions(cell, params, xs, h0)
    xs = zero_masked(flags, xs)
    hs = forward(cell, Loop(Plan()), Save(states=True), params, xs, h0, reset_state, flags)[1].states
    h_prevs = apply_resets(flags, reset_state, previous_states(h0, hs, reverse=False))
    backward = backward_functions(cell)
    g = backward.gates(params, project_all(cell, params, xs), h_prevs)
    k = backward.linearize(g, h_prevs)
    return Trajectory(cell, params, xs, hs, h_prevs, g, k, flags, steps, tuple(batch_axes))


def state_vjp(cell: Any, params_T: Any, k: Any, h_bar: Any) -> Any:
    """Applies the adjoint of one step with respect to the state: δ₋ = δ Jᵀ."""
    return backward_functions(cell).state_vjp(params_T, k, h_bar)


def params_vjp(cell: Any, params: Any, x: Any, h_prev: Any, g: Any, k: Any, h_bar: Any) -> Any:
    """Applies the adjoint of one step with respect to the parameters, ∂⁺h_k/∂θ."""
    if cell.adjoint is None:
        return partial_vjp(lambda params: one_step(cell, params, x, h_prev), (params,), h_bar)[0]
    return cell.adjoint.input_vjp(params, x, h_prev, g, k, h_bar)[0]


def read_out_vjp(cell: Any, params: Any, x: Any, output: Any, y_bar: Any) -> tuple[Any, Any]:
    """Applies the adjoint of the read-out of one step, with respect to parameters and `output`.

    The former is None where the cell has no read-out.
    """
    if cell.read_out is None:
        return None, y_bar
    return partial_vjp(lambda params, output: cell.read_out(params, x, output), (params, output), y_bar)


def zero_state(trajectory: Trajectory) -> Any:
    """A state of the batch, of which only shapes and dtypes count. It exists for T = 0 too."""
    zeros = lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype) if is_number(leaf) else leaf[0]
    return jax.tree.map(zeros, trajectory.hs)


def outputs_along(trajectory: Trajectory) -> tuple[Any, Any]:
    """What `output` reads at every step, and the outputs, zero on masked steps."""
    cell = trajectory.cell
    read = cell.output(trajectory.hs)
    ys = read if cell.read_out is None else jax.vmap(partial(cell.read_out, trajectory.params))(trajectory.xs, read)
    return read, zero_masked(trajectory.flags, ys)


def takes_single_examples(trajectory: Trajectory) -> bool:
    """Whether a step works for one example of the batch with the same params.

    It does not if params have batch axes.
    """
    rank = 1 + len(trajectory.batch)
    x, h = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[rank:], leaf.dtype), (trajectory.xs, trajectory.h_prevs))

    def step(params: Any, x: Any, h: Any) -> Any:
        new = one_step(trajectory.cell, params, x, h)
        return new, outputs_from_states(trajectory.cell, params, x, new)

    try:
        new, y = jax.eval_shape(step, trajectory.params, x, h)
    except Exception:  # whatever the cell raises for shapes that do not fit
        return False
    of_batch = jax.eval_shape(lambda: outputs_along(trajectory)[1])
    shapes = lambda tree, rank: [leaf.shape[rank:] for leaf in jax.tree.leaves(tree)]
    return shapes((new, y), 0) == shapes(h, 0) + shapes(of_batch, rank)


def state_jvp(cell: Any, params: Any, x: Any, h_prev: Any, k: Any, h_dot: Any) -> Any:
    """Applies the tangent of one step with respect to the state: ḣ = ḣ₋ J.

    Uses the tangent of the cell if it has one, and `jax.jvp` of its step otherwise.
    """
    if cell.tangent is not None:
        return cell.tangent.state_jvp(params, k, h_dot)
    step = lambda part: differentiable(one_step(cell, params, x, fill(h_prev, part)))
    return jax.jvp(step, (differentiable(h_prev),), (h_dot,))[1]

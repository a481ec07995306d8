"""One cell over a validated sequence, or for one step: noise drawn, a plan made, and the recursion run with the
derivatives asked for.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax._engine import validate_cell
from gru_jax._engine.arguments import is_array
from gru_jax._engine.custom_jvp import recursion_with_jvp
from gru_jax._engine.forward import Loop, Returns, outputs_of
from gru_jax._engine.inputs import leading_shape
from gru_jax._engine.layer import CallOptions, LayerOutput, LayerRequest, Sequence
from gru_jax._engine.noise import noise_of_step
from gru_jax._engine.plan import Plan, Shapes, make_plan
from gru_jax._engine.recursion import recursion, recursion_ref
from gru_jax._engine.step_flags import with_reset_state_of_each_step, zero_masked
from gru_jax._engine.structures import check_same_form, describe_structure
from gru_jax._engine.weights import lower_matrices
from gru_jax._jax.tracing import reverse_only
from gru_jax.derivative import CustomJVP, CustomVJP

FORWARD_MODE_MESSAGE = (
    "derivative: forward mode (jax.jvp, jax.jacfwd, jax.linearize) went through unroll(…, derivative=gj.CustomVJP()), which "
    "has a backward pass only. Use derivative=gj.CustomJVP() where you need forward mode. jax.grad, jax.jacrev and "
    "jax.hessian, which is forward over reverse, work as they are."
)


def run_cell(cell: Any, options: CallOptions, request: LayerRequest, params: Any, sequence: Sequence) -> LayerOutput:
    """Runs `cell` over `sequence`."""
    xs, h0, reset_state, flags, keys = sequence
    _check_one_array(cell, xs)
    flags, reset_state = with_reset_state_of_each_step(flags, reset_state, h0)
    if cell.sample_noise is not None:
        params, xs = cell.sample_noise(keys, params, xs)
    validate_cell.check_functions(cell, params, xs, h0)
    returns: Returns = "states" if request.states else "outputs" if request.outputs else "last"
    plan, batch_rank = plan_for(cell, options, xs, h0, last_only=returns == "last"), len(leading_shape(cell, sequence.xs)) - 1
    loop = Loop(plan, returns, request.reverse, options.compute_dtype, batch_rank)
    h_last, out = _recursion(cell, options, loop)(params, xs, h0, reset_state, flags)
    ys = outputs_of(cell, replace(loop, returns="outputs"), flags, out) if request.states and request.outputs else out
    if request.outputs and cell.read_out is not None:
        weights = lower_matrices(params, options.compute_dtype)
        ys = jax.vmap(partial(cell.read_out, weights))(zero_masked(flags, xs), ys)
        ys = zero_masked(flags, check_read_out(cell, ys, leading_shape(cell, sequence.xs)))
    return LayerOutput(h_last, ys if request.outputs else None, out if request.states else None)


def step_cell(cell: Any, params: Any, h: Any, x: Any, keys: Any, compute_dtype: Any) -> tuple[Any, Any]:
    """Takes one step of `cell` with validated arguments. Returns the new state and the output."""
    _check_one_array(cell, x)
    batch = leading_shape(cell, x)
    if cell.sample_noise is not None:
        params, x = noise_of_step(cell, keys, params, x)
    weights = lower_matrices(params, compute_dtype)
    new = cell.update(cell.gates(weights, cell.project(weights, x), h), h)
    check_same_form(cell.name, new, h)
    y = cell.output(new)
    if cell.read_out is not None:
        y = check_read_out(cell, cell.read_out(weights, x, y), batch)
    return new, y


def _check_one_array(cell: Any, xs: Any) -> None:
    """Raises if a layer below gives several arrays to a cell that takes one."""
    if cell.check_params is not None and not is_array(xs):
        raise TypeError(
            f"cells: got outputs {describe_structure(xs)} below {cell.name}, expected one array. Put a gj.feedforward between the two "
            "that makes one array of them."
        )


def check_read_out(cell: Any, ys: Any, leading: tuple[Any, ...]) -> Any:
    """Returns the outputs of `read_out`, or raises if it changed the axes of time and batch."""
    for y in jax.tree.leaves(ys):
        if jnp.shape(y)[: len(leading)] != leading:
            raise ValueError(
                f"read_out: got outputs of shape {jnp.shape(y)} from cell {cell.name}, expected {leading} and then features: "
                "read_out acts on the feature axes only, whatever the axes before them."
            )
    return ys


def plan_for(cell: Any, options: CallOptions, xs: Any, h0: Any, *, last_only: bool = False) -> Plan:
    """Makes the plan of one cell. Only `CustomVJP` cuts time into blocks."""
    state = max(jax.tree.leaves(h0), key=lambda leaf: leaf.ndim)
    *batch, units = state.shape or (1,)
    sequences = 1
    for size in batch:
        sequences *= size
    shapes = Shapes(jax.tree.leaves(xs)[0].shape[0], sequences, units, state.dtype.itemsize)
    if isinstance(options.derivative, CustomVJP):
        return make_plan(shapes, options.device, options.derivative, last_only=last_only, derived=cell.adjoint is not None)
    return Plan(join_in_loop=make_plan(shapes, options.device, CustomVJP()).join_in_loop)


def _recursion(cell: Any, options: CallOptions, loop: Loop) -> Any:
    """The recursion as a function of (params, xs, h0, reset_state, flags), differentiated as
    `options` say.
    """
    if isinstance(options.derivative, CustomVJP):
        return lambda *arguments: recursion(cell, loop, *reverse_only(arguments, FORWARD_MODE_MESSAGE))
    if isinstance(options.derivative, CustomJVP) and cell.tangent is not None:
        return lambda *arguments: recursion_with_jvp(cell, loop, *arguments)
    return lambda *arguments: recursion_ref(cell, loop, *arguments)

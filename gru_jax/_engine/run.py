"""One layer over a sequence that `unroll` has validated: a cell by its recursion, a stack or two directions by their own `run`."""

from typing import Any, NamedTuple

import jax

from gru_jax._engine.blocks import chosen
from gru_jax._engine.custom_jvp import recursion_both, tangent_row
from gru_jax._engine.local_vjp import adjoint_row
from gru_jax._engine.recursion import How, outputs_of, recursion, recursion_ref
from gru_jax._engine.step_flags import When
from gru_jax._jax.tracing import is_forward_mode_error, reverse_only, vmapped
from gru_jax.cell import Cell

FORWARD_MODE_MESSAGE = (
    'derivative: forward mode (jax.jvp, jacfwd, linearize) went through unroll(…, derivative="adjoint"), which has a backward '
    'pass only. Use derivative="both" where you need forward mode; jax.grad, jax.jacrev and jax.hessian work as it is.'
)


class Sequence(NamedTuple):
    """The arguments of a layer: time-major, checked, complete."""

    xs: Any
    h0: Any
    reset_state: Any  # None: zeros
    when: When
    key: jax.Array | None


class Ran(NamedTuple):
    """What a layer gives. `How.outputs` says which of the last two are there."""

    h_last: Any
    ys: Any = None
    states: Any = None


def run(layer: Any, how: How, derivative: str, params: Any, sequence: Sequence) -> Ran:
    """`layer` over `sequence`; `how.outputs` is "all" (ys), "states" (states), "last" (neither) or "ys and states"."""
    if not isinstance(layer, Cell):
        return layer.run(run, how, derivative, params, sequence)
    xs, h0, reset_state, when, key = sequence
    if layer.randomize is not None:
        assert key is not None  # unroll asks for it
        params, xs = layer.randomize(key, params, xs)
    arguments = (params, xs, h0, reset_state, when)
    if how.outputs == "all":
        h_last, ys = _recursion(layer, how, derivative, *arguments)
        return Ran(h_last, ys=ys)
    if how.outputs == "last":
        return Ran(_recursion(layer, how, derivative, *arguments)[0])
    h_last, states = _recursion(layer, how._replace(outputs="states"), derivative, *arguments)
    ys = outputs_of(layer, how._replace(outputs="all"), when, states) if how.outputs == "ys and states" else None
    return Ran(h_last, ys, states)


def _recursion(cell: Cell, how: How, derivative: str, params: Any, xs: Any, h0: Any, reset_state: Any, when: When) -> Any:
    """(h_last, outputs), differentiated as `derivative` says."""
    of_xs, of_h0 = jax.tree.leaves(xs)[0], jax.tree.leaves(h0)[0]
    models = vmapped((params, xs, h0, reset_state, when))
    how = how._replace(**chosen(how.residuals, how.block_size, how.outputs, of_xs, of_h0, models)._asdict())
    if how.residuals == "gates" and cell.gates_from_state is not None:
        how = how._replace(residuals="states")  # which are the gates
    if derivative != "adjoint":
        how = how._replace(block_size=None)
    if derivative == "both" and tangent_row(cell) is not None:
        return recursion_both(cell, how, params, xs, h0, reset_state, when)
    if derivative != "adjoint":
        return recursion_ref(cell, how, params, xs, h0, reset_state, when)
    adjoint_row(cell)  # half a row is told here rather than in the backward pass
    params, xs, h0, reset_state = reverse_only((params, xs, h0, reset_state), FORWARD_MODE_MESSAGE)
    try:
        return recursion(cell, how, params, xs, h0, reset_state, when)
    except TypeError as error:
        if is_forward_mode_error(error):
            raise TypeError(FORWARD_MODE_MESSAGE) from error
        raise

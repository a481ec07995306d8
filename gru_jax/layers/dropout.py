"""Variational dropout: one mask for all steps of a sequence, on the inputs and on the state that the recurrent matmuls see.

    x ← x ⊙ m_x / (1 − p_x),   gates(params, u, h₋ ⊙ m_h / (1 − p_h)),   update(g, h₋) with the whole h₋

Gal and Ghahramani 2016 (arXiv 1512.05287). What a gate carries over from the old state is not dropped: a share of it would be lost at
every step.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from gru_jax._engine import validate
from gru_jax.cell import Cell
from gru_jax.layers.parts import check_rate


class Dropped(NamedTuple):
    """The cell's params, and which units of the state its gates see."""

    params: Any
    keep: Bool[Array, "*b H"]


def randomize(cell: Cell, p_x: float, p_h: float, key: Array, params: Any, xs: Array) -> tuple[Any, Any]:
    """Draws a mask per sequence for the inputs, applies it, and draws one for the state."""
    key_x, key_h, inner = jax.random.split(key, 3)
    hidden = validate.zero_state(cell, params)
    keep = jax.random.bernoulli(key_h, 1 - p_h, xs.shape[1:-1] + _hidden(hidden).shape)
    if p_x:
        xs = jnp.where(jax.random.bernoulli(key_x, 1 - p_x, xs.shape[1:]), xs / (1 - p_x), 0)
    if cell.randomize is not None:
        params, xs = cell.randomize(inner, params, xs)
    return (Dropped(params, keep) if p_h else params), xs


def project(cell: Cell, params: Dropped, xs: Any) -> Any:
    """The cell's."""
    return cell.project(params.params, xs)


def gates(cell: Cell, p_h: float, params: Dropped, u: Any, h: Any) -> Any:
    """The cell's, of a state with units dropped."""
    dropped = jnp.where(params.keep, _hidden(h) / (1 - p_h), 0)
    return cell.gates(params.params, u, h._replace(h=dropped) if hasattr(h, "_replace") else dropped)


def variational_dropout(cell: Cell, *, inputs: float = 0.0, state: float = 0.0) -> Cell:
    """`cell` with variational dropout (Gal and Ghahramani 2016, arXiv 1512.05287); the same object for the same arguments.

    One mask per sequence, the same at all its steps, drawn from the `key` that `unroll` then needs. For evaluation, and for
    `step`, use `.deterministic()`, the cell itself; the params are the cell's.

    Args:
        cell: such as `gj.gru()`.
        inputs: the share of the input features that is dropped; the rest is scaled by 1 / (1 - inputs).
        state: the share of the units that the gates do not see (an LSTM's h; the old state and the memory that a gate carries
            over stay whole, as in Keras' `recurrent_dropout`). With it the adjoint is the engine's local one, for the derivation of
            the cell knows one h₋ only; the gates are evaluated once more per step.

    Raises:
        TypeError: no cell.
        ValueError: a share outside [0, 1).
    """
    validate.check_cell(cell)
    if not isinstance(cell, Cell):
        raise TypeError(
            f"cell: got {cell.name}, expected a gj.Cell. Put the dropout on the cells inside: it acts on each step."
        )
    return _variational_dropout(cell, check_rate("inputs", inputs), check_rate("state", state))


@cache
def _variational_dropout(cell: Cell, p_x: float, p_h: float) -> Cell:
    if not p_x and not p_h:
        return cell
    dropped = cell._replace(
        name=f"variational_dropout({cell.name}, inputs={p_x}, state={p_h})",
        randomize=partial(randomize, cell, p_x, p_h),
        expectation=cell.deterministic(),
    )
    if not p_h:
        return dropped
    return dropped._replace(
        project=partial(project, cell),
        gates=partial(gates, cell, p_h),
        coefficients=None,
        push=None,
        drive=None,
        pull=None,
        collect=None,
        gates_from_state=None,
        zero_state=partial(validate.zero_state, cell),
    )


def _hidden(state: Any) -> Any:
    """The part of a state that the recurrent matmuls see."""
    if hasattr(state, "h"):
        return state.h
    if isinstance(state, tuple | dict | list):
        raise TypeError(f"cell: got a state {type(state).__name__} without a field h, expected an array, or h beside the rest.")
    return state

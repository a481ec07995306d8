"""The derivations that a cell may carry: `Adjoint` for reverse mode, `Tangent` for forward mode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from gru_jax._engine.functions import make_comparable


@jax.tree_util.register_static
@dataclass(frozen=True)
class Adjoint:
    """The derived backward pass of a cell: the functions that propagate cotangents back one step.

    See `Cell` for an example with its derivation.

    Args:
        linearize: `linearize(g, h_prev) -> k`. Computes the coefficients of the linearised step
            from the values; elementwise, for all steps of a block at once.
        input_vjp: `input_vjp(params, xs, h_prevs, g, k, h_bars) -> (params_bar, xs_bar)`. The
            cotangents of params and inputs from `h_bars`, the total cotangent of each new state,
            zero on masked steps; for all steps of a block at once. `params_bar` has the type of
            `params`, and None where that is None. Linear in `h_bars`.
        state_vjp: `state_vjp(params_T, k, h_bar) -> h_prev_bar`. The cotangent of the previous
            state, one step at a time. `params_T` is `params` with every matrix transposed, once and
            outside the loop. Linear in `h_bar`.
        gates_from_state: `gates_from_state(h) -> g`. Recovers what `gates` returned from the new
            state, where the state determines it. It spares the backward pass a matmul. Defaults to
            None.
    """

    linearize: Callable[[Any, Any], Any]
    input_vjp: Callable[[Any, Any, Any, Any, Any, Any], tuple[Any, Any]]
    state_vjp: Callable[[Any, Any, Any], Any]
    gates_from_state: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        make_comparable(self)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Tangent:
    """The derived tangent of a cell, for `derivative=gj.CustomJVP()`. It needs the cell's `Adjoint`
    beside it.

    Args:
        input_jvp: `input_jvp(params, params_dot, xs, xs_dot, h_prevs, g, k) -> ws`. The tangent of
            each step by params and input, for all steps at once. A None in `params` is a None in
            `params_dot`.
        state_jvp: `state_jvp(params, k, h_dot) -> h_dot`. The tangent of a step by the previous
            state.
    """

    input_jvp: Callable[[Any, Any, Any, Any, Any, Any, Any], Any]
    state_jvp: Callable[[Any, Any, Any], Any]

    def __post_init__(self) -> None:
        make_comparable(self)

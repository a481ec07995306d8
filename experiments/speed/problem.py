"""What every library is timed on: the gradient of a weighted sum of all outputs by the weights, over random sequences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax as gj

CELLS: dict[str, gj.Cell] = {
    "GRU": gj.gru(),
    "GRU, reset after": gj.gru(reset_after=True),
    "LSTM": gj.lstm(),
    "tanh RNN": gj.elman(),
}


class Shape(NamedTuple):
    """Steps, sequences, inputs, units."""

    T: int
    B: int
    D: int
    H: int

    def __str__(self) -> str:
        return f"({self.T}, {self.B}, {self.D}, {self.H})"


class Problem(NamedTuple):
    """A cell's weights, inputs `(T, B, D)`, and what each output is multiplied by, `(T, B, H)`."""

    cell: gj.Cell
    params: Any
    xs: jax.Array
    weights: jax.Array


class Candidate(NamedTuple):
    """One library's way: `loss(tree, xs, weights)` of its own tree of weights, None where it is not in this process, and how
    that tree becomes ours."""

    loss: Any
    tree: Any
    as_params: Callable[[Any], Any]
    batch_major: bool = False  # whether its xs and weights are (B, T, ·)


def posed(cell: gj.Cell, shape: Shape, seed: int = 0, dtype: Any = jnp.float32) -> Problem:
    """A random problem. What only some libraries have, the bias inside the reset's product, is zero."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = cell.init(keys[0], shape.D, shape.H, bias_init=jax.nn.initializers.normal(0.1), dtype=dtype)
    if hasattr(params, "c_h"):
        params = params._replace(c_h=jnp.zeros_like(params.c_h))
    xs = jax.random.normal(keys[1], (shape.T, shape.B, shape.D), dtype)
    return Problem(cell, params, xs, jax.random.normal(keys[2], (shape.T, shape.B, shape.H), dtype))


def floor_flop(problem: Problem, recomputed: bool) -> float:
    """Floating-point operations that no program can do without: forward, weight gradients, cotangents of the states; with
    `recomputed` the gates a second time. The gradient of the inputs is not asked for."""
    (T, B, D), H = problem.xs.shape, problem.weights.shape[-1]
    gates = sum(name.startswith("U") for name in problem.params._fields)
    inputs, states = 2 * T * B * D * gates * H, 2 * T * B * H * gates * H
    return float(2 * inputs + 3 * states + (inputs + states if recomputed else 0))

"""The benchmark problem: the weights' gradient of a weighted sum of all outputs."""

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
    """Sizes of a problem: time steps, sequences, input size and units."""

    T: int
    B: int
    D: int
    H: int

    def __str__(self) -> str:
        return f"({self.T}, {self.B}, {self.D}, {self.H})"


class Problem(NamedTuple):
    """A problem to time.

    Attributes:
        cell: The cell.
        params: Its parameters.
        xs: Inputs `(T, B, D)`.
        weights: Weights of the outputs in the loss, `(T, B, H)`.
    """

    cell: gj.Cell
    params: Any
    xs: jax.Array
    weights: jax.Array


class Candidate(NamedTuple):
    """One implementation of a problem.

    Attributes:
        loss: The loss `loss(tree, xs, weights)`. None if it runs in another process.
        tree: The weights, in the implementation's own tree.
        as_params: Converts such a tree to our params.
        batch_major: Whether the loss takes xs and weights as `(B, T, ·)`. Defaults to False.
    """

    loss: Any
    tree: Any
    as_params: Callable[[Any], Any]
    batch_major: bool = False


def random_problem(cell: gj.Cell, shape: Shape, seed: int = 0, dtype: Any = jnp.float32) -> Problem:
    """Draws a random problem.

    The bias inside the product with the reset gate is zero, because only some libraries have it.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    params = cell.init(keys[0], shape.D, shape.H, bias_init=jax.nn.initializers.normal(0.1), dtype=dtype)
    if hasattr(params, "c_h"):
        params = params._replace(c_h=jnp.zeros_like(params.c_h))
    xs = jax.random.normal(keys[1], (shape.T, shape.B, shape.D), dtype)
    return Problem(cell, params, xs, jax.random.normal(keys[2], (shape.T, shape.B, shape.H), dtype))


def floor_flop(problem: Problem, *, recompute_gates: bool) -> float:
    """Counts the floating-point operations that no program can avoid.

    These are the forward pass, the weight gradients and the cotangents of the states. The gradient
    with respect to the inputs is not included.

    Args:
        problem: The problem.
        recompute_gates: Whether to count the gates a second time.
    """
    (T, B, D), H = problem.xs.shape, problem.weights.shape[-1]
    gates = sum(name.startswith("U") for name in problem.params._fields)
    inputs, states = 2 * T * B * D * gates * H, 2 * T * B * H * gates * H
    return float(2 * inputs + 3 * states + (inputs + states if recompute_gates else 0))

"""Evaluates a function and its gradients, with results in float64 on the host."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from gru_jax.verify.function import Arrays, RealFunction
from gru_jax.verify.programs import Runner


class Evaluation(NamedTuple):
    """The values and gradients of one run.

    Attributes:
        outputs: Floating outputs of the function.
        other_outputs: Its integer and boolean outputs.
        forward_outputs: The floating outputs as the forward rule returns them.
        gradients: The gradient of each leaf.
    """

    outputs: Arrays
    other_outputs: Arrays
    forward_outputs: Arrays
    gradients: Arrays


def forward_and_gradients(function: RealFunction) -> Callable[..., tuple[Arrays, Arrays]]:
    """Returns the function (leaves, nondiff_args, cotangents) ↦ (forward outputs, gradients)."""

    def run(leaves, nondiff_args, cotangents):
        forward, pullback = jax.vjp(lambda *leaves: function(leaves, nondiff_args).floating, *leaves)
        return forward, pullback(tuple(u.astype(y.dtype) for u, y in zip(cotangents, forward, strict=True)))

    return run


def gradients(function: RealFunction) -> Callable[..., Arrays]:
    """Returns the function (leaves, nondiff_args, cotangents) ↦ gradients."""
    return lambda leaves, nondiff_args, cotangents: forward_and_gradients(function)(leaves, nondiff_args, cotangents)[1]


def evaluate(function: RealFunction) -> Callable[..., Evaluation]:
    """Returns the function (leaves, nondiff_args, cotangents) ↦ `Evaluation`."""
    return lambda leaves, nondiff_args, cotangents: Evaluation(
        *function(leaves, nondiff_args), *forward_and_gradients(function)(leaves, nondiff_args, cotangents)
    )


class CachedEvaluation:
    """Evaluates a function and its gradients, and caches the results.

    Several checks use the same cotangents. Results are cached by the identity of the arrays.
    """

    def __init__(self, runner: Runner, leaves: Arrays) -> None:
        self._runner, self._leaves = runner, leaves
        # The arrays are stored with the result, so that their ids are not reused.
        self._results: dict[tuple[int, ...], tuple[Evaluation, Arrays, Arrays]] = {}

    def __call__(self, cotangents: Arrays, leaves: Arrays | None = None) -> Evaluation:
        """Returns the evaluation for `cotangents`. `leaves` default to those of the arguments."""
        leaves = self._leaves if leaves is None else leaves
        key = identity(leaves, cotangents)
        if key not in self._results:
            self._results[key] = (self._runner(leaves, cotangents), leaves, cotangents)
        return self._results[key][0]


def identity(leaves: Arrays, cotangents: Arrays) -> tuple[int, ...]:
    """Returns a key that identifies these arrays for as long as they exist."""
    return tuple(id(array) for array in (*leaves, *cotangents))

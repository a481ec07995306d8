"""The derivative along a random direction in each leaf, by the rule and by differences of values."""

import math
from dataclasses import dataclass

import numpy as np

from gru_jax.verify.evaluation import CachedEvaluation
from gru_jax.verify.finite_differences import FLOOR, Derivative, Values, derivative_along
from gru_jax.verify.function import Arrays

NEARBY = 1e-2  # how far the leaves move, relative to their size, to leave a kink


@dataclass(frozen=True)
class DirectionalDerivative:
    """The derivative along a direction in one leaf.

    Attributes:
        k: Index of the leaf.
        direction: The direction, of the shape of the leaf.
        leaves: Where the derivative was taken: at the arguments, or near them if they are at a kink.
        cotangents: The cotangents.
        derivative: The derivative by differences of values.
    """

    k: int
    direction: np.ndarray
    leaves: Arrays
    cotangents: Arrays
    derivative: Derivative

    def by(self, run: CachedEvaluation) -> float:
        """Returns the derivative by a rule or by autodiff, <bwd(u), v>."""
        gradient = run(self.cotangents, self.leaves).gradients[self.k]
        return float((gradient * self.direction)[self.direction != 0].sum())

    def size(self, run: CachedEvaluation) -> float:
        """Returns the typical size of a derivative along a random direction.

        This is the norm of the gradient, or the magnitude of the difference if that is larger.
        """
        gradient = run(self.cotangents, self.leaves).gradients[self.k]
        norm = float(np.linalg.norm(gradient[self.direction != 0]))
        return max(filter(math.isfinite, (norm, abs(self.derivative.central.value))), default=0.0)

    def error(self, run: CachedEvaluation) -> float:
        """Returns the distance of the two derivatives. Infinite if one of them is not finite."""
        error = abs(self.by(run) - self.derivative.central.value)
        return error if math.isfinite(error) else math.inf

    def allowed(self, run: CachedEvaluation, rtol: float) -> float:
        """Returns the largest distance allowed between the two derivatives."""
        return max(max(FLOOR, rtol) * (self.size(run) or 1.0), self.derivative.central.slack)

    def contradicts(self, run: CachedEvaluation, rtol: float) -> bool:
        """Returns whether the differences are good enough to show that the derivative is wrong."""
        decides = self.derivative.central.converged and not self.derivative.has_kink
        return decides and self.error(run) > self.allowed(run, rtol)


def directional_derivative(
    values: Values, leaves: Arrays, nearby: Arrays, k: int, direction: np.ndarray, *, cotangents: Arrays, eps: float
) -> DirectionalDerivative:
    """Differentiates along `direction` in leaf `k`, near the leaves if they are at a kink.

    Infinite entries, such as those of a mask of −inf, do not move.
    """
    if direction.size == 1:
        direction = np.ones(direction.shape)  # a small random number would hide the derivative
    moving = np.where(np.isfinite(leaves[k]), direction, 0.0)
    whole = tuple(moving if j == k else np.zeros(leaf.shape) for j, leaf in enumerate(leaves))
    at = leaves
    derivative = derivative_along(values, at, whole, cotangents=cotangents, eps=eps)
    if derivative.has_kink:
        elsewhere = derivative_along(values, nearby, whole, cotangents=cotangents, eps=eps)
        if elsewhere.central.converged and not elsewhere.has_kink:
            at, derivative = nearby, elsewhere
    return DirectionalDerivative(k, moving, at, cotangents, derivative)

"""Derivatives from differences of the function's values, without autodiff.

For one leaf at a time, take a random direction v and evaluate φ(h) = <u, f(x + hv)> at shrinking
steps h. If bwd(u) is the right gradient, then

    (φ(h) − φ(−h)) / 2h = <bwd(u), v> + O(h²)     central differences
    |φ(h) − φ(0) − h <bwd(u), v>| ~ h²            Taylor's remainder

The central differences of neighbouring steps are extrapolated (Richardson). The distance between
neighbouring extrapolations is the uncertainty of the estimate. On a log-log plot, the slope of the
remainder is 2 if the gradient is right, and 1 if it is wrong.

Steps grow with the size of the leaf: a small absolute step would not show an error in a function
that varies only over large distances.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gru_jax.verify.function import Arrays

STEPS = 8  # number of steps h; each is a quarter of the one before
FLOOR = 1e-7  # relative error that is always allowed; estimates for smooth functions are far better
UNDECIDED_ABOVE = 0.05  # relative uncertainty above which no gradient is called wrong

Values = Callable[[Arrays], Arrays]  # leaves ↦ floating outputs


class DirectionalDerivative(NamedTuple):
    """The derivative along a random direction v in one leaf, by the rule and by differences.

    Attributes:
        by_rule: <bwd(u), v>.
        by_differences: The extrapolated difference with the smallest uncertainty.
        uncertainty: The distance to the neighbouring extrapolations, or the rounding error if that
            is larger. Infinite if every extrapolation uses a value that is NaN or infinite.
        converged: Whether neighbouring steps agree to a few per cent, or up to rounding.
        size: Typical size of a derivative along a random direction: ‖bwd(u)‖, or the magnitude of
            `by_differences` if that is larger.
        slope: Slope of Taylor's remainder. None if rounding hides the remainder.
    """

    by_rule: float
    by_differences: float
    uncertainty: float
    converged: bool
    size: float
    slope: float | None

    @property
    def error(self) -> float:
        """The distance between the two derivatives. Infinite if one of them is not finite."""
        error = abs(self.by_rule - self.by_differences)
        return error if math.isfinite(error) else math.inf

    def allowed_error(self, rtol: float) -> float:
        """Returns the largest difference allowed between `by_rule` and `by_differences`."""
        return max(max(FLOOR, rtol) * (self.size or 1.0), 8 * self.uncertainty)


def directional_derivative(
    values: Values, leaves: Arrays, k: int, *, gradient: np.ndarray, cotangents: Arrays, direction: np.ndarray, eps: float
) -> DirectionalDerivative:
    """Differentiates along `direction` in leaf `k`, by the rule's gradient and by differences.

    Args:
        values: Computes the floating outputs from the leaves.
        leaves: Where to differentiate.
        k: Index of the leaf.
        gradient: The gradient that the rule returns for leaf `k`.
        cotangents: The cotangents for which it was computed.
        direction: The direction, with the shape of leaf `k`.
        eps: The rounding unit of `values`.
    """
    leaf = leaves[k]
    by_rule = float((gradient * direction).sum())
    first = 64 * eps ** (1 / 3) * max(1.0, float(np.sqrt((leaf**2).mean())))
    steps = [first / 4**i for i in range(STEPS)]
    moved = lambda by: (*leaves[:k], leaf + by, *leaves[k + 1 :])
    value, magnitude = _inner_product(cotangents, values(leaves))
    ahead, behind = ([_inner_product(cotangents, values(moved(sign * h * direction)))[0] for h in steps] for sign in (1, -1))
    central = [(a - b) / (2 * h) for a, b, h in zip(ahead, behind, steps, strict=True)]
    extrapolated = [(16 * fine - coarse) / 15 for coarse, fine in pairwise(central)]
    rounding = [16 * eps * magnitude / h for h in steps]
    triples = zip(extrapolated, extrapolated[1:], extrapolated[2:], rounding[3:], strict=False)
    uncertainties = [
        max(abs(one - two), abs(two - three), r) if math.isfinite(one + two + three) else math.inf
        for one, two, three, r in triples
    ]
    best = int(np.argmin(uncertainties))
    estimate, uncertainty = extrapolated[best], uncertainties[best]
    remainders = [abs(a - value - h * by_rule) for a, h in zip(ahead, steps, strict=True)]
    return DirectionalDerivative(
        by_rule=by_rule,
        by_differences=estimate,
        uncertainty=uncertainty,
        converged=8 * uncertainty <= UNDECIDED_ABOVE * abs(estimate) or uncertainty <= 4 * rounding[best + 3],
        size=max(filter(math.isfinite, (float(np.linalg.norm(gradient)), abs(estimate))), default=0.0),
        slope=_slope(steps, remainders, 64 * eps * magnitude),
    )


def _inner_product(us: Arrays, ys: Arrays) -> tuple[float, float]:
    """Returns <u, y> and the sum of the magnitudes of its terms."""
    products = [u * y for u, y in zip(us, ys, strict=True)]
    value = math.fsum(x for product in products for x in product.ravel())
    return value, sum(float(np.abs(product).sum()) for product in products)


def _slope(steps: Sequence[float], remainders: Sequence[float], floor: float) -> float | None:
    """Returns the exponent p with which the remainder falls as hᵖ.

    Uses the two smallest steps at which the remainder is well above rounding. Returns None if there
    are fewer than two.
    """
    visible = [(h, r) for h, r in zip(steps, remainders, strict=True) if r > 64 * floor]
    if len(visible) < 2:
        return None
    (h0, r0), (h1, r1) = visible[-2:]
    return math.log(r0 / r1) / math.log(h0 / h1)

"""Derivatives from differences of the function's values.

They share nothing with autodiff but the function itself.

For each leaf alone, take a random direction v and φ(h) = <u, f(x + hv)> over shrinking steps h:

    (φ(h) − φ(−h)) / 2h = <bwd(u), v> + O(h²)     central differences
    |φ(h) − φ(0) − h <bwd(u), v>| ~ h²            Taylor's remainder

The central differences of neighbouring steps are extrapolated (Richardson). The slope of the
remainder is 2 if the gradient is right, and 1 if it is wrong.

Steps are relative to the size of the leaf, because an absolute step is blind to large leaves. The
difference of neighbouring extrapolations tells how far an estimate can be trusted.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gru_jax.verify.function import Arrays

STEPS = 8  # each a quarter of the one before
FLOOR = 1e-7  # relative; estimates for smooth functions are far better
UNDECIDED_ABOVE = 0.05  # an uncertainty above this, relative to the estimate, proves no gradient wrong: kinks, chaos

Values = Callable[[Arrays], Arrays]  # leaves ↦ floating outputs


class DirectionalDerivative(NamedTuple):
    """The derivative along a random direction in one leaf, by the rule and by differences.

    Attributes:
        by_rule: <bwd(u), v>.
        by_differences: The best extrapolated difference.
        uncertainty: How far neighbouring extrapolations are apart.
        converged: Whether neighbouring steps agree to a few per cent, or to rounding.
        size: Size of a derivative along a random direction: ‖bwd(u)‖·RMS(v), or the estimate if
            that is larger.
        slope: Slope of Taylor's remainder. None if it is below rounding.
    """

    by_rule: float
    by_differences: float
    uncertainty: float
    converged: bool
    size: float
    slope: float | None

    def allowed_error(self, rtol: float) -> float:
        """Returns how far the rule may be from the estimate."""
        return max(max(FLOOR, rtol) * (self.size or 1.0), 8 * self.uncertainty)


def directional_derivative(
    values: Values, leaves: Arrays, k: int, *, gradient: np.ndarray, cotangents: Arrays, direction: np.ndarray, eps: float
) -> DirectionalDerivative:
    """Compares the gradient of leaf `k` with differences of values along `direction`.

    Args:
        values: Computes the floating outputs from the leaves.
        leaves: Where to differentiate.
        k: Index of the leaf.
        gradient: What the rule returns for that leaf.
        cotangents: The cotangents it was computed for.
        direction: The direction in that leaf.
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
    uncertainties = [max(abs(one - two), abs(two - three), r) for one, two, three, r in triples]
    best = int(np.argmin(uncertainties)) if all(map(math.isfinite, uncertainties)) else 0
    estimate, uncertainty = extrapolated[best], uncertainties[best]
    remainders = [abs(a - value - h * by_rule) for a, h in zip(ahead, steps, strict=True)]
    return DirectionalDerivative(
        by_rule=by_rule,
        by_differences=estimate,
        uncertainty=uncertainty,
        converged=8 * uncertainty <= UNDECIDED_ABOVE * abs(estimate) or uncertainty <= 4 * rounding[best + 3],
        size=max(float(np.linalg.norm(gradient)), abs(estimate)),
        slope=_slope(steps, remainders, 64 * eps * magnitude),
    )


def _inner_product(us: Arrays, ys: Arrays) -> tuple[float, float]:
    """Returns <u, y> and the sum of the magnitudes of its terms."""
    products = [u * y for u, y in zip(us, ys, strict=True)]
    value = math.fsum(x for product in products for x in product.ravel())
    return value, sum(float(np.abs(product).sum()) for product in products)


def _slope(steps: Sequence[float], remainders: Sequence[float], floor: float) -> float | None:
    """Returns the exponent of the remainder's decay.

    Uses the two smallest steps at which the remainder is well above rounding.
    """
    visible = [(h, r) for h, r in zip(steps, remainders, strict=True) if r > 64 * floor]
    if len(visible) < 2:
        return None
    (h0, r0), (h1, r1) = visible[-2:]
    return math.log(r0 / r1) / math.log(h0 / h1)

"""Derivatives from differences of the function's values, without autodiff.

Take a direction v and evaluate φ(h) = <u, f(x + hv)> at shrinking steps h on both sides of x:

    before = (φ(0) − φ(−h)) / h        after = (φ(h) − φ(0)) / h        central = their mean

The differences of neighbouring steps are extrapolated (Richardson). The distance between
neighbouring extrapolations is the uncertainty of the estimate. If `before` and `after` differ, x is
at a kink, where the derivative is not unique. If the values are not finite on one side, x is at the
boundary of the domain.

If bwd(u) is the right gradient, Taylor's remainder |φ(h) − φ(0) − h <bwd(u), v>| falls as h². If it
is wrong, the remainder falls as h.

Steps grow with the size of the leaf: a small absolute step would not show an error in a function
that varies only over large distances.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gru_jax.verify.comparison import root_mean_square
from gru_jax.verify.function import Arrays

STEPS = 8  # number of steps h; each is a quarter of the one before
FLOOR = 1e-7  # relative error that is always allowed; estimates for smooth functions are far better
UNDECIDED_ABOVE = 0.05  # relative uncertainty above which no gradient is called wrong

Values = Callable[[Arrays], Arrays]  # leaves ↦ floating outputs


class Estimate(NamedTuple):
    """A derivative estimated from differences.

    Attributes:
        value: The extrapolated difference with the smallest uncertainty.
        uncertainty: The distance to the neighbouring extrapolations, or the rounding error if that
            is larger. Infinite if every extrapolation uses a value that is not finite.
        converged: Whether neighbouring steps agree to a few per cent, or up to rounding.
    """

    value: float
    uncertainty: float
    converged: bool

    @property
    def slack(self) -> float:
        """How far the true derivative may be from `value`."""
        return 8 * self.uncertainty


class Derivative(NamedTuple):
    """The derivative along a direction v in the leaves, by differences of values.

    Attributes:
        before: Estimate from values at x and before it.
        after: Estimate from values at x and after it.
        central: Estimate from values on both sides.
        size: The magnitude below which errors do not count: that of the largest estimate.
        values: φ(h) − φ(0) at each step after x.
        steps: The steps h.
        rounding: The rounding error of each of these values.
    """

    before: Estimate
    after: Estimate
    central: Estimate
    size: float
    values: tuple[float, ...]
    steps: tuple[float, ...]
    rounding: tuple[float, ...]

    @property
    def has_kink(self) -> bool:
        """Whether the derivatives before and after x are both known, and differ."""
        if not (self.before.converged and self.after.converged):
            return False
        gap = abs(self.after.value - self.before.value)
        return gap > self.before.slack + self.after.slack + 1e-4 * self.size

    @property
    def is_one_sided(self) -> bool:
        """Whether the differences are known on one side of x only, as at a boundary of the domain."""
        return math.isinf(self.before.uncertainty) != math.isinf(self.after.uncertainty)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval that contains every right derivative. None if the differences are rough."""
        if self.has_kink or self.is_one_sided:
            sides = [side for side in (self.before, self.after) if side.converged]
        else:
            sides = [self.central] if self.central.converged else []
        if not sides:
            return None
        slack = max(side.slack for side in sides) + FLOOR * self.size
        return min(side.value for side in sides) - slack, max(side.value for side in sides) + slack

    @property
    def shown(self) -> tuple[float, ...]:
        """What a report shows: one derivative, or those before and after a kink. May be empty."""
        if self.has_kink:
            return (self.before.value, self.after.value)
        return (self.central.value,) if self.central.converged else ()

    def slope(self, by_rule: float) -> float | None:
        """Returns the exponent p with which Taylor's remainder falls as hᵖ for this derivative.

        Uses the two smallest steps at which the remainder is well above rounding. Returns None if
        there are fewer than two.
        """
        remainders = [abs(value - h * by_rule) for value, h in zip(self.values, self.steps, strict=True)]
        parts = zip(self.steps, remainders, self.rounding, strict=True)
        visible = [(h, remainder) for h, remainder, rounding in parts if 256 * rounding < remainder < math.inf]
        if len(visible) < 2:
            return None
        (h0, r0), (h1, r1) = visible[-2:]
        return math.log(r0 / r1) / math.log(h0 / h1)


def derivative_along(values: Values, leaves: Arrays, direction: Arrays, *, cotangents: Arrays, eps: float) -> Derivative:
    """Differentiates along `direction` by differences.

    Args:
        values: Computes the floating outputs from the leaves.
        leaves: Where to differentiate.
        direction: The direction, with the shapes of the leaves. Zero for leaves that do not move.
        cotangents: The weights of the outputs.
        eps: The rounding unit of `values`.
    """
    moving = np.concatenate([leaf[v != 0] for leaf, v in zip(leaves, direction, strict=True)])
    first = 64 * eps ** (1 / 3) * max(1.0, root_mean_square(moving))
    steps = tuple(first / 4**i for i in range(STEPS))
    moved = lambda h: tuple(leaf if not v.any() else leaf + h * v for leaf, v in zip(leaves, direction, strict=True))
    here = values(leaves)
    sides = [[values(moved(sign * h)) for h in steps] for sign in (1, -1)]
    rounding, unseen = _rounding(cotangents, here, sides, eps)
    ahead, behind = ([_change(cotangents, ys, here) for ys in side] for side in sides)
    ahead, behind = _without_plateaus(ahead), _without_plateaus(behind)
    floor = unseen / first
    before = _extrapolate([-change / h for change, h in zip(behind, steps, strict=True)], steps, rounding, floor, order=1)
    after = _extrapolate([change / h for change, h in zip(ahead, steps, strict=True)], steps, rounding, floor, order=1)
    both = [(a - b) / (2 * h) for a, b, h in zip(ahead, behind, steps, strict=True)]
    central = _extrapolate(both, steps, rounding, floor, order=2)
    known = [abs(e.value) for e in (before, after, central) if math.isfinite(e.uncertainty)]
    return Derivative(before, after, central, max(known, default=0.0), tuple(ahead), steps, rounding)


def _change(us: Arrays, ys: Arrays, here: Arrays) -> float:
    """Returns <u, y − y₀>. NaN if it is not finite.

    Entries that do not change contribute nothing, also if they are infinite, but not if they are NaN.
    """
    change = 0.0
    for u, y, y0 in zip(us, ys, here, strict=True):
        moved = (y != y0) & (u != 0)
        with np.errstate(invalid="ignore", over="ignore"):
            change += float(np.sum(u[moved] * (y[moved] - y0[moved])))
    return change if math.isfinite(change) else math.nan


def _rounding(us: Arrays, here: Arrays, sides: Sequence[Sequence[Arrays]], eps: float) -> tuple[tuple[float, ...], float]:
    """Returns the rounding error of <u, y> at each step, and that of entries of y that never change.

    The two are apart so that rounding in outputs that never change does not hide a change.
    """
    size = lambda u, y: np.nan_to_num(np.abs(u * np.nan_to_num(y, posinf=0.0, neginf=0.0)))
    changing, unchanging = np.zeros((len(sides), len(sides[0]))), 0.0
    for k, (u, y0) in enumerate(zip(us, here, strict=True)):
        terms = size(u, y0)
        changes = np.any([run[k] != y0 for side in sides for run in side], axis=0)
        # Far from here, values may be much larger than here.
        changing += [[np.maximum(terms, size(u, run[k]))[changes].sum() for run in side] for side in sides]
        unchanging += float(terms[~changes].sum())
    return tuple(map(float, eps * changing.max(0))), eps * unchanging


def _without_plateaus(changes: Sequence[float]) -> list[float]:
    """Returns changes with NaN for steps that are too small to show one, but larger steps do."""
    return [
        math.nan if change == 0 and any(larger != 0 for larger in changes[:i]) else change for i, change in enumerate(changes)
    ]


def _extrapolate(
    differences: Sequence[float], steps: Sequence[float], rounding: Sequence[float], floor: float, *, order: int
) -> Estimate:
    """Extrapolates differences whose error falls as h^order, and returns the most certain result.

    `floor` is the smallest uncertainty that it reports.
    """
    ratio = 4.0**order
    extrapolated = [(ratio * fine - coarse) / (ratio - 1) for coarse, fine in pairwise(differences)]
    of_steps = [16 * r / h + floor for r, h in zip(rounding, steps, strict=True)]
    by_rounding = [max(of_steps[i : i + 4]) for i in range(len(steps) - 3)]  # of the steps that an estimate uses
    triples = zip(extrapolated, extrapolated[1:], extrapolated[2:], by_rounding, strict=False)
    uncertainties = [
        max(abs(one - two), abs(two - three), r) if math.isfinite(one + two + three) else math.inf
        for one, two, three, r in triples
    ]
    best = int(np.argmin(uncertainties))
    value, uncertainty = extrapolated[best], uncertainties[best]
    up_to_rounding = math.isfinite(uncertainty) and uncertainty <= 4 * by_rounding[best]
    return Estimate(value, uncertainty, 8 * uncertainty <= UNDECIDED_ABOVE * abs(value) or up_to_rounding)

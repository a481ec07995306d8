"""The gradient against differences of the function's values: shares nothing with autodiff, only the function itself.

For each leaf alone a random direction v, and <u, f(x + hv)> over shrinking steps h:

    (φ(h) − φ(−h)) / 2h = <bwd(u), v> + O(h²)     central differences, extrapolated (Richardson) over neighbouring steps
    |φ(h) − φ(0) − h <bwd(u), v>| ~ h²            Taylor's remainder: slope 2 where the gradient is right, 1 where it is wrong

Steps are of the leaf's own size: an absolute step is blind to large leaves. The difference of neighbouring extrapolations says how
far the numbers can be trusted; where that is too coarse (kinks, noise of an adaptive solver) the check says so.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gru_jax.verify.compare import Difference
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.subject import Arrays
from gru_jax.verify.trial import Trial

STEPS = 8  # each a quarter of the one before
FLOOR = 1e-7  # relative; what smooth functions reach by far
TRUSTED = 1e-3  # an estimate worse than this, relative to the derivative's size, proves nothing right
ROUGH = 0.05  # and one worse than this, relative to itself, proves nothing wrong: kinks, chaos
SLOPE = 1.9


def numerical(trial: Trial) -> Check:
    """Central differences and Taylor's remainder, leaf by leaf."""
    found, coarse, worst, slopes = [], [], 0.0, []
    drowned = [] if trial.why_no_reference else trial.drowned
    for name, probe in probes(trial).items():
        size, allowed = probe.size or 1.0, probe.allowed(trial.rtol)
        error = abs(probe.derivative - probe.estimate)
        if error > allowed and probe.converged:
            where = "along a random direction"
            if probe.slope is not None and probe.slope < SLOPE:
                where += f" (Taylor's remainder falls as h^{probe.slope:.2f}, not h²)"
            cause = (
                "an adaptive solver is only as exact as its tolerance: pass rtol"
                if error < TRUSTED * size and trial.why_no_reference
                else ""
            )
            found.append(
                Difference(name, error / size, allowed / size, size, (), probe.derivative, probe.estimate, where, cause)
            )
        elif (error > allowed or allowed > max(TRUSTED, trial.rtol) * size) and probe.size and name not in drowned:
            coarse.append(f"{name} (to {max(allowed, error) / size:.0e})")
        elif name not in drowned:
            worst = max(worst, error / size)
            slopes += [] if probe.slope is None else [probe.slope]
    if found:
        return Check(
            "numerical", FAIL, f"{len(found)} of {len(trial.names)} leaves are not the derivative of the values", tuple(found)
        )
    if coarse:
        inside = trial.eps > trial.truth.eps
        why = (
            "it computes in less than float64 inside"
            if inside
            else "kinks, or an adaptive solver: then pass its tolerance as rtol"
        )
        text = f"differences of values are too rough to decide for {', '.join(coarse)}: {why}"
        return Check("numerical", NOT_CHECKED, text)
    slope = f"; Taylor's remainder falls as h^{min(slopes):.2f} at least" if slopes else ""
    return Check(
        "numerical",
        PASS,
        f"central differences agree to {worst:.1e} of each leaf's size{slope}",
        data={"worst": worst, "slopes": slopes},
    )


class Probe(NamedTuple):
    """One leaf, one direction."""

    derivative: float  # <bwd(u), v>
    estimate: float  # by differences
    uncertainty: float
    converged: bool  # estimates of neighbouring steps agree to a few per cent, or to rounding
    size: float  # of a derivative along a random direction: ‖bwd(u)‖·RMS(v), or the estimate where that is more
    slope: float | None  # of Taylor's remainder; None where it is below rounding

    def allowed(self, rtol: float) -> float:
        """How far the derivative may be from the estimate."""
        return max(max(FLOOR, rtol) * (self.size or 1.0), 8 * self.uncertainty)


def probes(trial: Trial) -> dict[str, Probe]:
    """One probe of each leaf that has entries."""
    if "probes" not in trial.shared:
        trial.shared["probes"] = {name: _probe(trial, k) for k, name in enumerate(trial.names) if trial.leaves[k].size}
    return trial.shared["probes"]


def _probe(trial: Trial, k: int) -> Probe:
    us, leaf = trial.cotangents, trial.leaves[k]
    direction = trial.normal([leaf.shape])[0]
    bar = trial.rule(us).bars[k]
    derivative = float((bar * direction).sum())
    first = 64 * trial.eps ** (1 / 3) * max(1.0, float(np.sqrt((leaf**2).mean())))
    steps = [first / 4**i for i in range(STEPS)]
    value, magnitude = _phi(trial, us, trial.leaves)
    ahead, behind = ([_phi(trial, us, _moved(trial, k, sign * h * direction))[0] for h in steps] for sign in (1, -1))
    central = [(a - b) / (2 * h) for a, b, h in zip(ahead, behind, steps, strict=True)]
    better = [(16 * fine - coarse) / 15 for coarse, fine in pairwise(central)]
    rounding = [16 * trial.eps * magnitude / h for h in steps]
    triples = zip(better, better[1:], better[2:], rounding[3:], strict=False)
    doubts = [max(abs(one - two), abs(two - three), r) for one, two, three, r in triples]
    best = int(np.argmin(doubts)) if all(map(math.isfinite, doubts)) else 0
    remainders = [abs(a - value - h * derivative) for a, h in zip(ahead, steps, strict=True)]
    size = max(float(np.linalg.norm(bar)), abs(better[best]))
    converged = 8 * doubts[best] <= ROUGH * abs(better[best]) or doubts[best] <= 4 * rounding[best + 3]
    return Probe(derivative, better[best], doubts[best], converged, size, _slope(steps, remainders, 64 * trial.eps * magnitude))


def _phi(trial: Trial, us: Arrays, leaves: Arrays) -> tuple[float, float]:
    """(<u, f(leaves)>, the sum of the magnitudes of its terms)."""
    if "values" not in trial.shared:
        trial.shared["values"] = trial.runner(lambda leaves, passengers: trial.subject.flat(leaves, passengers)[0])
    products = [u * y for u, y in zip(us, trial.shared["values"](leaves), strict=True)]
    return math.fsum(x for product in products for x in product.ravel()), sum(
        float(np.abs(product).sum()) for product in products
    )


def _moved(trial: Trial, k: int, by: np.ndarray) -> Arrays:
    return (*trial.leaves[:k], trial.leaves[k] + by, *trial.leaves[k + 1 :])


def _slope(steps: list[float], remainders: list[float], floor: float) -> float | None:
    """The exponent with which the remainder falls, over the smallest steps at which it is well above rounding."""
    seen = [(h, r) for h, r in zip(steps, remainders, strict=True) if r > 64 * floor]
    if len(seen) < 2:
        return None
    (h0, r0), (h1, r1) = seen[-2:]
    return math.log(r0 / r1) / math.log(h0 / h1)

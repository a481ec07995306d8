"""The check against differences of the function's values, which do not use autodiff."""

import math

from gru_jax.verify.comparison import Difference
from gru_jax.verify.finite_differences import DirectionalDerivative
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.verification import Verification

TRUSTED = 1e-3  # relative uncertainty above which no gradient is called right
SLOPE = 1.9  # slopes of Taylor's remainder below this are reported; a right gradient gives 2


def numerical(verification: Verification) -> Check:
    """Checks each leaf by central differences and Taylor's remainder.

    A leaf is not checked if its differences are too rough to decide, for example at kinks of the
    function or because of the noise of an adaptive solver.
    """
    rtol = verification.tolerances.rtol
    wrong: list[Difference] = []
    undecided: list[str] = []
    slopes: list[float] = []
    worst = 0.0
    lost = () if verification.reference.why_no_gradient else verification.leaves_lost_in_rounding
    for name, derivative in verification.directional_derivatives.items():
        size, allowed, error = derivative.size or 1.0, derivative.allowed_error(rtol), derivative.error
        if error > allowed and derivative.converged:
            wrong.append(_difference(verification, name, derivative))
        elif not math.isfinite(error):
            undecided.append(f"{name} (NaN or infinity)")
        elif name in lost:
            continue
        elif (error > allowed or allowed > max(TRUSTED, rtol) * size) and derivative.size:
            undecided.append(f"{name} (uncertain by {max(allowed, error) / size:.0e})")
        else:
            worst = max(worst, error / size)
            slopes += [] if derivative.slope is None else [derivative.slope]
    if wrong:
        count = len(verification.function.leaf_names)
        text = f"{len(wrong)} of {count} leaves have a gradient that differs from finite differences"
        return Check("numerical", FAIL, text, tuple(wrong))
    if undecided:
        text = f"finite differences are too rough to decide for {', '.join(undecided)}: {_why_rough(verification)}"
        return Check("numerical", NOT_CHECKED, text)
    slope = f"; Taylor's remainder falls at least as h^{min(slopes):.2f}" if slopes else ""
    text = f"central differences agree to a relative error of {worst:.1e}{slope}"
    return Check("numerical", PASS, text, details={"worst": worst, "slopes": slopes})


def _difference(verification: Verification, name: str, derivative: DirectionalDerivative) -> Difference:
    size, allowed = derivative.size or 1.0, derivative.allowed_error(verification.tolerances.rtol)
    error = derivative.error
    condition = "along a random direction"
    if derivative.slope is not None and derivative.slope < SLOPE:
        condition += f", where Taylor's remainder falls as h^{derivative.slope:.2f}, not h²"
    may_be_solver = error < TRUSTED * size and verification.reference.why_no_gradient
    return Difference(
        leaf=name,
        error=error / size,
        allowed=allowed / size,
        scale=size,
        index=(),
        value=derivative.by_rule,
        expected=derivative.by_differences,
        condition=condition,
        likely_cause="the limited accuracy of an adaptive solver: pass its tolerance as rtol" if may_be_solver else "",
    )


def _why_rough(verification: Verification) -> str:
    if verification.tolerances.eps > verification.precisions.comparison.eps:
        return "the function casts to a lower precision"
    return "the function may have kinks, or it may be an adaptive solver. For a solver, pass its tolerance as rtol"

"""The check against differences of the function's values, which share nothing with autodiff."""

from gru_jax.verify.comparison import Difference
from gru_jax.verify.finite_differences import DirectionalDerivative
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.verification import Verification

TRUSTED = 1e-3  # an estimate worse than this, relative to the derivative's size, proves no gradient right
SLOPE = 1.9  # of Taylor's remainder, which is 2 for a right gradient


def numerical(verification: Verification) -> Check:
    """Checks each leaf by central differences and Taylor's remainder.

    If the differences are too rough to decide, because of kinks or the noise of an adaptive solver,
    the leaf is not checked.
    """
    rtol = verification.tolerances.rtol
    wrong: list[Difference] = []
    undecided: list[str] = []
    slopes: list[float] = []
    worst = 0.0
    lost = () if verification.reference.why_no_gradient else verification.leaves_lost_in_rounding
    for name, derivative in verification.directional_derivatives.items():
        size, allowed = derivative.size or 1.0, derivative.allowed_error(rtol)
        error = abs(derivative.by_rule - derivative.by_differences)
        if error > allowed and derivative.converged:
            wrong.append(_difference(verification, name, derivative))
        elif name in lost:
            continue
        elif (error > allowed or allowed > max(TRUSTED, rtol) * size) and derivative.size:
            undecided.append(f"{name} (to {max(allowed, error) / size:.0e})")
        else:
            worst = max(worst, error / size)
            slopes += [] if derivative.slope is None else [derivative.slope]
    if wrong:
        count = len(verification.function.leaf_names)
        text = f"the gradients of {len(wrong)} of {count} leaves are not the derivatives of the values"
        return Check("numerical", FAIL, text, tuple(wrong))
    if undecided:
        text = f"finite differences are too rough to decide for {', '.join(undecided)}: {_why_rough(verification)}"
        return Check("numerical", NOT_CHECKED, text)
    slope = f"; Taylor's remainder falls at least as h^{min(slopes):.2f}" if slopes else ""
    text = f"central differences agree to {worst:.1e} of each leaf's size{slope}"
    return Check("numerical", PASS, text, details={"worst": worst, "slopes": slopes})


def _difference(verification: Verification, name: str, derivative: DirectionalDerivative) -> Difference:
    size, allowed = derivative.size or 1.0, derivative.allowed_error(verification.tolerances.rtol)
    error = abs(derivative.by_rule - derivative.by_differences)
    condition = "along a random direction"
    if derivative.slope is not None and derivative.slope < SLOPE:
        condition += f" (Taylor's remainder falls as h^{derivative.slope:.2f}, not h²)"
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
        likely_cause="an adaptive solver is only as exact as its tolerance: pass that as rtol" if may_be_solver else "",
    )


def _why_rough(verification: Verification) -> str:
    if verification.tolerances.eps > verification.precisions.comparison.eps:
        return "the function computes in less than float64 inside"
    return "the function may have kinks, or be an adaptive solver, whose tolerance to pass as rtol"

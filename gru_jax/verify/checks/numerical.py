"""The check against differences of the function's values, which do not use autodiff."""

import math

import numpy as np

from gru_jax.verify.comparison import Difference
from gru_jax.verify.directions import DirectionalDerivative
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.verification import Verification

EXACT = 1e-3  # relative uncertainty above which no gradient is called right
TRUSTED = 1e-2  # the same if the function computes in a lower precision; the report then says so
SLOPE = 1.9  # slopes of Taylor's remainder below this are reported; a right gradient gives 2


def numerical(verification: Verification) -> Check:
    """Checks each leaf by central differences and Taylor's remainder, near it if it is at a kink.

    A leaf is not checked if its differences are too rough to decide, for example because of the
    noise of an adaptive solver.
    """
    if verification.reference.user_gradient is not None:
        return Check("numerical", NOT_CHECKED, "the intended gradient need not be the derivative of the values")
    rule, rtols = verification.rule, verification.tolerances.rtols
    wrong: list[Difference] = []
    undecided: list[str] = []
    right: dict[str, DirectionalDerivative] = {}
    narrows = verification.tolerances.eps > np.finfo(np.float64).eps
    trusted = TRUSTED if narrows else EXACT
    lost = () if verification.reference.why_no_gradient else verification.leaves_lost_in_rounding
    for name, derivative in verification.directional_derivatives.items():
        size, error = derivative.size(rule) or 1.0, derivative.error(rule)
        allowed = derivative.allowed(rule, rtols[derivative.k])
        if derivative.contradicts(rule, rtols[derivative.k]):
            wrong.append(_difference(verification, name, derivative))
        elif not math.isfinite(error):
            undecided.append(f"{name} (NaN or infinity)")
        elif name in lost:
            continue
        elif derivative.derivative.has_kink or error > allowed or allowed > max(trusted, rtols[derivative.k]) * size:
            undecided.append(f"{name} (uncertain by {max(allowed, error) / size:.0e})")
        else:
            right[name] = derivative
    if wrong and (reason := _why_intended(verification, wrong)):
        return Check("numerical", NOT_CHECKED, reason, notes=(reason,), decided=tuple(right))
    if wrong:
        count = len(verification.function.leaf_names)
        text = f"{len(wrong)} of {count} leaves have a gradient that differs from finite differences"
        return Check("numerical", FAIL, text, tuple(wrong), decided=tuple(right))
    notes = [
        f"differences are exact to {derivative.allowed(rule, rtols[derivative.k]) / (derivative.size(rule) or 1.0):.0e} in {name}"
        for name, derivative in right.items()
        if derivative.allowed(rule, rtols[derivative.k]) > EXACT * (derivative.size(rule) or 1.0)
    ]
    if undecided or not right:
        text = f"finite differences are too rough to decide for {', '.join(undecided)}: {_why_rough(verification)}"
        text = text if undecided else "no leaf has a gradient above rounding"
        return Check("numerical", NOT_CHECKED, text, decided=tuple(right))
    slopes = [slope for d in right.values() if (slope := d.derivative.slope(d.by(rule))) is not None]
    worst = max(d.error(rule) / (d.size(rule) or 1.0) for d in right.values())
    taylor = f"; Taylor's remainder falls at least as h^{min(slopes):.2f}" if slopes else ""
    text = f"central differences agree to a relative error of {worst:.1e}{taylor}"
    details = {"worst": worst, "slopes": slopes}
    return Check("numerical", PASS, text, details=details, decided=tuple(right), notes=tuple(notes))


def _why_intended(verification: Verification, wrong: list[Difference]) -> str:
    """Returns why a gradient that is not the derivative may be intended. Empty if it may not.

    The rule must agree with the reference, which the user passed or which stops gradients itself.
    """
    reference = verification.reference
    if reference.why_no_gradient or verification.differences_apply:
        return ""
    leaves = {difference.leaf for difference in wrong}
    if any(d.leaf in leaves for judgement in verification.judgements.values() for d in judgement.wrong):
        return ""
    source = "the reference" if reference.is_users else "the function, which calls stop_gradient"
    return f"the gradient of {', '.join(sorted(leaves))} is that of {source}, not the derivative of the values"


def _difference(verification: Verification, name: str, derivative: DirectionalDerivative) -> Difference:
    rule = verification.rule
    size, allowed = derivative.size(rule) or 1.0, derivative.allowed(rule, verification.tolerances.rtols[derivative.k])
    by_rule, error = derivative.by(rule), derivative.error(rule)
    slope = derivative.derivative.slope(by_rule)
    condition = "along a random direction"
    if slope is not None and slope < SLOPE:
        condition += f", where Taylor's remainder falls as h^{slope:.2f}, not h²"
    may_be_solver = error < EXACT * size and verification.reference.why_no_gradient
    return Difference(
        leaf=name,
        error=error / size,
        allowed=allowed / size,
        scale=size,
        index=(),
        value=by_rule,
        expected=derivative.derivative.central.value,
        condition=condition,
        likely_cause="the limited accuracy of an adaptive solver: pass its tolerance as rtol" if may_be_solver else "",
        by_differences=derivative.derivative.shown,
    )


def _why_rough(verification: Verification) -> str:
    if verification.tolerances.eps > verification.precisions.comparison.eps:
        return "the function casts to a lower precision"
    return "the function may have kinks, or it may be an adaptive solver. For a solver, pass its tolerance as rtol"

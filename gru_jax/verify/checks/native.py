"""The check in the dtypes of the arguments, which allows for autodiff's own error."""

import numpy as np

from gru_jax.verify.comparison import Difference, compare_leaves, largest_errors, leaf_scales
from gru_jax.verify.evaluation import evaluate
from gru_jax.verify.reference import make_reference
from gru_jax.verify.report import NOT_CHECKED, Check, pass_or_fail
from gru_jax.verify.tolerances import SAFETY, rounding_tolerance
from gru_jax.verify.verification import Verification


def native(verification: Verification) -> Check:
    """Checks that |rule − exact| ≤ max(8·√n·eps·S, 8·|autodiff − exact|).

    The exact gradient is that of the reference in float64, at exactly the same inputs.
    """
    if reason := _why_not_checked(verification):
        return Check("native", NOT_CHECKED, reason)
    given, tolerances = verification.precisions.given, verification.tolerances
    reference = make_reference(verification.function, verification.leaves, given, verification.reference.user_function)
    if reference.why_no_gradient:
        return Check("native", NOT_CHECKED, f"in {given.name} {reference.why_no_gradient}")
    rule = verification.runner(evaluate(verification.function.call_real), given)
    autodiff = verification.runner(evaluate(reference.call_real), given)
    allowed = max(rounding_tolerance(tolerances.longest_sum, max(given.eps, tolerances.eps)), tolerances.rtol)
    found: list[Difference] = []
    worst_rule = worst_autodiff = 0.0
    for condition, us in verification.random_cotangents.items():
        exact = verification.autodiff(us).gradients
        by_rule, by_autodiff = (run(verification.leaves, us).gradients for run in (rule, autodiff))
        autodiff_errors = largest_errors(by_autodiff, exact)
        noise = [SAFETY * error for error in autodiff_errors]
        if verification.leaves_lost_in_rounding:
            # The measured effect of rounding in float64, scaled to this precision.
            in_float64 = verification.rounding_noise.of_gradients(us)
            noise = [max(n, wide * given.eps / tolerances.eps) for n, wide in zip(noise, in_float64, strict=True)]
        found += compare_leaves(
            verification.function.leaf_names,
            by_rule,
            exact,
            condition=f"in {given.name}, {condition}",
            relative_tolerance=allowed,
            absolute_tolerances=noise,
        )
        scales = leaf_scales(exact)
        worst_rule = max(worst_rule, *(e / s for e, s in zip(largest_errors(by_rule, exact), scales, strict=True)))
        worst_autodiff = max(worst_autodiff, *(e / s for e, s in zip(autodiff_errors, scales, strict=True)))
    text = f"in {given.name} the largest relative error is {worst_rule:.1e} by the rule and {worst_autodiff:.1e} by autodiff"
    worst_of_leaf = {d.leaf: d for d in sorted(found, key=lambda d: d.error if np.isfinite(d.error) else np.inf)}
    return Check(
        "native",
        pass_or_fail(found),
        text,
        tuple(worst_of_leaf.values()),
        details={"rule": worst_rule, "autodiff": worst_autodiff},
    )


def _why_not_checked(verification: Verification) -> str:
    precisions = verification.precisions
    if verification.reference.why_no_gradient:
        return verification.reference.why_no_gradient
    if precisions.why_not_float64:
        return f"{precisions.why_not_float64}, so the check `gradient` already compares in {precisions.given.name}"
    if precisions.given.eps == precisions.comparison.eps:
        return "the arguments are float64, so the check `gradient` already compares in their dtype"
    return ""

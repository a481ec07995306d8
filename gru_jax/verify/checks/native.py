"""The check in the dtypes of the arguments, which allows for autodiff's own error."""

import dataclasses

import numpy as np

from gru_jax.verify.checks.values import NO_RULE
from gru_jax.verify.comparison import Difference, compare_leaves, largest_errors, leaf_scales
from gru_jax.verify.evaluation import evaluate
from gru_jax.verify.reference import make_reference
from gru_jax.verify.report import NOT_CHECKED, Check, pass_or_fail
from gru_jax.verify.rounding_noise import RoundingNoise
from gru_jax.verify.tolerances import SAFETY, rounding_tolerance
from gru_jax.verify.verification import Verification


def native(verification: Verification) -> Check:
    """Checks that |rule − exact| ≤ max(8·√n·eps·S, 8·|autodiff − exact|, the effect of rounding).

    The exact gradient is that of the reference in float64, at exactly the same inputs. The effect
    of rounding in the dtypes of the arguments is measured if the other two are exceeded, because
    autodiff may be exact by luck.
    """
    if reason := _why_not_checked(verification):
        return Check("native", NOT_CHECKED, reason)
    given, tolerances, user = verification.precisions.given, verification.tolerances, verification.reference
    reference = make_reference(verification.function, verification.leaves, given, user.user_function, user.user_gradient)
    if reference.why_no_gradient:
        return Check("native", NOT_CHECKED, f"in {given.name} {reference.why_no_gradient}")
    rule = verification.runner(evaluate(verification.function.call_real), given)
    autodiff = verification.runner(evaluate(reference.call_real), given)
    rounding = rounding_tolerance(tolerances.longest_sum, max(given.eps, tolerances.eps))
    rounding_noise = RoundingNoise(reference.call_real, given, verification.leaves)
    found: list[Difference] = []
    worst_rule = worst_autodiff = 0.0
    for condition, us in verification.random_cotangents.items():
        exact = verification.autodiff(us).gradients
        exempt = verification.judgements[condition].exempt
        runs = [run(verification.leaves, us).gradients for run in (rule, autodiff)]
        by_rule, by_autodiff = (
            tuple(np.where(mask, right, got) for got, right, mask in zip(run, exact, exempt, strict=True)) for run in runs
        )
        autodiff_errors = largest_errors(by_autodiff, exact)
        noise: list[float | np.ndarray] = [SAFETY * error for error in autodiff_errors]
        for measure in (lambda us: None, rounding_noise.of_gradients):
            if (measured := measure(us)) is not None:
                noise = [np.fmax(a, b) for a, b in zip(noise, measured, strict=True)]
            wrong = compare_leaves(
                verification.function.leaf_names,
                by_rule,
                exact,
                condition=f"in {given.name}, {condition}",
                relative_tolerance=[max(rounding, rtol) for rtol in tolerances.rtols],
                absolute_tolerances=noise,
            )
            if not any(verification.may_be_rounding(d) for d in wrong):
                break
        found += wrong
        scales = leaf_scales(exact)
        worst_rule = max(worst_rule, *(e / s for e, s in zip(largest_errors(by_rule, exact), scales, strict=True)))
        worst_autodiff = max(worst_autodiff, *(e / s for e, s in zip(autodiff_errors, scales, strict=True)))
    text = f"in {given.name} the largest relative error is {worst_rule:.1e} by the rule and {worst_autodiff:.1e} by autodiff"
    cause = "loss of precision: the rule is right in float64, and autodiff is more exact in the dtype of the arguments"
    worst_of_leaf = {
        d.leaf: dataclasses.replace(d, likely_cause=cause)
        for d in sorted(found, key=lambda d: d.error if np.isfinite(d.error) else np.inf)
    }
    return Check(
        "native",
        pass_or_fail(found),
        text,
        tuple(worst_of_leaf.values()),
        details={"rule": worst_rule, "autodiff": worst_autodiff},
    )


def _why_not_checked(verification: Verification) -> str:
    precisions = verification.precisions
    if verification.why_unreliable:
        return verification.why_unreliable
    if not verification.reference.is_independent:
        return NO_RULE
    if precisions.why_not_float64:
        return f"{precisions.why_not_float64}, so the check `gradient` already compares in {precisions.given.name}"
    if precisions.given.eps == precisions.comparison.eps:
        return "the arguments are float64, so the check `gradient` already compares in their dtype"
    return ""

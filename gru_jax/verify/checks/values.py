"""The checks of values: outputs, gradients, gradients of each output alone, and linearity."""

import numpy as np

from gru_jax.verify.comparison import Difference, compare_leaves, largest_errors, leaf_scales, ulp_histogram
from gru_jax.verify.function import Arrays
from gru_jax.verify.report import FAIL, NOT_CHECKED, Check, pass_or_fail
from gru_jax.verify.verification import Verification


def primal(verification: Verification) -> Check:
    """Checks that the forward rule, the function and the reference return the same values."""
    function, run = verification.function, verification.rule(verification.cotangents)
    compared = {"forward rule compared with function": (run.forward_outputs, run.outputs)}
    if not verification.reference.why_no_gradient:
        expected = verification.autodiff(verification.cotangents)
        compared["function compared with reference"] = (run.outputs, expected.outputs)
        if not all(np.array_equal(a, b) for a, b in zip(run.other_outputs, expected.other_outputs, strict=True)):
            return Check("primal", FAIL, "an integer or boolean output differs from that of the reference")

    def compare(noise: list[float] | None = None) -> list[Difference]:
        return [
            difference
            for condition, (got, right) in compared.items()
            for difference in compare_leaves(
                function.output_names,
                got,
                right,
                condition=condition,
                relative_tolerance=verification.tolerances.relative,
                absolute_tolerances=noise,
            )
        ]

    found = compare()
    if found:
        outputs = lambda leaves, nondiff_args: verification.reference.call_real(leaves, nondiff_args).floating
        found = compare(verification.rounding_noise.of_results(outputs, verification.leaves))
    wrong = ", ".join(dict.fromkeys(difference.leaf for difference in found))
    text = f"these outputs are wrong: {wrong}" if found else f"the same outputs: {', '.join(compared)}"
    return Check("primal", pass_or_fail(found), text, tuple(found))


def gradient(verification: Verification) -> Check:
    """Compares the gradient of every leaf, for random cotangents of every output."""
    if verification.reference.why_no_gradient:
        return Check("gradient", NOT_CHECKED, verification.reference.why_no_gradient)
    found, worst = [], 0.0
    for condition, us in verification.random_cotangents.items():
        got, expected = verification.rule(us).gradients, verification.autodiff(us).gradients
        found += verification.compare_with_reference(got, us, condition)
        relative = [error / scale for error, scale in zip(largest_errors(got, expected), leaf_scales(expected), strict=True)]
        worst = max(worst, *relative)
    first = verification.cotangents
    histogram = ulp_histogram(verification.rule(first).gradients, verification.autodiff(first).gradients)
    allowed = verification.tolerances.relative
    leaves, precision = len(verification.function.leaf_names), verification.precisions.comparison.name
    excess = "; measured rounding errors explain the excess" if worst > allowed and not found else ""
    return Check(
        "gradient",
        pass_or_fail(found),
        f"in {precision}, the largest relative error of {leaves} leaves is {worst:.1e}, allowed {allowed:.1e}{excess}",
        verification.causes.explain(found),
        worst_error=worst,
        allowed_error=allowed,
        details={"longest_sum": verification.tolerances.longest_sum, "ulps": histogram},
    )


def cotangents(verification: Verification) -> Check:
    """Compares gradients for special cotangents: one output alone, ones, and single entries.

    Ones and single entries are used only in a thorough verification. Ones are also used if the
    function has one output.
    """
    if verification.reference.why_no_gradient:
        return Check("cotangents", NOT_CHECKED, verification.reference.why_no_gradient)
    special = special_cotangents(verification)
    found = [
        difference
        for condition, us in special.items()
        for difference in verification.compare_with_reference(verification.rule(us).gradients, us, condition)
    ]
    wrong = dict.fromkeys(difference.condition for difference in found)
    text = f"the gradient {'differs' if found else 'also agrees'} for these cotangents: {', '.join(wrong or special)}"
    return Check("cotangents", pass_or_fail(found), text, verification.causes.explain(found))


def special_cotangents(verification: Verification) -> dict[str, Arrays]:
    """Returns special cotangents by name. They show faults that random cotangents may hide."""
    us, shapes, names = verification.cotangents, verification.output_shapes, verification.function.output_names
    special: dict[str, Arrays] = {}
    if len(us) > 1:
        for o, name in enumerate(names):
            special[f"only {name}"] = tuple(u if k == o else np.zeros_like(u) for k, u in enumerate(us))
    if verification.thorough or len(us) == 1:
        special["ones"] = tuple(np.ones(shape) for shape in shapes)
    if verification.thorough:
        for k in range(3):
            o = verification.random.index(len(us))
            single = tuple(np.zeros(shape) for shape in shapes)
            if single[o].size:
                single[o].flat[verification.random.index(single[o].size)] = 1.0
                special[f"one entry of {names[o]} ({k})"] = single
    return special


def linearity(verification: Verification) -> Check:
    """Checks that the gradient is linear in the cotangents.

    This means that bwd(0) = 0 and bwd(8u) = 8 bwd(u) bit for bit, and that bwd(u + v) = bwd(u) +
    bwd(v) up to rounding.
    """
    us, vs = list(verification.random_cotangents.values())[:2]
    by_u, by_v = verification.rule(us).gradients, verification.rule(vs).gradients
    found = [*_at_zero(verification, us), *_times_8(verification, us, by_u), *_at_sum(verification, us, vs, by_u, by_v)]
    text = "the gradient is not linear in the cotangents" if found else "the gradient is linear in the cotangents"
    return Check("linearity", pass_or_fail(found), text, tuple(found))


def _at_zero(verification: Verification, us: Arrays) -> list[Difference]:
    gradients = verification.rule(tuple(np.zeros_like(u) for u in us)).gradients
    cause = "a term that does not contain the cotangent"
    return [
        Difference(name, np.inf, 0.0, 1.0, (), float(np.abs(leaf).max()), 0.0, "all cotangents zero", cause)
        for name, leaf in zip(verification.function.leaf_names, gradients, strict=True)
        if leaf.any()
    ]


def _times_8(verification: Verification, us: Arrays, by_u: Arrays) -> list[Difference]:
    # Multiplying by 8 is not exact near the smallest normal number.
    tiny = np.finfo(np.float64 if verification.precisions.comparison.x64 else np.float32).tiny * 1e18
    without_tiny = lambda leaf: np.where(np.abs(leaf) > tiny, leaf, 0.0)
    return compare_leaves(
        verification.function.leaf_names,
        tuple(map(without_tiny, verification.rule(tuple(8 * u for u in us)).gradients)),
        tuple(without_tiny(8 * leaf) for leaf in by_u),
        condition="cotangents times 8",
        relative_tolerance=4 * verification.tolerances.rtol,
    )


def _at_sum(verification: Verification, us: Arrays, vs: Arrays, by_u: Arrays, by_v: Arrays) -> list[Difference]:
    got = verification.rule(tuple(u + v for u, v in zip(us, vs, strict=True))).gradients
    expected = tuple(a + b for a, b in zip(by_u, by_v, strict=True))
    # The tolerance is relative to the two terms, because they may cancel in the sum.
    sizes = [np.abs(a).max(initial=0) + np.abs(b).max(initial=0) for a, b in zip(by_u, by_v, strict=True)]
    allowed = [4 * verification.tolerances.relative * size for size in sizes]

    def compare(absolute_tolerances: list[float]) -> list[Difference]:
        return compare_leaves(
            verification.function.leaf_names,
            got,
            expected,
            condition="sum of two cotangents",
            relative_tolerance=0.0,
            absolute_tolerances=absolute_tolerances,
        )

    found = compare(allowed)
    if found and not verification.reference.why_no_gradient:
        found = compare([max(pair) for pair in zip(allowed, verification.rounding_noise.of_gradients(us), strict=True)])
    return found

"""The checks of values: outputs, gradients, gradients of each output alone, and linearity."""

import numpy as np

from gru_jax.verify.comparison import Difference, compare_leaves, decided, largest_magnitude, ulp_histogram
from gru_jax.verify.evaluation import CachedEvaluation
from gru_jax.verify.function import Arrays
from gru_jax.verify.own_rounding import lost_in_own_rounding
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check, pass_or_fail
from gru_jax.verify.tolerances import rounding_tolerance
from gru_jax.verify.verification import Verification

COARSE = 0.05  # a relative tolerance from which on agreement is no evidence
NO_RULE = "no custom rule is called, so there is nothing to compare with autodiff"


def primal(verification: Verification) -> Check:
    """Checks that the forward rule, the function and the reference return the same values."""
    function, run = verification.function, verification.rule(verification.cotangents)
    if not any(np.isfinite(y).any() for y in run.outputs):
        return Check("primal", NOT_CHECKED, "no output has a finite entry")
    compared = {"forward rule compared with function": (run.forward_outputs, run.outputs)}
    if not verification.reference.why_no_gradient:
        expected = verification.autodiff(verification.cotangents)
        compared["function compared with reference"] = (run.outputs, expected.outputs)
        if not all(np.array_equal(a, b) for a, b in zip(run.other_outputs, expected.other_outputs, strict=True)):
            return Check("primal", FAIL, "an integer or boolean output differs from that of the reference")

    def compare(noise: Arrays | None = None) -> list[Difference]:
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
    reference, names = verification.reference, verification.function.leaf_names
    if reference.why_no_gradient:
        return Check("gradient", NOT_CHECKED, reference.why_no_gradient)
    if not reference.is_independent:
        kept = f"; JAX's own rules ({', '.join(reference.rules.kept)}) are a part of autodiff" if reference.rules.kept else ""
        return Check("gradient", NOT_CHECKED, f"{NO_RULE}{kept}", notes=(f"{NO_RULE}: differences of values decided",))
    judged = verification.judgements
    found = [difference for judgement in judged.values() for difference in judgement.wrong]
    undecided = {name for judgement in judged.values() for name in (*judgement.undecided, *judgement.unreliable)}
    coarse = _within_a_coarse_tolerance(verification)
    undecided |= {*_without_finite_entry(verification), *(name for name, error in coarse.items() if error >= COARSE)}
    wrong = {difference.leaf for difference in found}
    first = verification.cotangents
    histogram = ulp_histogram(verification.rule(first).gradients, verification.autodiff(first).gradients)
    allowed, worst = verification.tolerances.relative, max(judgement.worst for judgement in judged.values())
    precision = verification.precisions.comparison.name
    text = f"in {precision}, the largest relative error of {len(names)} leaves is {worst:.1e}, allowed {allowed:.1e}"
    if found:
        text = f"{len(wrong)} of {len(names)} leaves differ from autodiff"
    elif worst > allowed:
        text += "; measured rounding errors explain the excess"
    if undecided:
        text += f"; not decided for {', '.join(name for name in names if name in undecided)}"
    notes = tuple(dict.fromkeys(note for judgement in judged.values() for note in judgement.notes))
    notes += tuple(
        f"{name} agrees to {error:.0e} only: the rule computes in a lower precision, whose rounding explains it"
        for name, error in coarse.items()
        if name not in undecided | wrong
    )
    return Check(
        "gradient",
        FAIL if found else NOT_CHECKED if undecided else PASS,
        text,
        verification.causes.explain(found),
        worst_error=worst,
        allowed_error=allowed,
        notes=notes,
        decided=tuple(name for name in names if name not in undecided | wrong),
        unreliable=verification.unreliable_leaves,
        details={"longest_sum": verification.tolerances.longest_sum, "ulps": histogram},
    )


def _within_a_coarse_tolerance(verification: Verification) -> dict[str, float]:
    """Returns the leaves that differ, within a tolerance so coarse that agreement is no evidence.

    A function that casts to eight bits has such a tolerance. Their largest relative errors are
    returned too, infinite if the rounding of the rule itself does not explain them.
    """
    tolerances, precision = verification.tolerances, verification.precisions.comparison
    if tolerances.rounding < COARSE:
        return {}
    exact = rounding_tolerance(tolerances.longest_sum, precision.eps)
    found: dict[str, float] = {}
    for us in verification.random_cotangents.values():
        got, expected = verification.rule(us).gradients, verification.autodiff(us).gradients
        differences = compare_leaves(
            verification.function.leaf_names,
            got,
            expected,
            condition="",
            relative_tolerance=[max(exact, rtol) for rtol in tolerances.rtols],
        )
        explained = lost_in_own_rounding(verification, differences, got, expected, us, verification.leaves, exact)
        for difference in differences:
            error = difference.error if difference.leaf in explained else np.inf
            found[difference.leaf] = max(error, found.get(difference.leaf, 0.0))
    return found


def _without_finite_entry(verification: Verification) -> list[str]:
    """Returns the leaves of whose gradient the comparison decides no entry.

    The gradient is NaN or infinite everywhere, by the rule and by autodiff alike.
    """
    us = verification.cotangents
    pairs = zip(verification.rule(us).gradients, verification.autodiff(us).gradients, strict=True)
    found = [a.shape == b.shape and a.size > 0 and not decided(a, b).any() for a, b in pairs]
    return [name for name, none in zip(verification.function.leaf_names, found, strict=True) if none]


def cotangents(verification: Verification) -> Check:
    """Compares gradients for special cotangents: one output alone, ones, and single entries.

    Ones and single entries are used only in a thorough verification. Ones are also used if the
    function has one output.
    """
    if verification.reference.why_no_gradient:
        return Check("cotangents", NOT_CHECKED, verification.reference.why_no_gradient)
    if not verification.reference.is_independent:
        return Check("cotangents", NOT_CHECKED, NO_RULE)
    special = special_cotangents(verification)
    judged = {name: verification.judge(verification.rule(us).gradients, us, name) for name, us in special.items()}
    found = [difference for judgement in judged.values() for difference in judgement.wrong]
    open_leaves = dict.fromkeys(name for judgement in judged.values() for name in judgement.undecided)
    wrong = dict.fromkeys(difference.condition for difference in found)
    text = f"the gradient {'differs' if found else 'also agrees'} for these cotangents: {', '.join(wrong or special)}"
    if open_leaves and not found:
        return Check("cotangents", NOT_CHECKED, f"rounding may change all of the gradient of {', '.join(open_leaves)}")
    notes = tuple(dict.fromkeys(note for judgement in judged.values() for note in judgement.notes))
    return Check("cotangents", pass_or_fail(found), text, verification.causes.explain(found), notes=notes)


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

    This means that bwd(0) = 0, and that bwd(8u) = 8 bwd(u) and bwd(u + v) = bwd(u) + bwd(v) up to
    rounding. An intended gradient that is not linear itself, such as a clipped one, is not checked.
    """
    if verification.reference.user_gradient and _not_linear(verification, verification.autodiff):
        return Check("linearity", NOT_CHECKED, "the intended gradient is not linear in the cotangents")
    found = _not_linear(verification, verification.rule)
    text = "the gradient is not linear in the cotangents" if found else "the gradient is linear in the cotangents"
    return Check("linearity", pass_or_fail(found), text, tuple(found))


def _not_linear(verification: Verification, run: CachedEvaluation) -> list[Difference]:
    us, vs = list(verification.random_cotangents.values())[:2]
    by_u, by_v = run(us).gradients, run(vs).gradients
    return [
        *_at_zero(verification, run, us),
        *_times_8(verification, run, us, by_u),
        *_at_sum(verification, run, us, vs, by_u, by_v),
    ]


def _at_zero(verification: Verification, run: CachedEvaluation, us: Arrays) -> list[Difference]:
    zeros = run(tuple(np.zeros_like(u) for u in us)).gradients
    usual = run(us).gradients
    cause = "a term that does not contain the cotangent"
    found = []
    for name, leaf, other in zip(verification.function.leaf_names, zeros, usual, strict=True):
        # 0 · ∞ is NaN: such an entry is not a term without the cotangent.
        wrong = (leaf != 0) & np.isfinite(other)
        if wrong.any():
            worst = float(np.abs(leaf[wrong]).max())
            found.append(Difference(name, np.inf, 0.0, 1.0, (), worst, 0.0, "all cotangents zero", cause))
    return found


def _times_8(verification: Verification, run: CachedEvaluation, us: Arrays, by_u: Arrays) -> list[Difference]:
    # Multiplying by 8 is exact, except near the smallest normal number.
    tiny = np.finfo(np.float64 if verification.precisions.comparison.x64 else np.float32).tiny * 1e18
    without_tiny = lambda leaf: np.where(np.abs(leaf) <= tiny, 0.0, leaf)  # NaN stays
    return compare_leaves(
        verification.function.leaf_names,
        tuple(map(without_tiny, run(tuple(8 * u for u in us)).gradients)),
        tuple(without_tiny(8 * leaf) for leaf in by_u),
        condition="cotangents times 8",
        relative_tolerance=verification.tolerances.of_leaves,
    )


def _at_sum(
    verification: Verification, run: CachedEvaluation, us: Arrays, vs: Arrays, by_u: Arrays, by_v: Arrays
) -> list[Difference]:
    got = run(tuple(u + v for u, v in zip(us, vs, strict=True))).gradients
    expected = tuple(a + b for a, b in zip(by_u, by_v, strict=True))
    # The tolerance is relative to the two terms, because they may cancel in the sum.
    tolerances = zip(by_u, by_v, verification.tolerances.of_leaves, strict=True)
    allowed: list[float | np.ndarray] = [
        4 * tolerance * (largest_magnitude(a) + largest_magnitude(b)) for a, b, tolerance in tolerances
    ]

    def compare(absolute_tolerances: list[float | np.ndarray]) -> list[Difference]:
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
        noise = verification.rounding_noise.of_gradients(us)
        found = compare([np.fmax(limit, n) for limit, n in zip(allowed, noise, strict=True)])
    return found

"""The rule in the dtypes it was given, judged against float64 and by how far autodiff itself is off."""

import numpy as np

from gru_jax.verify import rounding
from gru_jax.verify.compare import Difference, differences, errors, scales
from gru_jax.verify.evaluate import Evaluated, gradient
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.trial import Trial


def native(trial: Trial) -> Check:
    """|rule − truth| ≤ max(8·√n·eps·S, 8·|autodiff − truth|), truth being the reference in float64 at exactly the same inputs."""
    if trial.why_no_reference:
        return Check("native", NOT_CHECKED, trial.why_no_reference)
    if trial.truth is trial.native:
        return Check("native", NOT_CHECKED, f"{trial.why_not_wide}; `gradient` was judged in {trial.native.name}")
    if trial.native.eps == trial.truth.eps:
        return Check("native", NOT_CHECKED, "the arguments are float64: `gradient` is this check")
    _, why_no_reference, plain = trial.find_reference(trial.native)
    if why_no_reference:
        return Check("native", NOT_CHECKED, f"in {trial.native.name} {why_no_reference}")
    rule, reference = (trial.runner(gradient(flat), trial.native) for flat in (trial.subject.flat, plain))
    found: list[Difference] = []
    worst = {"rule": 0.0, "autodiff": 0.0}
    for where, us in trial.random_cotangents.items():
        truth = trial.expected(us).bars
        ours, theirs = (Evaluated(*run(trial.leaves, us)).bars for run in (rule, reference))
        base = max(rounding.tolerance(trial.longest_sum, max(trial.native.eps, trial.eps)), trial.rtol)
        off = [float(errors(a, b).max(initial=0)) for a, b in zip(theirs, truth, strict=True)]
        room = [rounding.SAFETY * e for e in off]
        if trial.drowned:  # rounding of the size it has in float64, in units of this precision
            room = [max(r, n * trial.native.eps / trial.eps) for r, n in zip(room, trial.noise(us), strict=True)]
        found += differences(trial.names, ours, truth, [base] * len(truth), f"in {trial.native.name}, {where}", room)
        sizes = scales(truth)
        worst["autodiff"] = max([worst["autodiff"], *(e / s for e, s in zip(off, sizes, strict=True))])
        worst["rule"] = max(
            [worst["rule"], *(float(errors(a, b).max(initial=0)) / s for a, b, s in zip(ours, truth, sizes, strict=True))]
        )
    text = f"{trial.native.name}: the rule is off by {worst['rule']:.1e}, autodiff by {worst['autodiff']:.1e} of the worst leaf's scale"
    kept = {d.leaf: d for d in sorted(found, key=lambda d: d.error if np.isfinite(d.error) else np.inf)}
    return Check("native", FAIL if found else PASS, text, tuple(kept.values()), worst)

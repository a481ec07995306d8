"""The checks every verification makes: values, the gradient leaf by leaf, each output alone, linearity."""

import numpy as np

from gru_jax.verify.compare import Difference, differences, errors, scales, ulp_histogram
from gru_jax.verify.hints import explained
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.subject import Arrays
from gru_jax.verify.trial import Trial


def primal(trial: Trial) -> Check:
    """The forward rule returns what the function returns, and that is what the reference returns."""
    run = trial.rule(trial.cotangents)
    compared = {"forward rule against function": (run.forward, run.outputs)}
    if not trial.why_no_reference:
        expected = trial.expected(trial.cotangents)
        compared["function against reference"] = (run.outputs, expected.outputs)
        if not all(np.array_equal(a, b) for a, b in zip(run.others, expected.others, strict=True)):
            return Check("primal", FAIL, "an integer or boolean output differs from the reference's")
    allowed = [trial.allowed[0]] * len(trial.output_names)
    judge = lambda room=None: [
        d for where, (one, other) in compared.items() for d in differences(trial.output_names, one, other, allowed, where, room)
    ]
    found = judge()
    if found:
        found = judge(trial.noise_of(lambda leaves, passengers: trial.reference(leaves, passengers)[0], trial.leaves))
    text = f"{len(found)} outputs differ" if found else "the forward rule's outputs are the function's"
    return Check("primal", FAIL if found else PASS, text, tuple(found))


def gradient(trial: Trial) -> Check:
    """Every leaf of the gradient against the reference's, random cotangents on every output."""
    if trial.why_no_reference:
        return Check("gradient", NOT_CHECKED, trial.why_no_reference)
    found, worst = [], 0.0
    for where, us in trial.random_cotangents.items():
        got, expected = trial.rule(us).bars, trial.expected(us).bars
        found += trial.judged(got, us, where)
        relative = [float(errors(a, b).max(initial=0)) / s for a, b, s in zip(got, expected, scales(expected), strict=True)]
        worst = max(worst, *relative)
    histogram = ulp_histogram(trial.rule(trial.cotangents).bars, trial.expected(trial.cotangents).bars)
    data = {"worst": worst, "allowed": trial.allowed[0], "longest_sum": trial.longest_sum, "ulps": histogram}
    text = f"{len(trial.names)} leaves in {trial.truth.name}, worst {worst:.1e} of its scale, allowed {trial.allowed[0]:.1e}"
    return Check("gradient", FAIL if found else PASS, text, explained(trial, found), data)


def cotangents(trial: Trial) -> Check:
    """The same with each output's cotangent alone, and, if thorough, with ones and with single entries."""
    if trial.why_no_reference:
        return Check("cotangents", NOT_CHECKED, trial.why_no_reference)
    tried = special_cotangents(trial)
    found = [d for where, us in tried.items() for d in trial.judged(trial.rule(us).bars, us, where)]
    return Check("cotangents", FAIL if found else PASS, f"{len(tried)} more: {', '.join(tried)}", explained(trial, found))


def special_cotangents(trial: Trial) -> dict[str, Arrays]:
    """Cotangents that a rule may treat specially."""
    us, shapes = trial.cotangents, trial.output_shapes
    tried: dict[str, Arrays] = {}
    if len(us) > 1:
        for o, name in enumerate(trial.output_names):
            tried[f"only {name}"] = tuple(u if k == o else np.zeros_like(u) for k, u in enumerate(us))
    if trial.thorough or len(us) == 1:
        tried["ones"] = tuple(np.ones(shape) for shape in shapes)
    if trial.thorough:
        for k in range(3):
            o = int(trial.rng.integers(len(us)))
            single = tuple(np.zeros(shape) for shape in shapes)
            if single[o].size:
                at = int(trial.rng.integers(single[o].size))
                single[o].flat[at] = 1.0
                tried[f"one entry of {trial.output_names[o]} ({k})"] = single
    return tried


def linearity(trial: Trial) -> Check:
    """A pullback is linear: bwd(0) = 0 exactly, bwd(8u) = 8 bwd(u) bit for bit, bwd(u + v) = bwd(u) + bwd(v)."""
    us = trial.cotangents
    _, vs = list(trial.random_cotangents.values())[:2]
    u_bars, v_bars = trial.rule(us).bars, trial.rule(vs).bars
    zero = trial.rule(tuple(np.zeros_like(u) for u in us)).bars
    term = "a term without a cotangent in it"
    found = [
        Difference(name, np.inf, 0.0, 1.0, (), float(np.abs(leaf).max()), 0.0, "all cotangents zero", term)
        for name, leaf in zip(trial.names, zero, strict=True)
        if leaf.any()
    ]
    tiny = np.finfo(np.float64 if trial.truth.x64 else np.float32).tiny * 1e18
    normal = lambda leaf: np.where(np.abs(leaf) > tiny, leaf, 0.0)
    scaled = [normal(8 * leaf) for leaf in u_bars]
    got = [normal(leaf) for leaf in trial.rule(tuple(8 * u for u in us)).bars]
    found += differences(trial.names, tuple(got), tuple(scaled), [4 * trial.rtol] * len(got), "cotangents times 8")
    sums = tuple(a + b for a, b in zip(u_bars, v_bars, strict=True))
    parts = [np.abs(a).max(initial=0) + np.abs(b).max(initial=0) for a, b in zip(u_bars, v_bars, strict=True)]
    room = [4 * trial.allowed[0] * part for part in parts]
    added = trial.rule(tuple(u + v for u, v in zip(us, vs, strict=True))).bars
    judge = lambda room: differences(trial.names, added, sums, [0.0] * len(sums), "sum of two cotangents", room)
    apart = judge(room)
    if apart and not trial.why_no_reference:
        apart = judge([max(pair) for pair in zip(room, trial.noise(us), strict=True)])
    found += apart
    text = "not linear in the cotangents" if found else "of the cotangents"
    return Check("linearity", FAIL if found else PASS, text, tuple(found))

"""The rule at inputs where gates saturate, sums vanish and numbers overflow.

Zeros, entries up to 20 and up to 10,000, one NaN, one infinity, planted in each leaf in turn. Where all is finite the rule must
agree with the reference. Where the function's outputs are finite the rule must be finite wherever the reference is (where they are
not, a gradient that is not finite either is honest). Where an input is NaN, and outputs and reference are too, the rule must not
return finite numbers only. A rule that is finite where autodiff is not, by a mask or a better formula, is said to be.
"""

from collections.abc import Iterator

import numpy as np

from gru_jax.verify.compare import Difference
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.subject import Arrays
from gru_jax.verify.trial import Trial


def edges(trial: Trial) -> Check:
    """As finite as the reference, and equal to it where both are finite."""
    if trial.why_no_reference:
        return Check("edges", NOT_CHECKED, trial.why_no_reference)
    us = trial.cotangents
    found: list[Difference] = []
    better, count = [], 0
    for where, leaves in edge_inputs(trial):
        count += 1
        run, expected = trial.rule(us, leaves), trial.expected(us, leaves).bars
        got, outputs_finite = run.bars, all(np.isfinite(y).all() for y in run.outputs)
        for name, a, b in zip(trial.names, got, expected, strict=True):
            here, there = np.isfinite(a), np.isfinite(b)
            wrong = there & ~here
            if outputs_finite and wrong.any():
                found.append(_not_finite_alike(name, a, b, wrong, where))
            if (here & ~there).any():
                better.append(f"{name} ({where})")
        hidden = [k for k, b in enumerate(expected) if np.isnan(b).any()]
        if "NaN" in where and not outputs_finite and hidden and all(np.isfinite(a).all() for a in got):
            k = hidden[0]
            found.append(_not_finite_alike(trial.names[k], got[k], expected[k], np.isnan(expected[k]), where))
        if all(np.isfinite(leaf).all() for leaf in (*got, *expected)):
            found += trial.judged(got, us, where, leaves)
    text = f"{count} inputs: zeros, up to 20, up to 10,000, NaN, infinity"
    if better:
        text += f"; finite where autodiff is not: {', '.join(better[:3])}" + (
            f" and {len(better) - 3} more" if len(better) > 3 else ""
        )
    return Check(
        "edges", FAIL if found else PASS, text, tuple(found[:12]), {"inputs": count, "finite_where_autodiff_is_not": better}
    )


def _not_finite_alike(name: str, got: np.ndarray, expected: np.ndarray, wrong: np.ndarray, where: str) -> Difference:
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Difference(name, np.inf, 0.0, 1.0, index, float(got[index]), float(expected[index]), where)


def edge_inputs(trial: Trial) -> Iterator[tuple[str, Arrays]]:
    """(what was planted, the leaves)."""
    scaled = lambda leaf, most: leaf * (most / (np.abs(leaf).max(initial=0) or 1.0))
    yield "all zero", tuple(np.zeros_like(leaf) for leaf in trial.leaves)
    for most in (20.0, 1e4):
        yield f"all up to {most:g}", tuple(scaled(leaf, most) for leaf in trial.leaves)
    for k, (name, leaf) in enumerate(zip(trial.names, trial.leaves, strict=True)):
        changes = {"zero": np.zeros_like(leaf), "up to 20": scaled(leaf, 20.0), "up to 1e4": scaled(leaf, 1e4)}
        if leaf.size:
            at = int(trial.rng.integers(leaf.size))
            changes |= {"with one NaN": _planted(leaf, at, np.nan), "with one infinity": _planted(leaf, at, np.inf)}
        for what, changed in changes.items():
            yield f"{name} {what}", (*trial.leaves[:k], changed, *trial.leaves[k + 1 :])


def _planted(leaf: np.ndarray, at: int, value: float) -> np.ndarray:
    changed = leaf.copy()
    changed.flat[at] = value
    return changed

"""What is likely wrong with a gradient that differs from its reference: a sign, a factor, a transpose, a term left out."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gru_jax.verify.compare import Difference
from gru_jax.verify.subject import Arrays
from gru_jax.verify.trial import Trial

CLOSE = 1e-6
_MAX_RESTRICTED = 64

Run = tuple[Arrays, Arrays, Arrays]  # (cotangents of the outputs, what the rule returns, what the reference returns)
Restricted = Callable[[int, int | None, int], tuple[Arrays, Arrays]]


def explained(trial: Trial, found: list[Difference]) -> tuple[Difference, ...]:
    """The differences, the worst of each leaf, with hints at their causes."""
    worst: dict[str, Difference] = {}
    for difference in sorted(found, key=lambda d: -d.error):
        worst.setdefault(difference.leaf, difference)
    hints = trial.shared.setdefault("hints", {})
    for leaf in worst.keys() - hints.keys():
        runs = [(us, trial.rule(us).bars, trial.expected(us).bars) for us in trial.random_cotangents.values()]
        hints[leaf] = hint(trial.names.index(leaf), trial.names, runs, partial(_restricted, trial), trial.output_names)
    return tuple(d._replace(hint=hints[d.leaf]) for d in worst.values())


def _restricted(trial: Trial, o: int, axis: int | None, index: int) -> tuple[Arrays, Arrays]:
    """What rule and reference return for the cotangent of output `o` alone, at `index` of `axis` alone unless that is None."""
    pairs = trial.shared.setdefault("restricted", {})
    if (o, axis, index) not in pairs:
        us = tuple(np.zeros_like(u) for u in trial.cotangents)
        place = () if axis is None else (slice(None),) * axis + (index,)
        us[o][place] = trial.cotangents[o][place]
        pairs[o, axis, index] = (trial.rule(us).bars, trial.expected(us).bars)
    return pairs[o, axis, index]


def hint(k: int, names: Sequence[str], runs: Sequence[Run], restricted: Restricted, outputs: Sequence[str]) -> str:
    """The likely cause of the error in leaf `k`; empty where none suggests itself.

    Args:
        k: the leaf.
        names: of the leaves.
        runs: random cotangents on every output, and what came back.
        restricted: what rule and reference return for (output o, axis, index) of the first cotangents alone; axis None: all of o.
        outputs: names of the outputs.
    """
    got, expected = ([run[side][k] for run in runs] for side in (1, 2))
    if any(a.shape != b.shape for a, b in zip(got, expected, strict=True)):
        return "transposed" if got[0].shape == expected[0].shape[::-1] else "a wrong shape"
    if not all(np.isfinite(leaf).all() for leaf in (*got, *expected)):
        return ""
    if all(_close(a, b) for a, b in zip(got, expected, strict=True)):
        return f"a loss of precision, or a term of this size: all entries agree to {CLOSE:g}"
    if not any(leaf.any() for leaf in expected):
        return "it has no influence on the outputs, so its gradient is zero"
    if not any(leaf.any() for leaf in got):
        return f"zero: the rule returns None or zeros for {names[k]}"
    return (
        _factor(got, expected, _sizes(runs[0]))
        or _transposed(got, expected)
        or _swapped(k, names, runs, got)
        or _some_entries(got, expected)
        or _some_cotangents(k, runs[0], restricted, outputs)
    )


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0) <= CLOSE * max(np.abs(b).max(initial=0), 1e-300))


def _sizes(run: Run) -> set[int]:
    """The sizes a mean may have been taken over: of any axis, and of whole arrays."""
    return {
        size
        for side in run
        for array in side
        for size in (*array.shape, *(int(np.prod(array.shape[:k])) for k in range(2, array.ndim + 1)))
    }


def _factor(got: list[np.ndarray], expected: list[np.ndarray], sizes: set[int]) -> str:
    ratios = [float((a * b).sum() / ((b * b).sum() or 1.0)) for a, b in zip(got, expected, strict=True)]
    ratio = ratios[0]
    if not all(_close(a, ratio * b) for a, b in zip(got, expected, strict=True)):
        return ""
    if abs(ratio + 1) < CLOSE:
        return "the sign"
    inverse = round(1 / ratio) if ratio else 0
    if inverse in sizes and abs(1 / ratio - inverse) < CLOSE * inverse:
        return f"a factor of 1/{inverse}: a mean over {inverse} terms where their sum belongs"
    return f"a factor of {ratio:.7g}"


def _transposed(got: list[np.ndarray], expected: list[np.ndarray]) -> str:
    square = got[0].ndim == 2 and got[0].shape[0] == got[0].shape[1] > 1
    return "transposed" if square and all(_close(a, b.T) for a, b in zip(got, expected, strict=True)) else ""


def _swapped(k: int, names: Sequence[str], runs: Sequence[Run], got: list[np.ndarray]) -> str:
    for j, name in enumerate(names):
        if j != k and all(_close(a, run[2][j]) for a, run in zip(got, runs, strict=True)):
            both = all(_close(run[1][j], run[2][k]) for run in runs)
            return f"swapped with {name}" if both else f"it is the gradient of {name}"
    return ""


def _some_entries(got: list[np.ndarray], expected: list[np.ndarray]) -> str:
    wrong = np.any([np.abs(a - b) > CLOSE * np.abs(b).max(initial=0) for a, b in zip(got, expected, strict=True)], axis=0)
    if not wrong.any() or wrong.all():
        return ""
    for axis in range(wrong.ndim):
        indices = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
        if len(indices) == 1 < wrong.shape[axis]:
            return f"only the entries at index {indices[0]}{_last(indices[0], wrong.shape[axis])} of axis {axis} are wrong"
    return f"only {wrong.sum()} of {wrong.size} entries are wrong"


def _some_cotangents(k: int, run: Run, restricted: Restricted, outputs: Sequence[str]) -> str:
    """Whether the error comes from some cotangents only: of one output, or at one index of one of its axes."""
    cotangents, got, expected = run
    missing = expected[k] - got[k]
    results = [restricted(o, None, 0) for o in range(len(cotangents))]
    wrong = [o for o, (a, b) in enumerate(results) if not _close(a[k], b[k])]
    only = f"only cotangents of {outputs[wrong[0]]} give a wrong gradient" if len(wrong) == 1 < len(cotangents) else ""
    if only and not results[wrong[0]][0][k].any():
        return f"the cotangent of {outputs[wrong[0]]} is ignored"
    for o in wrong:
        for axis, size in enumerate(cotangents[o].shape):
            if not 1 < size <= _MAX_RESTRICTED:
                continue
            pairs = [restricted(o, axis, index) for index in range(size)]
            for index, (_, term) in enumerate(pairs):
                if _close(missing, term[k]):
                    return f"the sum over axis {axis} of {outputs[o]} misses the term of index {index}{_last(index, size)}"
            bad = [index for index, (a, b) in enumerate(pairs) if not _close(a[k], b[k])]
            if len(bad) == 1:
                return f"only cotangents at index {bad[0]}{_last(bad[0], size)} of axis {axis} of {outputs[o]} give a wrong gradient"
    return only


def _last(index: int, size: int) -> str:
    return " (the last)" if index == size - 1 else " (the first)" if index == 0 else ""

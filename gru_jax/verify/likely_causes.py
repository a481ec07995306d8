"""Finds the likely cause of a wrong gradient, such as a sign, a factor or a transpose."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gru_jax.verify.comparison import Difference
from gru_jax.verify.evaluation import CachedEvaluation
from gru_jax.verify.function import Arrays

CLOSE = 1e-6  # arrays count as equal up to this error, relative to the largest entry
_LONGEST_AXIS = 64  # a search for a missing term takes one run per index, so it skips longer axes


class GradientPair(NamedTuple):
    """The gradients of all leaves for the same cotangents, by the rule and by autodiff.

    Attributes:
        cotangents: Cotangents of the outputs.
        got: What the rule returns.
        expected: What autodiff of the reference returns.
    """

    cotangents: Arrays
    got: Arrays
    expected: Arrays


@dataclass
class CauseFinder:
    """Finds the likely cause of an error in the gradient of a leaf.

    If the gradient alone does not show the cause, runs the rule for parts of the cotangents.

    Attributes:
        rule: Evaluates the rule.
        autodiff: Evaluates autodiff of the reference.
        cotangents: Several random cotangents on every output.
        leaf_names: Names of the leaves.
        output_names: Names of the outputs.
    """

    rule: CachedEvaluation
    autodiff: CachedEvaluation
    cotangents: Sequence[Arrays]
    leaf_names: Sequence[str]
    output_names: Sequence[str]
    _causes: dict[str, str] = dataclasses.field(default_factory=dict)
    _parts: dict[tuple[int, int | None, int], GradientPair] = dataclasses.field(default_factory=dict)

    def explain(self, differences: Sequence[Difference]) -> tuple[Difference, ...]:
        """Returns the worst difference of each leaf, the worst first, with its likely cause."""
        worst: dict[str, Difference] = {}
        for difference in sorted(differences, key=lambda d: -d.error):
            worst.setdefault(difference.leaf, difference)
        return tuple(dataclasses.replace(d, likely_cause=self.likely_cause(d.leaf)) for d in worst.values())

    def likely_cause(self, leaf: str) -> str:
        """Returns the likely cause of the error in a leaf. Empty if no cause is recognised."""
        if leaf not in self._causes:
            self._causes[leaf] = self._find(self.leaf_names.index(leaf))
        return self._causes[leaf]

    @cached_property
    def _pairs(self) -> list[GradientPair]:
        return [self._pair(us) for us in self.cotangents]

    def _pair(self, cotangents: Arrays) -> GradientPair:
        return GradientPair(cotangents, self.rule(cotangents).gradients, self.autodiff(cotangents).gradients)

    def _find(self, k: int) -> str:
        got, expected = [pair.got[k] for pair in self._pairs], [pair.expected[k] for pair in self._pairs]
        if any(a.shape != b.shape for a, b in zip(got, expected, strict=True)):
            return "transposed" if got[0].shape == expected[0].shape[::-1] else "wrong shape"
        if not all(np.isfinite(leaf).all() for leaf in (*got, *expected)):
            return ""
        if all(_close(a, b) for a, b in zip(got, expected, strict=True)):
            return f"a loss of precision or a small missing term: all entries agree to a relative error of {CLOSE:g}"
        if not any(leaf.any() for leaf in expected):
            return "the leaf does not influence the outputs, so its gradient must be zero"
        if not any(leaf.any() for leaf in got):
            return f"zero: the rule returns None or zeros for {self.leaf_names[k]}"
        return (
            _factor(got, expected, _sizes(self._pairs[0]))
            or _transposed(got, expected)
            or self._swapped(k, got)
            or _some_entries(got, expected)
            or self._some_cotangents(k)
        )

    def _swapped(self, k: int, got: Sequence[np.ndarray]) -> str:
        for j, name in enumerate(self.leaf_names):
            if j != k and all(_close(a, pair.expected[j]) for a, pair in zip(got, self._pairs, strict=True)):
                both = all(_close(pair.got[j], pair.expected[k]) for pair in self._pairs)
                return f"swapped with the gradient of {name}" if both else f"equal to the gradient of {name}"
        return ""

    def _some_cotangents(self, k: int) -> str:
        """Describes the one output, or the one index of it, whose cotangent causes the error.

        Empty if there is none.
        """
        cotangents, got, expected = self._pairs[0]
        missing = expected[k] - got[k]
        results = [self._with_part(o) for o in range(len(cotangents))]
        wrong = [o for o, pair in enumerate(results) if not _close(pair.got[k], pair.expected[k])]
        only = ""
        if len(wrong) == 1 < len(cotangents):
            name = self.output_names[wrong[0]]
            if not results[wrong[0]].got[k].any():
                return f"the cotangent of {name} is ignored"
            only = f"only cotangents of {name} give a wrong gradient"
        for o in wrong:
            name = self.output_names[o]
            for axis, size in enumerate(cotangents[o].shape):
                if not 1 < size <= _LONGEST_AXIS:
                    continue
                pairs = [self._with_part(o, axis, index) for index in range(size)]
                for index, pair in enumerate(pairs):
                    if _close(missing, pair.expected[k]):
                        return f"the sum over axis {axis} of {name} lacks the term at index {_index(index, size)}"
                bad = [index for index, pair in enumerate(pairs) if not _close(pair.got[k], pair.expected[k])]
                if len(bad) == 1:
                    return f"only cotangents at index {_index(bad[0], size)} of axis {axis} of {name} give a wrong gradient"
        return only

    def _with_part(self, output: int, axis: int | None = None, index: int = 0) -> GradientPair:
        """Returns the gradients if only one output, or one index of it, has a cotangent."""
        key = (output, axis, index)
        if key not in self._parts:
            whole = self.cotangents[0]
            us = tuple(np.zeros_like(u) for u in whole)
            place = () if axis is None else (slice(None),) * axis + (index,)
            us[output][place] = whole[output][place]
            self._parts[key] = self._pair(us)
        return self._parts[key]


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0) <= CLOSE * max(np.abs(b).max(initial=0), 1e-300))


def _sizes(pair: GradientPair) -> set[int]:
    """Returns how many terms a mean may have: the size of an axis, or of several leading axes."""
    return {
        size
        for arrays in pair
        for array in arrays
        for size in (*array.shape, *(int(np.prod(array.shape[:k])) for k in range(2, array.ndim + 1)))
    }


def _factor(got: Sequence[np.ndarray], expected: Sequence[np.ndarray], sizes: set[int]) -> str:
    ratios = [float((a * b).sum() / ((b * b).sum() or 1.0)) for a, b in zip(got, expected, strict=True)]
    ratio = ratios[0]
    if not all(_close(a, ratio * b) for a, b in zip(got, expected, strict=True)):
        return ""
    if abs(ratio + 1) < CLOSE:
        return "wrong sign"
    inverse = round(1 / ratio) if ratio else 0
    if inverse in sizes and abs(1 / ratio - inverse) < CLOSE * inverse:
        return f"a factor of 1/{inverse}: a mean over {inverse} terms instead of their sum"
    return f"a factor of {ratio:.7g}"


def _transposed(got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> str:
    square = got[0].ndim == 2 and got[0].shape[0] == got[0].shape[1] > 1
    return "transposed" if square and all(_close(a, b.T) for a, b in zip(got, expected, strict=True)) else ""


def _some_entries(got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> str:
    wrong = np.any([np.abs(a - b) > CLOSE * np.abs(b).max(initial=0) for a, b in zip(got, expected, strict=True)], axis=0)
    if not wrong.any() or wrong.all():
        return ""
    for axis in range(wrong.ndim):
        indices = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
        if len(indices) == 1 < wrong.shape[axis]:
            return f"only the entries at index {_index(indices[0], wrong.shape[axis])} of axis {axis} are wrong"
    return f"only {wrong.sum()} of {wrong.size} entries are wrong"


def _index(index: int, size: int) -> str:
    place = " (the last)" if index == size - 1 else " (the first)" if index == 0 else ""
    return f"{index}{place}"

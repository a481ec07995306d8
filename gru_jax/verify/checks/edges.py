"""The check at extreme inputs, where gates saturate, sums vanish and numbers overflow.

The inputs are zeros, the opposite signs, entries up to 20 and up to 10,000, one NaN and one
infinity. Each change is made to one leaf at a time. All but NaN and infinity are also made to all
leaves together. If the user passed `sample`, the inputs are other samples instead.

- Inputs at which the function raises, or returns NaN or infinity, are outside its domain and
  skipped.
- Where the rule and autodiff differ, differences of values decide. At a kink, every value between
  the derivatives on both sides is right.
- What the rule returns for an input of NaN or infinity is never wrong, nor is NaN at zeros, where
  many derivations divide. The report mentions them. Decompositions of LAPACK that iterate, such as
  the SVD, may never end for them, so functions that call one are not run at NaN and infinity.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gru_jax.verify.comparison import Difference, largest_magnitude
from gru_jax.verify.function import Arrays
from gru_jax.verify.report import NOT_CHECKED, Check, pass_or_fail
from gru_jax.verify.verification import Verification

_MOST_REPORTED = 12
_ITERATIVE = frozenset(["svd", "eig", "eigh", "schur"])  # primitives of decompositions that iterate


class EdgeInput(NamedTuple):
    """Extreme inputs.

    Attributes:
        condition: What is extreme about them.
        leaves: The leaves.
        is_finite: Whether no entry was changed to NaN or infinity.
        is_zero: Whether a leaf is zero.
    """

    condition: str
    leaves: Arrays
    is_finite: bool = True
    is_zero: bool = False


def edges(verification: Verification) -> Check:
    """Checks that the rule agrees with autodiff, or with differences of values where they differ."""
    if verification.why_unreliable:
        return Check("edges", NOT_CHECKED, verification.why_unreliable)
    if not verification.reference.is_independent:
        return Check("edges", NOT_CHECKED, "no custom rule is called")
    if verification.has_sample and not verification.samples:
        return Check("edges", NOT_CHECKED, "the samples differ in more than the floating arguments; pass several keys instead")
    us, names = verification.cotangents, verification.function.leaf_names
    found: list[Difference] = []
    outside, undecided, better, other = [], [], [], []
    count = 0
    for edge in edge_inputs(verification):
        count += 1
        try:
            rule, expected = verification.rule(us, edge.leaves), verification.autodiff(us, edge.leaves).gradients
        except Exception:
            outside.append(edge.condition)
            continue
        is_singular = edge.is_zero and not all(np.isfinite(bar).all() for bar in rule.gradients)
        if not all(np.isfinite(y).all() for y in rule.outputs) or not edge.is_finite or is_singular:
            outside.append(edge.condition)
            pairs = zip(names, rule.gradients, expected, strict=True)
            other += [f"{name} ({edge.condition})" for name, a, b in pairs if (np.isfinite(a) != np.isfinite(b)).any()]
            continue
        judgement = verification.judge(rule.gradients, us, edge.condition, edge.leaves, at_edge=True)
        found += judgement.wrong
        undecided += [f"{name} ({edge.condition})" for name in judgement.undecided]
        better += [f"{name} ({edge.condition})" for name in judgement.unreliable]
    kinds = "other samples" if verification.has_sample else "extreme inputs: zeros, opposite signs, entries up to 20 and 10,000"
    inputs = f"{count - len(outside)} {kinds}"
    text = f"the rule is wrong at some of {inputs}" if found else f"the rule is right at {inputs}"
    text += _listed("; it is right where autodiff is not", better) + _listed("; not decided", undecided)
    text += _listed("; it handles NaN, infinity or inputs outside the domain unlike autodiff", other)
    details = {"inputs": count, "outside": outside, "right_where_autodiff_is_not": better, "undecided": undecided}
    if count == len(outside) or (undecided and not found):
        return Check("edges", NOT_CHECKED, text, details=details)
    return Check("edges", pass_or_fail(found), text, tuple(found[:_MOST_REPORTED]), details=details)


def edge_inputs(verification: Verification) -> Iterator[EdgeInput]:
    """Yields the inputs to check at."""
    if verification.has_sample:
        for k, sample in enumerate(verification.samples, start=1):
            yield EdgeInput(f"sample {k}", sample)
        return
    leaves = verification.leaves
    zeros = [_where_finite(leaf, np.zeros_like(leaf)) for leaf in leaves]
    iterates = not _ITERATIVE.isdisjoint(verification.primitives)
    yield EdgeInput("all leaves zero", tuple(zeros), is_zero=True)
    for largest in (20.0, 1e4):
        yield EdgeInput(f"all leaves up to {largest:g}", tuple(_scaled(leaf, largest) for leaf in leaves))
    for k, (name, leaf) in enumerate(zip(verification.function.leaf_names, leaves, strict=True)):
        changes = {
            "zero": zeros[k],
            "with opposite signs": _where_finite(leaf, -leaf),
            "up to 20": _scaled(leaf, 20.0),
            "up to 10000": _scaled(leaf, 1e4),
        }
        for change, changed in changes.items():
            yield EdgeInput(f"{name} {change}", (*leaves[:k], changed, *leaves[k + 1 :]), is_zero=change == "zero")
        if leaf.size and not iterates:
            index = verification.random.index(leaf.size)
            for change, value in {"with one NaN": np.nan, "with one infinity": np.inf}.items():
                changed = _with_entry(leaf, index, value)
                yield EdgeInput(f"{name} {change}", (*leaves[:k], changed, *leaves[k + 1 :]), is_finite=False)


def _where_finite(leaf: np.ndarray, changed: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(leaf), changed, leaf)


def _scaled(leaf: np.ndarray, largest: float) -> np.ndarray:
    return leaf * (largest / (largest_magnitude(leaf) or 1.0))


def _with_entry(leaf: np.ndarray, index: int, value: float) -> np.ndarray:
    changed = leaf.copy()
    changed.flat[index] = value
    return changed


def _listed(intro: str, items: list[str]) -> str:
    """Returns `intro` with the first three items. Empty if there are none."""
    if not items:
        return ""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{intro}: {', '.join(items[:3])}{more}"

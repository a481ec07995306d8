"""The check at extreme inputs, where gates saturate, sums vanish and numbers overflow.

The inputs are zeros, entries up to 20 and up to 10,000, one NaN and one infinity. Each change is
made to one leaf at a time. All but NaN and infinity are also made to all leaves together.

- If the gradients of the rule and the reference are finite, they must agree.
- If the outputs of the function are finite, the rule must be finite wherever the reference is. If
  the outputs are not finite, the rule need not be finite.
- If an input is NaN, an output is not finite and the reference is NaN somewhere, the rule must not
  return only finite numbers.

A rule passes if it is finite where autodiff is not, for example because it uses a mask or a better
formula. The report then says so.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gru_jax.verify.comparison import Difference
from gru_jax.verify.evaluation import Evaluation
from gru_jax.verify.function import Arrays
from gru_jax.verify.report import NOT_CHECKED, Check, pass_or_fail
from gru_jax.verify.verification import Verification

_MOST_REPORTED = 12


class EdgeInput(NamedTuple):
    """Extreme inputs.

    Attributes:
        condition: What is extreme about them.
        leaves: The leaves.
        has_nan: Whether one entry is NaN.
    """

    condition: str
    leaves: Arrays
    has_nan: bool = False


def edges(verification: Verification) -> Check:
    """Checks that the rule is as finite as the reference, and equal to it if both are finite."""
    if verification.reference.why_no_gradient:
        return Check("edges", NOT_CHECKED, verification.reference.why_no_gradient)
    us, names = verification.cotangents, verification.function.leaf_names
    found: list[Difference] = []
    better: list[str] = []
    count = 0
    for condition, leaves, has_nan in edge_inputs(verification):
        count += 1
        rule, expected = verification.rule(us, leaves), verification.autodiff(us, leaves).gradients
        for name, a, b in zip(names, rule.gradients, expected, strict=True):
            if (np.isfinite(a) & ~np.isfinite(b)).any():
                better.append(f"{name} ({condition})")
        found += _not_finite(names, rule, expected, condition)
        if has_nan:
            found += _hidden_nan(names, rule, expected, condition)
        if all(np.isfinite(leaf).all() for leaf in (*rule.gradients, *expected)):
            found += verification.compare_with_reference(rule.gradients, us, condition, leaves)
    inputs = f"{count} extreme inputs: zeros, entries up to 20 and 10,000, NaN, infinity"
    text = f"the rule differs from autodiff at some of {inputs}" if found else f"the rule agrees with autodiff at {inputs}"
    if better:
        more = f" and {len(better) - 3} more" if len(better) > 3 else ""
        text += f"; it is finite where autodiff is not: {', '.join(better[:3])}{more}"
    details = {"inputs": count, "finite_where_autodiff_is_not": better}
    return Check("edges", pass_or_fail(found), text, tuple(found[:_MOST_REPORTED]), details=details)


def edge_inputs(verification: Verification) -> Iterator[EdgeInput]:
    """Yields the inputs to check at."""
    leaves = verification.leaves
    scaled = lambda leaf, largest: leaf * (largest / (np.abs(leaf).max(initial=0) or 1.0))
    yield EdgeInput("all leaves zero", tuple(np.zeros_like(leaf) for leaf in leaves))
    for largest in (20.0, 1e4):
        yield EdgeInput(f"all leaves up to {largest:g}", tuple(scaled(leaf, largest) for leaf in leaves))
    for k, (name, leaf) in enumerate(zip(verification.function.leaf_names, leaves, strict=True)):
        changes = {"zero": np.zeros_like(leaf), "up to 20": scaled(leaf, 20.0), "up to 10000": scaled(leaf, 1e4)}
        if leaf.size:
            index = verification.random.index(leaf.size)
            changes |= {
                "with one NaN": _with_entry(leaf, index, np.nan),
                "with one infinity": _with_entry(leaf, index, np.inf),
            }
        for change, changed in changes.items():
            has_nan = bool(np.isnan(changed).any())
            yield EdgeInput(f"{name} {change}", (*leaves[:k], changed, *leaves[k + 1 :]), has_nan)


def _not_finite(names: tuple[str, ...], rule: Evaluation, expected: Arrays, condition: str) -> list[Difference]:
    """Returns the leaves where the rule is not finite, although outputs and reference are."""
    if not _outputs_are_finite(rule):
        return []
    found = []
    for name, a, b in zip(names, rule.gradients, expected, strict=True):
        wrong = np.isfinite(b) & ~np.isfinite(a)
        if wrong.any():
            found.append(_difference(name, a, b, wrong, condition))
    return found


def _hidden_nan(names: tuple[str, ...], rule: Evaluation, expected: Arrays, condition: str) -> list[Difference]:
    """Returns the first leaf where the reference is NaN, if the rule returns only finite numbers.

    Returns nothing if the outputs are finite.
    """
    if _outputs_are_finite(rule) or not all(np.isfinite(leaf).all() for leaf in rule.gradients):
        return []
    for name, a, b in zip(names, rule.gradients, expected, strict=True):
        if np.isnan(b).any():
            return [_difference(name, a, b, np.isnan(b), condition)]
    return []


def _outputs_are_finite(run: Evaluation) -> bool:
    return all(np.isfinite(y).all() for y in run.outputs)


def _difference(name: str, got: np.ndarray, expected: np.ndarray, wrong: np.ndarray, condition: str) -> Difference:
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Difference(name, np.inf, 0.0, 1.0, index, float(got[index]), float(expected[index]), condition)


def _with_entry(leaf: np.ndarray, index: int, value: float) -> np.ndarray:
    changed = leaf.copy()
    changed.flat[index] = value
    return changed

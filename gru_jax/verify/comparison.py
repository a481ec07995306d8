"""Comparing two lists of arrays leaf by leaf, and describing where they differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gru_jax.verify.function import Arrays


@dataclass(frozen=True)
class Difference:
    """A leaf that is further from its reference than rounding explains.

    Attributes:
        leaf: Name of the leaf or output.
        error: Largest error, relative to `scale`.
        allowed: Largest error allowed, relative to `scale`.
        scale: Largest magnitude of an entry of the reference.
        index: Where the largest error is.
        value: The entry there.
        expected: The entry of the reference there.
        condition: The cotangents or inputs under which the error shows.
        likely_cause: What is probably wrong with the rule. Empty if nothing suggests itself.
    """

    leaf: str
    error: float
    allowed: float
    scale: float
    index: tuple[int, ...]
    value: float
    expected: float
    condition: str
    likely_cause: str = ""

    def __str__(self) -> str:
        at = f" at {list(self.index)}" if self.index else ""
        size = f"off by {self.error:.1e} of its scale{at}" if np.isfinite(self.error) else f"not finite like its reference{at}"
        values = f"got {self.value:.10g}, expected {self.expected:.10g} (allowed {self.allowed:.1e})"
        text = f"{self.leaf}: {size}, {self.condition}: {values}"
        return f"{text}\nlikely cause: {self.likely_cause}" if self.likely_cause else text


def leaf_scales(reference: Sequence[np.ndarray]) -> list[float]:
    """Returns the largest finite magnitude in each leaf.

    For a leaf of zeros, returns the largest magnitude in all leaves.
    """
    own = [float(np.abs(leaf, where=np.isfinite(leaf), out=np.zeros(leaf.shape)).max(initial=0)) for leaf in reference]
    return [scale or max(own, default=0.0) or 1.0 for scale in own]


def entry_errors(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns |got − expected| for each entry.

    The error is 0 if both are NaN or the same infinity, and infinite if only one is.
    """
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(got - expected), nan=np.inf, posinf=np.inf))


def largest_errors(got: Arrays, expected: Arrays) -> list[float]:
    """Returns the largest error in each leaf."""
    return [float(entry_errors(a, b).max(initial=0)) for a, b in zip(got, expected, strict=True)]


def compare_leaves(
    names: Sequence[str],
    got: Arrays,
    expected: Arrays,
    *,
    condition: str,
    relative_tolerance: float,
    absolute_tolerances: Sequence[float] | None = None,
) -> list[Difference]:
    """Returns the leaves of `got` that differ from `expected` by more than both tolerances.

    Args:
        names: Names of the leaves.
        got: The arrays to check.
        expected: The arrays they should equal.
        condition: The cotangents or inputs under which they were computed.
        relative_tolerance: Largest error allowed, relative to a leaf's scale.
        absolute_tolerances: Largest error allowed in each leaf, for example by rounding. Defaults
            to zeros.
    """
    found = []
    noise = [0.0] * len(expected) if absolute_tolerances is None else absolute_tolerances
    for name, a, b, scale, absolute in zip(names, got, expected, leaf_scales(expected), noise, strict=True):
        if a.shape != b.shape:
            shapes = f"{condition}, shape {a.shape} instead of {b.shape}"
            found.append(Difference(name, np.inf, 0.0, scale, (), np.nan, np.nan, condition=shapes))
            continue
        errors = entry_errors(a, b)
        limit = max(relative_tolerance * scale, absolute)
        if errors.max(initial=0) > limit:
            index = tuple(int(i) for i in np.unravel_index(int(errors.argmax()), errors.shape))
            found.append(
                Difference(
                    leaf=name,
                    error=float(errors.max() / scale),
                    allowed=limit / scale,
                    scale=scale,
                    index=index,
                    value=float(a[index]),
                    expected=float(b[index]),
                    condition=condition,
                )
            )
    return found


def ulp_histogram(got: Arrays, expected: Arrays) -> dict[str, int]:
    """Counts entries by their distance from the reference in units in the last place (ulps).

    The counts help to diagnose a failure and never decide one: if gates saturate, a correct rule
    may be many units of a vanishing number away.
    """
    tiny = np.finfo(np.float64).tiny
    ulps = [entry_errors(a, b) / np.spacing(np.maximum(np.abs(b), tiny)) for a, b in zip(got, expected, strict=True)]
    every = np.concatenate([leaf.ravel() for leaf in ulps]) if ulps else np.zeros(0)
    edges = [0, 0.5, 1.5, 4.5, 16.5, 256.5, np.inf]
    labels = ["0", "1", "2-4", "5-16", "17-256", "more"]
    bins = zip(labels, edges, edges[1:], strict=False)
    counts = {label: int(((every >= low) & (every < high)).sum()) for label, low, high in bins}
    return counts | {"infinite": int(np.isinf(every).sum())}

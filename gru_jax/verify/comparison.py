"""Compares two lists of arrays leaf by leaf, and describes where they differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gru_jax.verify.function import Arrays


@dataclass(frozen=True)
class Difference:
    """A leaf that differs from its expected value by more than is allowed.

    Attributes:
        leaf: Name of the leaf or output.
        error: Largest error, relative to `scale`. Infinite if an entry is wrong at any tolerance,
            for example NaN instead of a number.
        allowed: Largest error allowed, relative to `scale`.
        scale: Largest magnitude of an expected entry.
        index: Index of the entry with the largest error. Empty for a scalar, and where no single
            entry is wrong.
        value: What was found at `index`. NaN if the shapes differ.
        expected: What was expected at `index`. NaN if the shapes differ.
        condition: The cotangents or inputs that show the error, in words.
        likely_cause: What is probably wrong with the rule. Empty if no cause is recognised.
        by_differences: The derivatives with respect to this entry from values of the function
            before it and after it. Empty if they were not computed.
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
    by_differences: tuple[float, ...] = ()

    @property
    def entry(self) -> str:
        """The leaf and the index of the entry, for example "x[2, 3]"."""
        return f"{self.leaf}{list(self.index) if self.index else ''}"

    def __str__(self) -> str:
        at = f" at {list(self.index)}" if self.index else ""
        error = f"relative error {self.error:.1e} (allowed {self.allowed:.1e})" if np.isfinite(self.error) else "wrong"
        shapes_differ = np.isnan(self.value) and np.isnan(self.expected)
        values = "" if shapes_differ else f": got {self.value:.10g}, expected {self.expected:.10g}"
        text = f"{self.leaf}: {error}{at}{values} ({self.condition})"
        return f"{text}\nlikely cause: {self.likely_cause}" if self.likely_cause else text


def leaf_scales(reference: Sequence[np.ndarray]) -> list[float]:
    """Returns the scale of each leaf, which is the largest finite magnitude of its entries.

    The scale of a leaf of zeros is the largest magnitude in any leaf, or 1 if all are zero.
    """
    own = [largest_magnitude(leaf) for leaf in reference]
    return [scale or max(own, default=0.0) or 1.0 for scale in own]


def largest_magnitude(leaf: np.ndarray) -> float:
    """Returns the largest magnitude of a finite entry, or 0 if there is none."""
    return float(np.abs(leaf, where=np.isfinite(leaf), out=np.zeros(leaf.shape)).max(initial=0))


def root_mean_square(leaf: np.ndarray) -> float:
    """Returns the root mean square of the finite entries, or 0 if there are none."""
    finite = leaf[np.isfinite(leaf)]
    return float(np.sqrt((finite**2).mean())) if finite.size else 0.0


def entry_errors(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns |got − expected| for each entry.

    The error is 0 if both entries are NaN or the same infinity, which is no evidence that either is
    right: see `decided`. It is infinite if only one is.
    """
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(got - expected), nan=np.inf, posinf=np.inf))


def decided(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns which entries a comparison can decide: those that are finite on one side at least."""
    return np.isfinite(got) | np.isfinite(expected)


def largest_errors(got: Arrays, expected: Arrays) -> list[float]:
    """Returns the largest error in each leaf."""
    return [float(entry_errors(a, b).max(initial=0)) for a, b in zip(got, expected, strict=True)]


def compare_leaves(
    names: Sequence[str],
    got: Arrays,
    expected: Arrays,
    *,
    condition: str,
    relative_tolerance: float | Sequence[float],
    absolute_tolerances: Sequence[float | np.ndarray] | None = None,
) -> list[Difference]:
    """Returns the leaves with an error that exceeds both the relative and the absolute tolerance.

    Args:
        names: Names of the leaves.
        got: The arrays to check.
        expected: The arrays they should equal.
        condition: The cotangents or inputs under which they were computed.
        relative_tolerance: Largest error allowed, relative to a leaf's scale. One number, or one
            for each leaf.
        absolute_tolerances: Largest absolute error allowed in each leaf or entry, for example the
            measured effect of rounding. Defaults to zeros.
    """
    found = []
    noise = [0.0] * len(expected) if absolute_tolerances is None else absolute_tolerances
    relative = relative_tolerance if isinstance(relative_tolerance, Sequence) else [relative_tolerance] * len(expected)
    for name, a, b, scale, rtol, absolute in zip(names, got, expected, leaf_scales(expected), relative, noise, strict=True):
        if a.shape != b.shape:
            shapes = f"{condition}, shape {a.shape} instead of {b.shape}"
            found.append(Difference(name, np.inf, 0.0, scale, (), np.nan, np.nan, condition=shapes))
            continue
        limits = np.broadcast_to(np.fmax(rtol * scale, absolute), a.shape)
        excess = np.where(entry_errors(a, b) > limits, entry_errors(a, b), 0.0)
        if excess.any():
            index = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
            found.append(difference_at(name, a, b, index, limit=float(limits[index]), scale=scale, condition=condition))
    return found


def difference_at(
    name: str, got: np.ndarray, expected: np.ndarray, index: tuple[int, ...], *, limit: float, scale: float, condition: str
) -> Difference:
    """Returns the difference of one entry. `limit` is the largest error allowed there."""
    return Difference(
        leaf=name,
        error=float(entry_errors(got, expected)[index] / scale),
        allowed=limit / scale,
        scale=scale,
        index=index,
        value=float(got[index]),
        expected=float(expected[index]),
        condition=condition,
    )


def ulp_histogram(got: Arrays, expected: Arrays) -> dict[str, int]:
    """Counts entries by their error in units in the last place (ulps).

    The counts help to diagnose a failure. They never decide one: where gates saturate, gradients
    are close to zero, and a right rule may be wrong by many ulps.
    """
    tiny = np.finfo(np.float64).tiny
    with np.errstate(invalid="ignore", over="ignore"):
        ulps = [entry_errors(a, b) / np.spacing(np.maximum(np.abs(b), tiny)) for a, b in zip(got, expected, strict=True)]
    every = np.concatenate([leaf.ravel() for leaf in ulps]) if ulps else np.zeros(0)
    edges = [0, 0.5, 1.5, 4.5, 16.5, 256.5, np.inf]
    labels = ["0", "1", "2-4", "5-16", "17-256", "more"]
    bins = zip(labels, edges, edges[1:], strict=False)
    counts = {label: int(((every >= low) & (every < high)).sum()) for label, low, high in bins}
    return counts | {"infinite": int(np.isinf(every).sum())}

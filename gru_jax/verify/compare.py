"""Two lists of arrays compared leaf by leaf, and what differs in words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gru_jax.verify.subject import Arrays


class Difference(NamedTuple):
    """Where one leaf is further from its reference than rounding explains."""

    leaf: str
    error: float  # relative to the scale
    allowed: float  # relative to the scale
    scale: float  # max |reference|
    at: tuple[int, ...]  # index of the largest error
    value: float
    expected: float
    where: str  # under which cotangent, at which input
    hint: str = ""

    def __str__(self) -> str:
        at = f" at {list(self.at)}" if self.at else ""
        size = f"off by {self.error:.1e} of its scale{at}" if np.isfinite(self.error) else f"not finite like its reference{at}"
        text = f"{self.leaf}: {size}, {self.where}: got {self.value:.10g}, expected {self.expected:.10g} (allowed {self.allowed:.1e})"
        return f"{text}\nlikely cause: {self.hint}" if self.hint else text


def scales(reference: Sequence[np.ndarray]) -> list[float]:
    """The largest finite |entry| of each leaf; of all leaves together where a leaf is all zero."""
    own = [float(np.abs(leaf, where=np.isfinite(leaf), out=np.zeros(leaf.shape)).max(initial=0)) for leaf in reference]
    return [scale or max(own, default=0.0) or 1.0 for scale in own]


def errors(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|got − expected| entry by entry: 0 where both are the same infinity or NaN, infinite where only one is."""
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(got - expected), nan=np.inf, posinf=np.inf))


def differences(
    names: Sequence[str],
    got: Arrays,
    expected: Arrays,
    allowed: Sequence[float],
    where: str,
    noise: Sequence[float] | None = None,
) -> list[Difference]:
    """The leaves of `got` further from `expected` than `allowed` (relative to the leaf's scale) or `noise` (absolute)."""
    found = []
    for k, (name, one, other, scale) in enumerate(zip(names, got, expected, scales(expected), strict=True)):
        if one.shape != other.shape:
            found.append(
                Difference(name, np.inf, 0.0, scale, (), np.nan, np.nan, f"{where}, shape {one.shape} for {other.shape}")
            )
            continue
        error = errors(one, other)
        limit = max(allowed[k] * scale, noise[k] if noise else 0.0)
        if error.max(initial=0) > limit:
            index = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
            measured = (float(error.max() / scale), limit / scale, scale)
            found.append(Difference(name, *measured, index, float(one[index]), float(other[index]), where))
    return found


def ulp_histogram(got: Arrays, expected: Arrays) -> dict[str, int]:
    """How many entries lie how many units in the last place from the reference. A diagnosis, never a verdict: where gates
    saturate, right rules are far apart in units of a vanishing number."""
    ulps = [
        errors(a, b) / np.spacing(np.maximum(np.abs(b), np.finfo(np.float64).tiny)) for a, b in zip(got, expected, strict=True)
    ]
    every = np.concatenate([leaf.ravel() for leaf in ulps]) if ulps else np.zeros(0)
    edges = [0, 0.5, 1.5, 4.5, 16.5, 256.5, np.inf]
    labels = ["0", "1", "2-4", "5-16", "17-256", "more"]
    return {
        label: int(((every >= low) & (every < high)).sum()) for label, low, high in zip(labels, edges, edges[1:], strict=False)
    } | {"infinite": int(np.isinf(every).sum())}

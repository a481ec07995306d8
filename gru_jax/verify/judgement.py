"""Decides whether a gradient that differs from the reference is wrong.

A difference is not yet a fault. Each entry that differs by more than rounding may explain is
decided as follows:

1.  The effect of rounding on the entry is measured (`rounding_noise`). An entry that differs by less
    is right, unless the effect is as large as the gradient itself, which then says nothing.
2.  Differences of values decide where they can (`finite_differences`). At a kink, such as 0 for
    relu, every value between the derivatives on both sides is right.
3.  Otherwise the reference decides. If rounding may change all of it, the entry is undecided.
4.  If the rule computes in a lower precision, and its own rounding explains every error in a leaf,
    the leaf is undecided (`own_rounding`).

If differences of values confirm the rule and contradict the reference, the reference is unreliable.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gru_jax.verify.comparison import Difference, difference_at, entry_errors, leaf_scales, root_mean_square
from gru_jax.verify.finite_differences import Derivative
from gru_jax.verify.function import Arrays
from gru_jax.verify.own_rounding import lost_in_own_rounding
from gru_jax.verify.rounding_noise import VARIANTS
from gru_jax.verify.ties import wrong_together

if TYPE_CHECKING:
    from gru_jax.verify.verification import Verification

MOST_ENTRIES = 24  # entries of a leaf that are decided by differences; each takes 17 runs


@dataclass(frozen=True)
class Judgement:
    """What was decided about the gradients of all leaves.

    Attributes:
        wrong: The leaves that are wrong, with their worst entry.
        undecided: Names of the leaves with an entry that nothing decides.
        unreliable: Names of the leaves where differences of values contradict the reference.
        notes: What else a reader should know.
        exempt: For each leaf, the entries that differences of values decided against the reference.
        worst: The largest error of an entry that the tolerance alone decides, relative to its leaf.
    """

    wrong: tuple[Difference, ...]
    undecided: tuple[str, ...]
    unreliable: tuple[str, ...]
    notes: tuple[str, ...]
    exempt: Arrays
    worst: float


class _Leaf(NamedTuple):
    """One leaf with entries to decide.

    Attributes:
        k: Index of the leaf.
        got: What the rule returns.
        expected: What the reference returns.
        limits: The error allowed in each entry.
        noise: The measured effect of rounding on each entry.
        suspects: Which entries differ by more than is allowed.
        scale: The scale of the leaf.
    """

    k: int
    got: np.ndarray
    expected: np.ndarray
    limits: np.ndarray
    noise: np.ndarray
    suspects: np.ndarray
    scale: float

    def worst_first(self) -> Iterator[tuple[int, ...]]:
        """Yields the entries to decide, up to `MOST_ENTRIES`: the worst, and others evenly spread."""
        errors = np.where(self.suspects, entry_errors(self.got, self.expected), -1.0).ravel()
        order = np.argsort(-errors, kind="stable")[: int(self.suspects.sum())]
        half = MOST_ENTRIES // 2
        rest = order[half:]
        spread = rest[:: max(1, -(-len(rest) // half))] if len(rest) else rest
        for flat in (*order[:half], *spread):
            yield tuple(int(i) for i in np.unravel_index(flat, self.suspects.shape))


def judge(
    verification: "Verification",
    got: Arrays,
    cotangents: Arrays,
    condition: str,
    leaves: Arrays,
    *,
    reference_decides: bool = True,
) -> Judgement:
    """Decides about the gradients `got`, which the rule returns at `leaves` for `cotangents`.

    If differences of values are too rough, the reference decides, or the leaf is undecided if
    `reference_decides` is False.
    """
    expected = verification.autodiff(cotangents, leaves).gradients
    # For some cotangents, such as ones for a softmax, the gradient is zero up to rounding.
    typical = verification.autodiff(verification.cotangents, leaves).gradients
    size = max(*leaf_scales(expected), *leaf_scales(typical))
    suspects = _suspects(verification, got, expected, size, noise=None)
    wrong: list[Difference] = []
    if verification.differences_apply:  # where they decide, rounding need not be measured
        found = {leaf.k: _clearly_wrong(verification, leaf, cotangents, condition, leaves) for leaf in suspects}
        wrong += [difference for difference in found.values() if difference]
        suspects = [leaf for leaf in suspects if not found[leaf.k]]
    clear = [difference.leaf for difference in wrong]
    if suspects:
        # Rounding errors reach this size only in a chaotic function.
        beyond_rounding = verification.tolerances.eps**0.25 * size
        # The first step moves the inputs by one unit in the last place. The others compile programs.
        for variants in (0, 1, VARIANTS):
            errors = [entry_errors(leaf.got, leaf.expected)[leaf.suspects].min() for leaf in suspects]
            if variants and all(error > beyond_rounding for error in errors):
                break
            noise = verification.rounding_noise.of_gradients(cotangents, leaves, variants)
            left = _suspects(verification, got, expected, size, noise)
            suspects = [leaf for leaf in left if verification.function.leaf_names[leaf.k] not in clear]
            if not suspects:
                break
    names = verification.function.leaf_names
    undecided: list[str] = []
    unreliable: list[str] = []
    notes: list[str] = []
    exempt = [np.zeros(leaf.shape, bool) for leaf in expected]
    for leaf in suspects:
        decision = _decide_leaf(verification, leaf, cotangents, condition, leaves, reference_decides)
        wrong += [decision.wrong] if decision.wrong else []
        undecided += [names[leaf.k]] if decision.undecided else []
        unreliable += [names[leaf.k]] if decision.contradicted else []
        notes += decision.notes
        exempt[leaf.k] = leaf.suspects & decision.exempt
    if not wrong and any(mask.any() for mask in exempt) and verification.differences_apply:
        wrong += wrong_together(verification, got, expected, cotangents, condition, leaves, exempt)
    lost = lost_in_own_rounding(verification, wrong, got, expected, cotangents, leaves)
    wrong, undecided = [difference for difference in wrong if difference.leaf not in lost], [*undecided, *lost]
    regular = [
        np.where(mask, 0.0, entry_errors(a, b)) / s
        for mask, a, b, s in zip(exempt, got, expected, leaf_scales(expected), strict=True)
    ]
    worst = max((float(errors.max(initial=0)) for errors in regular), default=0.0)
    return Judgement(tuple(wrong), tuple(undecided), tuple(unreliable), tuple(dict.fromkeys(notes)), tuple(exempt), worst)


def _suspects(verification: "Verification", got: Arrays, expected: Arrays, size: float, noise: Arrays | None) -> list[_Leaf]:
    """Returns the leaves with entries that differ by more than the tolerance and the noise.

    `size` is the typical size of a gradient.
    """
    scales, tolerances = leaf_scales(expected), verification.tolerances.of_leaves
    # Noise of this size is that of ordinary rounding, also where it is larger than a small gradient.
    ordinary = verification.tolerances.eps**0.5 * size
    found = []
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        own = np.zeros(b.shape) if noise is None else noise[k]
        says_nothing = (own >= np.abs(b) / 2) & (own > ordinary)
        limits = np.fmax(tolerances[k] * scales[k], np.where(says_nothing, 0.0, own))
        suspects = entry_errors(a, b) > limits
        if suspects.any():
            found.append(_Leaf(k, a, b, limits, own, suspects, scales[k]))
    return found


class _Decision(NamedTuple):
    wrong: Difference | None = None
    undecided: bool = False
    contradicted: bool = False
    exempt: bool = False
    notes: tuple[str, ...] = ()


def _clearly_wrong(
    verification: "Verification", leaf: _Leaf, cotangents: Arrays, condition: str, leaves: Arrays
) -> Difference | None:
    """Returns the worst entry of a leaf if differences of values alone show that it is wrong."""
    index = next(leaf.worst_first())
    derivative = _entry_derivative(verification, leaf, index, cotangents, leaves)
    if _decide_entry(derivative, leaf, index, reference_decides=False) != "wrong":
        return None
    name = verification.function.leaf_names[leaf.k]
    return dataclasses.replace(_difference(name, leaf, index, condition), by_differences=derivative.shown)


def _entry_derivative(
    verification: "Verification", leaf: _Leaf, index: tuple[int, ...], cotangents: Arrays, leaves: Arrays
) -> Derivative:
    direction = tuple(np.zeros(x.shape) for x in leaves)
    direction[leaf.k][index] = 1.0
    return verification.derivative(direction, cotangents, leaves)


def _decide_leaf(
    verification: "Verification", leaf: _Leaf, cotangents: Arrays, condition: str, leaves: Arrays, reference_decides: bool
) -> _Decision:
    name = verification.function.leaf_names[leaf.k]
    index = next(leaf.worst_first())
    worst = _difference(name, leaf, index, condition)
    if _is_below_unit(verification, leaf, cotangents, leaves):
        error = float(entry_errors(leaf.got, leaf.expected)[leaf.suspects].max() / leaf.scale)
        precision, given = verification.precisions.comparison.name, verification.precisions.given.name
        note = (
            f"{name} differs by {error:.0e} in {precision}, less than the rounding of {given}: rtol={1.2 * error:.0e} allows it"
        )
        return _Decision(notes=(note,))
    if not verification.differences_apply:
        return _Decision(wrong=worst)
    undecided = kinks = contradicted = 0
    for index in leaf.worst_first():
        derivative = _entry_derivative(verification, leaf, index, cotangents, leaves)
        verdict = _decide_entry(derivative, leaf, index, reference_decides)
        if verdict == "wrong":
            shown = dataclasses.replace(_difference(name, leaf, index, condition), by_differences=derivative.shown)
            return _Decision(wrong=shown)
        undecided += verdict == "undecided"
        kinks += verdict == "kink"
        contradicted += verdict == "contradicted"
    notes = []
    if kinks:
        notes.append(
            f"{name} is at a kink or a tie in {int(leaf.suspects.sum())} entries, where the rule chooses another subgradient"
        )
    if contradicted:
        notes.append(f"differences of values confirm the rule in {name}, and contradict autodiff")
    return _Decision(None, undecided > 0, contradicted > 0, kinks + contradicted > 0, tuple(notes))


def _decide_entry(derivative: Derivative, leaf: _Leaf, index: tuple[int, ...], reference_decides: bool) -> str:
    """Returns "wrong", "right", "kink", "contradicted" (the reference is wrong) or "undecided"."""
    got, expected = float(leaf.got[index]), float(leaf.expected[index])
    error, interval = float(entry_errors(leaf.got, leaf.expected)[index]), derivative.interval
    noise_decides = error <= leaf.noise[index]
    if interval is None or (interval[1] - interval[0] >= error and not derivative.has_kink and not noise_decides):
        return "wrong" if reference_decides and not noise_decides else "undecided"
    inside = lambda value: interval[0] <= value <= interval[1]
    if inside(got):
        if derivative.has_kink:
            return "kink"
        return "right" if inside(expected) else "contradicted"
    return "undecided" if derivative.is_one_sided and (noise_decides or not reference_decides) else "wrong"


def _is_below_unit(verification: "Verification", leaf: _Leaf, cotangents: Arrays, leaves: Arrays) -> bool:
    """Returns whether all errors in a leaf are below the rounding unit of the arguments.

    A rule with a small constant inside, such as ε = 1e-10 in a root, has such errors everywhere. A
    fault may have them at saturated inputs only, so the leaves are also scaled to a size of 1.
    """
    unit = verification.tolerances.unit
    is_small = lambda a, b, scale: bool((entry_errors(a, b) <= unit * scale).all())
    if not unit or not is_small(leaf.got, leaf.expected, leaf.scale):
        return False
    tame = tuple(x / max(1.0, root_mean_square(x)) for x in leaves)
    if all(x is y or np.array_equal(x, y) for x, y in zip(tame, leaves, strict=True)):
        return True
    got, expected = (run(cotangents, tame).gradients[leaf.k] for run in (verification.rule, verification.autodiff))
    return is_small(got, expected, leaf_scales([expected])[0])


def _difference(name: str, leaf: _Leaf, index: tuple[int, ...], condition: str) -> Difference:
    return difference_at(
        name, leaf.got, leaf.expected, index, limit=float(leaf.limits[index]), scale=leaf.scale, condition=condition
    )

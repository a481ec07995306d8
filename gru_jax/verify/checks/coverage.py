"""The checks of the verification itself: do the inputs hide faults, are planted faults found?"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gru_jax.verify.comparison import compare_leaves
from gru_jax.verify.function import Arrays
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.verification import Verification

PLANTED_ERROR = 1e-3  # relative; the smallest error that is planted


class Fault(NamedTuple):
    """A fault to plant in a gradient.

    Attributes:
        leaf: Name of the leaf that it changes.
        description: What is wrong with it.
        plant: Returns the wrong gradient for a right one.
    """

    leaf: str
    description: str
    plant: Callable[[Arrays], Arrays]


def inputs(verification: Verification) -> Check:
    """Checks that the inputs let a fault show: no leaf is constant, zero or without influence."""
    blind = []
    for name, leaf in zip(verification.function.leaf_names, verification.leaves, strict=True):
        if leaf.size and not leaf.any():
            blind.append(f"{name} is zero: an error in a factor of it does not show")
        elif leaf.size > 1 and (leaf == leaf.flat[0]).all():
            blind.append(f"{name} is constant: swapped entries do not show")
    if not verification.reference.why_no_gradient:
        for name in leaves_with_zero_gradient(verification):
            blind.append(f"{name} has a zero gradient: a rule that forgets it does not show")
        for name in verification.leaves_lost_in_rounding:
            blind.append(f"{name} has a gradient that is zero up to rounding: errors below rounding do not show")
    if blind:
        return Check("inputs", NOT_CHECKED, "; ".join(blind) + ". Pass random values", blind_inputs=tuple(blind))
    influence = "" if verification.reference.why_no_gradient else ", and every leaf influences the outputs"
    return Check("inputs", PASS, f"no leaf is constant or zero{influence}")


def guard(verification: Verification) -> Check:
    """Checks that there is a rule to verify, and that planted faults are found."""
    if verification.reference.why_no_gradient:
        return _guard_of_differences(verification)
    rules = verification.reference.rules
    if not rules.replaced and verification.reference.user_function is None:
        kept = f"; JAX's own rules in it ({', '.join(rules.kept)}) count as autodiff" if rules.kept else ""
        text = f"no custom rule is called, so autodiff was compared with itself{kept}. Pass a decorated function or a reference"
        return Check("guard", FAIL, text)
    right = {condition: verification.autodiff(us).gradients for condition, us in verification.random_cotangents.items()}
    undetectable = {*leaves_with_zero_gradient(verification), *verification.leaves_lost_in_rounding}
    planted, missed = 0, []
    for fault in faults_to_plant(verification):
        if fault.leaf in undetectable or all(_equal(fault.plant(gradients), gradients) for gradients in right.values()):
            continue
        planted += 1
        if not any(_is_found(verification, fault, condition) for condition in right):
            missed.append(f"{fault.leaf} {fault.description}")
    if not missed:
        return Check("guard", PASS, f"all {planted} planted faults are found", details={"planted": planted})
    reason = _why_missed(verification)
    text = f"{len(missed)} of {planted} planted faults are not found{reason}: {', '.join(missed[:4])}"
    return Check("guard", NOT_CHECKED if reason else FAIL, text, details={"planted": planted, "missed": missed})


def leaves_with_zero_gradient(verification: Verification) -> list[str]:
    """Returns the leaves whose reference gradient is zero for every random cotangent."""
    runs = [verification.autodiff(us).gradients for us in verification.random_cotangents.values()]
    names = verification.function.leaf_names
    return [name for k, name in enumerate(names) if runs[0][k].size and not any(run[k].any() for run in runs)]


def faults_to_plant(verification: Verification) -> Iterator[Fault]:
    """Yields the faults that the checks must find."""
    names, shapes = verification.function.leaf_names, [leaf.shape for leaf in verification.leaves]
    change_leaf = lambda k, change: lambda gradients: (*gradients[:k], change(gradients[k]), *gradients[k + 1 :])
    for k, name in enumerate(names):
        yield Fault(name, f"times {1 + PLANTED_ERROR:g}", change_leaf(k, lambda leaf: leaf * (1 + PLANTED_ERROR)))
        yield Fault(name, "zero", change_leaf(k, np.zeros_like))
        yield Fault(name, "with the opposite sign", change_leaf(k, np.negative))
        if len(shapes[k]) == 2 and shapes[k][0] == shapes[k][1] > 1:
            yield Fault(name, "transposed", change_leaf(k, np.transpose))
        for j in range(k):
            if shapes[j] == shapes[k]:
                yield Fault(name, f"swapped with {names[j]}", _swap(j, k))


def _guard_of_differences(verification: Verification) -> Check:
    """Checks that finite differences would show an error of 0.1 %, if there is no reference."""
    derivatives = verification.directional_derivatives
    rtol = verification.tolerances.rtol
    missed = [name for name, d in derivatives.items() if PLANTED_ERROR * abs(d.by_rule) <= d.allowed_error(rtol)]
    if missed:
        text = f"finite differences do not show a gradient that is off by {PLANTED_ERROR:g} in {', '.join(missed)}"
        return Check("guard", NOT_CHECKED, text, details={"missed": missed})
    text = f"finite differences show an error of {PLANTED_ERROR:g} in each of {len(derivatives)} leaves"
    return Check("guard", PASS, text, details={"planted": len(derivatives)})


def _is_found(verification: Verification, fault: Fault, condition: str) -> bool:
    """Returns whether a planted fault is found.

    Only a thorough verification measures what rounding can do.
    """
    us = verification.random_cotangents[condition]
    expected = verification.autodiff(us).gradients
    wrong = fault.plant(expected)
    if verification.thorough:
        return bool(verification.compare_with_reference(wrong, us, condition))
    names, allowed = verification.function.leaf_names, verification.tolerances.relative
    return bool(compare_leaves(names, wrong, expected, condition=condition, relative_tolerance=allowed))


def _why_missed(verification: Verification) -> str:
    """Returns why the tolerance allows planted faults. Empty if there is no good reason."""
    tolerances, precision = verification.tolerances, verification.precisions.comparison
    if tolerances.rtol >= PLANTED_ERROR:
        return f": rtol is {tolerances.rtol:g}"
    if tolerances.eps > precision.eps:
        return f": the function computes in less than {precision.name} inside, so the tolerance is {tolerances.relative:.1e}"
    return ""


def _equal(a: Arrays, b: Arrays) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _swap(j: int, k: int) -> Callable[[Arrays], Arrays]:
    def swap(gradients: Arrays) -> Arrays:
        changed = list(gradients)
        changed[j], changed[k] = gradients[k], gradients[j]
        return tuple(changed)

    return swap

"""Checks of the verification itself: whether inputs hide faults and planted faults are found."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gru_jax.verify import blind_inputs
from gru_jax.verify.comparison import compare_leaves
from gru_jax.verify.function import Arrays
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.verification import Verification

PLANTED_ERROR = 1e-3  # the smallest relative error that is planted


class Fault(NamedTuple):
    """A fault to plant in a gradient.

    Attributes:
        leaf: Name of the leaf whose gradient it changes.
        description: What is then wrong with the gradient.
        plant: Returns the wrong gradient for the right one.
    """

    leaf: str
    description: str
    plant: Callable[[Arrays], Arrays]


def inputs(verification: Verification) -> Check:
    """Checks that the inputs can reveal a fault: no leaf is constant, zero or without influence."""
    reference = verification.reference
    blind = blind_inputs.of_function(verification.function, verification.leaves, reference.constants)
    if not reference.why_no_gradient:
        for name in leaves_with_zero_gradient(verification):
            blind.append(f"{name} has a zero gradient: a missing gradient does not show")
        for name in verification.leaves_lost_in_rounding:
            blind.append(f"{name} has a gradient that is zero up to rounding: faults below the rounding error do not show")
    if blind:
        text = "; ".join(blind) + ". Pass random values instead"
        return Check("inputs", NOT_CHECKED, text, blind_inputs=tuple(blind), notes=tuple(blind))
    influence = "" if reference.why_no_gradient else ", and every leaf influences the outputs"
    return Check("inputs", PASS, f"no argument hides faults{influence}")


def guard(verification: Verification) -> Check:
    """Checks that the comparison finds planted faults."""
    if verification.reference.why_no_gradient or not verification.reference.is_independent:
        return _guard_of_differences(verification)
    right = {condition: verification.autodiff(us).gradients for condition, us in verification.random_cotangents.items()}
    undetectable = {*leaves_with_zero_gradient(verification), *verification.leaves_lost_in_rounding}
    undetectable |= {name for judgement in verification.judgements.values() for name in judgement.undecided}
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
    more = f" and {len(missed) - 4} more" if len(missed) > 4 else ""
    text = f"{len(missed)} of {planted} planted faults are not found{reason}: {', '.join(missed[:4])}{more}"
    details = {"planted": planted, "missed": missed}
    return Check("guard", NOT_CHECKED if reason else FAIL, text, details=details, notes=(text,) if reason else ())


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
    """Checks that finite differences would show a relative error of 0.001.

    Takes the place of `guard` if the reference has no gradient.
    """
    rule, rtols = verification.rule, verification.tolerances.rtols
    derivatives = verification.directional_derivatives
    shows = lambda d: PLANTED_ERROR * abs(d.by(rule)) > d.allowed(rule, rtols[d.k])
    missed = [name for name, derivative in derivatives.items() if not shows(derivative)]
    if missed:
        leaves = ", ".join(missed)
        text = f"finite differences are too rough to show a relative error of {PLANTED_ERROR:g} in the gradient of {leaves}"
        return Check("guard", NOT_CHECKED, text, details={"missed": missed})
    text = f"finite differences would show a relative error of {PLANTED_ERROR:g} in each of {len(derivatives)} leaves"
    return Check("guard", PASS, text, details={"planted": len(derivatives)})


def _is_found(verification: Verification, fault: Fault, condition: str) -> bool:
    """Returns whether a planted fault is found.

    Only a thorough verification also measures the effect of rounding.
    """
    us = verification.random_cotangents[condition]
    expected = verification.autodiff(us).gradients
    wrong = fault.plant(expected)
    if verification.thorough:
        return bool(verification.judge(wrong, us, condition).wrong)
    names, allowed = verification.function.leaf_names, verification.tolerances.of_leaves
    return bool(compare_leaves(names, wrong, expected, condition=condition, relative_tolerance=allowed))


def _why_missed(verification: Verification) -> str:
    """Returns why the tolerance allows planted faults. Empty if it should not allow them."""
    tolerances, precision = verification.tolerances, verification.precisions.comparison
    if tolerances.rtol >= PLANTED_ERROR:
        return f" because rtol is {tolerances.rtol:g}"
    if any(mask.any() for judgement in verification.judgements.values() for mask in judgement.exempt):
        return " because the inputs are at kinks or ties"
    if tolerances.eps > precision.eps:
        why = f"the function casts to less than {precision.name}, which raises the tolerance to {tolerances.relative:.1e}"
        return f" because {why}"
    return ""


def _equal(a: Arrays, b: Arrays) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _swap(j: int, k: int) -> Callable[[Arrays], Arrays]:
    def swap(gradients: Arrays) -> Arrays:
        changed = list(gradients)
        changed[j], changed[k] = gradients[k], gradients[j]
        return tuple(changed)

    return swap

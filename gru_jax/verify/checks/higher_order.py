"""The checks against forward mode, and of second derivatives."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gru_jax.verify.comparison import Difference, compare_leaves
from gru_jax.verify.errors import short_message
from gru_jax.verify.evaluation import forward_and_gradients, gradients
from gru_jax.verify.function import Arrays, RealFunction
from gru_jax.verify.report import NOT_CHECKED, Check, pass_or_fail
from gru_jax.verify.verification import Verification


def dot_product(verification: Verification) -> Check:
    """Checks that <u, Jv> = <bwd(u), v>, where Jv comes from `jax.jvp` of the reference.

    The direction v is nonzero first in all leaves, and then in one leaf at a time.
    """
    reference, names = verification.reference, verification.function.leaf_names
    if not reference.why_no_gradient and verification.unreliable_leaves:
        return Check("dot_product", NOT_CHECKED, verification.why_unreliable)

    def tangent(leaves, nondiff_args, v):
        return jax.jvp(lambda *x: reference.call_real(x, nondiff_args).floating, tuple(leaves), _cast(v, leaves))[1]

    run = verification.runner(tangent)
    us = verification.cotangents
    leaves = verification.leaves if reference.why_no_gradient else verification.generic_leaves
    by_rule = verification.rule(us, leaves).gradients
    v = tuple(
        np.where(np.isfinite(leaf), x, 0.0)
        for leaf, x in zip(leaves, verification.random.normal([leaf.shape for leaf in leaves]), strict=True)
    )
    directions = {"all leaves": v}
    for k, name in enumerate(names):
        directions[name] = tuple(x if j == k else np.zeros_like(x) for j, x in enumerate(v))
    found = []
    for name, direction in directions.items():
        try:
            tangents = run(leaves, direction)
        except Exception as error:
            return Check("dot_product", NOT_CHECKED, f"forward mode of the reference raises {short_message(error)}")
        if not all(np.isfinite(tangent).all() for tangent in tangents):
            return Check("dot_product", NOT_CHECKED, "forward mode of the reference returns NaN or infinity")
        difference = _inner_product_difference(name, us, tangents, by_rule, direction, _allowed(verification, name))
        found += [difference] if difference else []
    if found and not reference.why_no_gradient:
        noise = verification.rounding_noise.of_gradients(us, leaves)
        allowed = {name: float((n * np.abs(x)).sum()) for name, n, x in zip(names, noise, v, strict=True)}
        allowed["all leaves"] = sum(allowed.values())
        found = [d for d in found if not abs(d.value - d.expected) <= allowed[d.leaf]]  # NaN stays
    text = f"<u, Jv> {'differs from' if found else 'equals'} <bwd(u), v>, for directions in all leaves and in each leaf alone"
    moving = {name for name, x in zip(names, v, strict=True) if x.any()}
    # The Jacobian of a function without a rule is that of the gradient itself.
    evidence = moving - {d.leaf for d in found} if reference.is_independent else set()
    return Check("dot_product", pass_or_fail(found), text, tuple(found), decided=tuple(n for n in names if n in evidence))


def _allowed(verification: Verification, name: str) -> float:
    tolerances = dict(zip(verification.function.leaf_names, verification.tolerances.of_leaves, strict=True))
    return tolerances.get(name, verification.tolerances.relative) + verification.tolerances.unit


def _inner_product_difference(
    name: str, us: Arrays, tangents: Arrays, gradients: Arrays, direction: Arrays, allowed: float
) -> Difference | None:
    """Returns the difference between <u, Jv> and <bwd(u), v>, or None if it is allowed.

    The error is relative to the sum of the magnitudes of the terms.
    """
    # A gradient that is not finite counts only along the direction.
    products = lambda left, right: [a[b != 0] * b[b != 0] for a, b in zip(left, right, strict=True)]
    sides = [products(tangents, us), products(gradients, direction)]
    forward, reverse = (float(sum(product.sum() for product in side)) for side in sides)
    size = max(*(float(sum(np.abs(product).sum() for product in side)) for side in sides), 1e-300)
    if np.isfinite(size) and abs(forward - reverse) <= allowed * size:
        return None
    size = size if np.isfinite(size) else 1.0
    return Difference(
        leaf=name,
        error=abs(forward - reverse) / size,
        allowed=allowed,
        scale=size,
        index=(),
        value=reverse,
        expected=forward,
        condition="<bwd(u), v> compared with <u, Jv>",
    )


FORWARD_OVER_REVERSE = "forward over reverse"


class SecondOrderMode(NamedTuple):
    """One way to differentiate a gradient.

    Attributes:
        differentiate: Takes a function, and returns the function (leaves, nondiff_args, *arguments)
            ↦ second derivatives.
        result_names: Names of the second derivatives.
        arguments: The cotangents and directions to evaluate them for.
    """

    differentiate: Callable[[RealFunction], Callable[..., Arrays]]
    result_names: tuple[str, ...]
    arguments: tuple[Arrays, ...]


def second_order(verification: Verification) -> Check:
    """Checks second derivatives: reverse over reverse, and forward over reverse.

    The gradient is differentiated with respect to the leaves and the cotangents. A derivative for
    which the rule raises is not checked, because nobody can get a wrong number from it.
    """
    if verification.why_unreliable:
        return Check("second_order", NOT_CHECKED, verification.why_unreliable)
    leaves = verification.generic_leaves
    found: list[Difference] = []
    unavailable, notes, done = [], [], []
    for name, mode in _second_order_modes(verification).items():
        try:
            expected = verification.runner(mode.differentiate(verification.reference.call_real))(leaves, *mode.arguments)
        except Exception as error:
            unavailable.append(f"{name} of the reference raises {short_message(error)}")
            continue
        try:
            got = verification.runner(mode.differentiate(verification.function.call_real))(leaves, *mode.arguments)
        except Exception as error:
            fix = "; to allow it, let the forward rule call the undecorated function" if "forward-mode" in str(error) else ""
            notes.append(f"{name} raises {short_message(error, 80)}{fix}")
            continue
        found += _compare_second_order(verification, name, mode, got, expected, leaves)
        done.append(name)
    if not done:
        return Check("second_order", NOT_CHECKED, "; ".join([*notes, *unavailable]), notes=tuple(notes))
    text = f"second derivatives {'differ' if found else 'agree'}: {', '.join(done)}"
    text = "; ".join([text, *notes, *unavailable])
    return Check("second_order", pass_or_fail(found), text, tuple(found), notes=tuple(notes))


def _second_order_modes(verification: Verification) -> dict[str, SecondOrderMode]:
    function, us = verification.function, verification.cotangents
    leaf_shapes = [leaf.shape for leaf in verification.leaves]
    weights = verification.random.normal(leaf_shapes)
    directions = (verification.random.normal(leaf_shapes), verification.random.normal(verification.output_shapes))
    cotangent_names = tuple(f"cotangent of {name}" for name in function.output_names)
    return {
        "reverse over reverse": SecondOrderMode(reverse_over_reverse, (*function.leaf_names, *cotangent_names), (us, weights)),
        FORWARD_OVER_REVERSE: SecondOrderMode(
            forward_over_reverse, (*function.leaf_names, *function.output_names), (us, *directions)
        ),
    }


def _compare_second_order(
    verification: Verification, name: str, mode: SecondOrderMode, got: Arrays, expected: Arrays, leaves: Arrays
) -> list[Difference]:
    count = len(mode.result_names)
    if name == FORWARD_OVER_REVERSE and not verification.differences_apply:
        count = len(leaves)  # without the outputs: an intended gradient is not the derivative of the forward rule
    got, expected = got[:count], expected[:count]
    # Second derivatives that are NaN by autodiff, as those of `where` may be, decide nothing.
    got = tuple(np.where(np.isfinite(b), a, b) for a, b in zip(got, expected, strict=True))

    def compare(noise: Arrays | None = None) -> list[Difference]:
        return compare_leaves(
            mode.result_names[:count],
            got,
            expected,
            condition=name,
            relative_tolerance=4 * verification.tolerances.relative + verification.tolerances.unit,
            absolute_tolerances=noise,
        )

    found = compare()
    if any(verification.may_be_rounding(d) for d in found):
        reference = mode.differentiate(verification.reference.call_real)
        found = compare(verification.rounding_noise.of_results(reference, leaves, *mode.arguments))
    return found


def reverse_over_reverse(function: RealFunction) -> Callable[..., Arrays]:
    """Returns the gradient of <bwd(u), w> with respect to the leaves and to u."""

    def run(leaves, nondiff_args, cotangents, weights):
        first, pullback = jax.vjp(lambda x, u: gradients(function)(x, nondiff_args, u), tuple(leaves), tuple(cotangents))
        by_leaves, by_cotangents = pullback(tuple(w.astype(leaf.dtype) for w, leaf in zip(weights, first, strict=True)))
        return (*by_leaves, *by_cotangents)

    return run


def forward_over_reverse(function: RealFunction) -> Callable[..., Arrays]:
    """Returns the derivative of bwd(u) and of the forward rule's outputs along a direction.

    The direction changes both the leaves and the cotangents.
    """

    def run(leaves, nondiff_args, cotangents, v, w):
        both = lambda x, u: forward_and_gradients(function)(x, nondiff_args, u)
        primals, tangents = (tuple(leaves), tuple(cotangents)), (_cast(v, leaves), _cast(w, cotangents))
        forward, by_leaves = jax.jvp(both, primals, tangents)[1]
        return (*by_leaves, *forward)

    return run


def _cast(tangents: Sequence[Any], like: Sequence[Any]) -> Arrays:
    return tuple(t.astype(x.dtype) for t, x in zip(tangents, like, strict=True))

"""Derivatives of another mode and of second order against the reference's."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gru_jax.verify.compare import Difference, differences
from gru_jax.verify.evaluate import Flat, gradient_alone, value_and_gradient
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.subject import Arrays
from gru_jax.verify.trial import Trial, brief


def dot_product(trial: Trial) -> Check:
    """<u, Jv> = <bwd(u), v>, with Jv from `jax.jvp` of the primal and v nonzero in one leaf at a time, then in all."""

    def tangent(leaves, passengers, v):
        return jax.jvp(lambda *x: trial.reference(x, passengers)[0], tuple(leaves), _cast(v, leaves))[1]

    run = trial.runner(tangent)
    us = trial.cotangents
    bars = trial.rule(us).bars
    v = trial.normal([leaf.shape for leaf in trial.leaves])
    found = []
    for k in range(-1, len(trial.names)):
        alone = tuple(x if j == k or k < 0 else np.zeros_like(x) for j, x in enumerate(v))
        try:
            tangents = run(trial.leaves, alone)
        except Exception as error:
            return Check("dot_product", NOT_CHECKED, f"forward mode through the primal raises {brief(error)}")
        there = [u * t for u, t in zip(us, tangents, strict=True)]
        back = [b * x for b, x in zip(bars, alone, strict=True)]
        left, right = (float(sum(product.sum() for product in side)) for side in (there, back))
        size = max(*(float(sum(np.abs(product).sum() for product in side)) for side in (there, back)), 1e-300)
        allowed = trial.allowed[0]
        if not abs(left - right) <= allowed * size:
            name = trial.names[k] if k >= 0 else "all leaves"
            found.append(
                Difference(name, abs(left - right) / size, allowed, size, (), right, left, "<bwd(u), v> against <u, Jv>")
            )
    if found and not trial.why_no_reference:
        found = _beyond_noise(trial, found, us, v)
    text = f"<u, Jv> and <bwd(u), v>, {len(trial.names)} leaves one by one, then all"
    return Check("dot_product", FAIL if found else PASS, text, tuple(found))


def _beyond_noise(trial: Trial, found: list[Difference], us: Arrays, v: Arrays) -> list[Difference]:
    """The findings that rounding of the reference does not explain."""
    noise = trial.noise(us)
    room = {name: n * float(np.abs(x).sum()) for name, n, x in zip(trial.names, noise, v, strict=True)}
    room["all leaves"] = sum(room.values())
    return [d for d in found if abs(d.value - d.expected) > room[d.leaf]]


def second_order(trial: Trial) -> Check:
    """Reverse over reverse and forward over reverse, with respect to the leaves and to the cotangents."""
    if trial.why_no_reference:
        return Check("second_order", NOT_CHECKED, trial.why_no_reference)
    us = trial.cotangents
    ws = trial.normal([leaf.shape for leaf in trial.leaves])
    directions = (trial.normal([leaf.shape for leaf in trial.leaves]), trial.normal(trial.output_shapes))
    into = {
        "reverse over reverse": ((*trial.names, *(f"cotangent of {name}" for name in trial.output_names)), (us, ws)),
        "forward over reverse": ((*trial.names, *trial.output_names), (us, *directions)),
    }
    found: list[Difference] = []
    refused, done = [], []
    for mode, make in {"reverse over reverse": reverse_over_reverse, "forward over reverse": forward_over_reverse}.items():
        names, rest = into[mode]
        try:
            expected = trial.runner(make(trial.reference))(trial.leaves, *rest)
        except Exception as error:
            refused.append(f"{mode} of the reference raises {brief(error)}")
            continue
        try:
            got = trial.runner(make(trial.subject.flat))(trial.leaves, *rest)
        except Exception as error:
            hint = "; let the forward rule call the undecorated function" if "forward-mode" in str(error) else ""
            text = f"{mode} raises {brief(error)}{hint}. If none is meant: checks=('all', '-second_order')"
            return Check("second_order", FAIL, text)
        apart = differences(names, got, expected, [4 * trial.allowed[0]] * len(names), mode)
        if apart:
            noise = trial.noise_of(make(trial.reference), trial.leaves, *rest)
            apart = differences(names, got, expected, [4 * trial.allowed[0]] * len(names), mode, noise)
        found += apart
        done.append(mode)
    if not found and refused:
        return Check("second_order", NOT_CHECKED, "; ".join(refused))
    return Check("second_order", FAIL if found else PASS, ", ".join(done), tuple(found))


def reverse_over_reverse(flat: Flat) -> Callable[..., Any]:
    """The gradient of <bwd(u), w> with respect to leaves and cotangents."""

    def run(leaves, passengers, cotangents, ws):
        bars, pull = jax.vjp(lambda x, u: gradient_alone(flat)(x, passengers, u), tuple(leaves), tuple(cotangents))
        by_leaves, by_cotangents = pull(tuple(w.astype(bar.dtype) for w, bar in zip(ws, bars, strict=True)))
        return (*by_leaves, *by_cotangents)

    return run


def forward_over_reverse(flat: Flat) -> Callable[..., Any]:
    """The derivative of bwd(u), and of the forward rule's outputs, along a direction of leaves and cotangents."""

    def run(leaves, passengers, cotangents, v, w):
        both = lambda x, u: value_and_gradient(flat)(x, passengers, u)
        forward, bars = jax.jvp(both, (tuple(leaves), tuple(cotangents)), (_cast(v, leaves), _cast(w, cotangents)))[1]
        return (*bars, *forward)

    return run


def _cast(tangents: Sequence[Any], like: Sequence[Any]) -> Arrays:
    return tuple(t.astype(x.dtype) for t, x in zip(tangents, like, strict=True))

"""The checks under JAX's transformations: `vmap`, `scan`, `checkpoint`, `shard_map`, and flags.

The expected gradient comes from a loop over plain calls, whose gradients are summed for an argument
that the calls share. If the reference also raises under a transformation, nothing is expected of
the rule. If only the rule raises, the check fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from gru_jax._jax import config, jaxprs
from gru_jax.verify.comparison import Difference
from gru_jax.verify.errors import short_message
from gru_jax.verify.evaluation import gradients
from gru_jax.verify.function import Arrays
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check, pass_or_fail
from gru_jax.verify.transformed import (
    Transformation,
    in_scan_body,
    inside_scan,
    under_checkpoint,
    under_shard_map,
    under_vmap,
)
from gru_jax.verify.verification import Verification

BATCH_FACTORS = (1.0, 15 / 16, 7 / 8)  # a batch consists of the leaves times these
_MOST_ARGUMENTS = 6  # that are batched alone


@dataclass(frozen=True)
class TransformationCase:
    """One transformation, and the gradient that the rule must give under it.

    Attributes:
        transformation: Makes the transformed gradient from a function.
        leaves: The leaves to take it at.
        cotangents: The cotangents to take it for.
        expected: The gradient expected.
    """

    transformation: Transformation
    leaves: Arrays
    cotangents: Arrays
    expected: Arrays


def vmap(verification: Verification) -> Check:
    """Checks the vmapped function with each argument batched alone, then with all batched."""
    return _compare(verification, "vmap", _batched_cases(verification, BATCH_FACTORS, under_vmap))


def shard_map(verification: Verification) -> Check:
    """Checks the same on two devices, with the shared arguments replicated."""
    if jax.device_count() < 2:
        text = "there is one device; on CPU set XLA_FLAGS=--xla_force_host_platform_device_count=2 before JAX starts"
        return Check("shard_map", NOT_CHECKED, text)
    return _compare(verification, "shard_map", _batched_cases(verification, BATCH_FACTORS[:2], under_shard_map))


def scan(verification: Verification) -> Check:
    """Checks the gradient of a scan that calls the function, and the gradient in a scan's body."""
    us = list(verification.random_cotangents.values())[:2]
    stacked = _stack(us)
    results = [verification.rule(u).gradients for u in us]
    summed = tuple(sum(leaves[1:], leaves[0]) for leaves in zip(*results, strict=True))
    cases = {
        "around it": TransformationCase(inside_scan, verification.leaves, stacked, summed),
        "in it": TransformationCase(in_scan_body, verification.leaves, stacked, _stack(results)),
    }
    return _compare(verification, "scan", cases)


def checkpoint(verification: Verification) -> Check:
    """Checks the gradient under `jax.checkpoint` with three policies."""
    policies = {
        "save nothing": jax.checkpoint_policies.nothing_saveable,
        "save everything": jax.checkpoint_policies.everything_saveable,
        "save dots": jax.checkpoint_policies.dots_saveable,
    }
    cases = {name: _same_gradient(verification, partial(under_checkpoint, policy=policy)) for name, policy in policies.items()}
    return _compare(verification, "checkpoint", cases)


def flags(verification: Verification) -> Check:
    """Checks the gradient with each of `jax_custom_vjp3` and `jax_remat3` switched.

    They select JAX's next implementations.
    """
    done, not_done = [], []
    for flag, transformation in {"jax_custom_vjp3": gradients, "jax_remat3": under_checkpoint}.items():
        value = getattr(jax.config, flag, None)
        if value is None:
            not_done.append(f"this JAX has no {flag}")
            continue
        setting = f"{flag}={not value}"
        with config.configured(flag, not value):
            if flag == "jax_custom_vjp3" and not _rule_follows_flag(verification, not value):
                not_done.append(f"the rule was decorated with {flag}={value}; set the flag before it is defined")
                continue
            check = _compare(verification, "flags", {setting: _same_gradient(verification, transformation)})
        if check.differences:
            return check
        if check.status == FAIL:  # the author of a rule cannot change what JAX does not support yet
            not_done.append(check.text)
            continue
        done.append(setting)
    text = "; ".join([", ".join(done), *not_done]).strip("; ")
    return Check("flags", PASS if done else NOT_CHECKED, text)


def _rule_follows_flag(verification: Verification, on: bool) -> bool:
    """Returns whether `jax_custom_vjp3` selects the primitive by which the rule is called."""
    precision, function = verification.precisions.comparison, verification.function
    with precision.active():
        jaxpr = jax.make_jaxpr(lambda *leaves: function.call_real(leaves, function.nondiff_args).floating)(
            *precision.cast(verification.leaves)
        )
    return (jaxprs.CUSTOM_VJP_PRIMITIVES[1] in str(jaxpr)) == on and "custom_jvp_call" not in str(jaxpr)


def _same_gradient(verification: Verification, transformation: Transformation) -> TransformationCase:
    """Returns a transformation that must not change the gradient."""
    us = verification.cotangents
    return TransformationCase(transformation, verification.leaves, us, verification.rule(us).gradients)


def _batched_cases(verification: Verification, factors: Sequence[float], batched_gradients) -> dict[str, TransformationCase]:
    """Returns a case for each argument batched alone, and one with all arguments batched."""
    argument_of_leaf = verification.function.argument_names()
    arguments = list(dict.fromkeys(argument_of_leaf))
    subsets = {f"over {name}": {name} for name in arguments[:_MOST_ARGUMENTS]}
    if len(arguments) > 1:
        subsets["over all arguments"] = set(arguments)
    us = [verification.random.normal(verification.output_shapes) for _ in factors]
    cases = {}
    for name, subset in subsets.items():
        batched = tuple(argument in subset for argument in argument_of_leaf)
        examples = [tuple(x * f if b else x for x, b in zip(verification.leaves, batched, strict=True)) for f in factors]
        runs = [verification.rule(u, leaves).gradients for u, leaves in zip(us, examples, strict=True)]
        expected = [np.stack(leaves) if b else sum(leaves) for b, leaves in zip(batched, zip(*runs, strict=True), strict=True)]
        leaves = [np.stack(xs) if b else xs[0] for b, xs in zip(batched, zip(*examples, strict=True), strict=True)]
        transformation = partial(batched_gradients, batched=batched)
        cases[name] = TransformationCase(transformation, tuple(leaves), _stack(us), tuple(expected))
    return cases


def _compare(verification: Verification, name: str, cases: dict[str, TransformationCase]) -> Check:
    found: list[Difference] = []
    unavailable = []
    for condition, case in cases.items():
        try:
            run = verification.runner(case.transformation(verification.function.call_real))
            got = run(case.leaves, case.cotangents)
        except Exception as error:
            if _reference_raises(verification, case):
                unavailable.append(f"{condition}: the reference raises too ({short_message(error)})")
                continue
            return Check(name, FAIL, f"{condition}: the rule raises {short_message(error)}")
        found += verification.compare_runs(got, case.expected, condition, factor=4 * len(BATCH_FACTORS))
    if unavailable and len(unavailable) == len(cases):
        return Check(name, NOT_CHECKED, "; ".join(unavailable))
    return Check(name, pass_or_fail(found), "; ".join([", ".join(cases), *unavailable]), tuple(found))


def _reference_raises(verification: Verification, case: TransformationCase) -> bool:
    if verification.reference.why_no_gradient:
        return False
    try:
        verification.runner(case.transformation(verification.reference.call_real))(case.leaves, case.cotangents)
    except Exception:
        return True
    return False


def _stack(examples: Sequence[Arrays]) -> Arrays:
    return tuple(np.stack(leaves) for leaves in zip(*examples, strict=True))

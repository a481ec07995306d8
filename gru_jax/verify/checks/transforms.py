"""The checks under `vmap`, `scan`, `checkpoint`, `shard_map`, and flags of JAX.

The expected gradient is computed by a loop over plain calls of the rule. If the calls share an
argument, their gradients are summed.

A rule that raises under a transformation is not wrong, because nobody can get a wrong number from
it. The report has a note. If only the rule raises, the check is NOT CHECKED, also if the rule is
right for other arguments. If the reference raises too, JAX refuses the function with any rule, and
the other arguments decide.
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
from gru_jax.verify.reference import traced_where_called
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check, pass_or_fail
from gru_jax.verify.transformed import (
    Transformation,
    in_scan_body,
    of_scan,
    under_checkpoint,
    under_shard_map,
    under_vmap,
)
from gru_jax.verify.verification import Verification

BATCH_FACTORS = (1.0, 15 / 16, 7 / 8)  # the examples of a batch are the leaves times these factors
_MOST_ARGUMENTS = 6  # at most this many arguments are batched alone; each needs a compilation


@dataclass(frozen=True)
class TransformationCase:
    """One transformation, and the gradient that the rule must return under it.

    Attributes:
        transformation: Takes a function, and returns its gradient under the transformation.
        leaves: The leaves to evaluate that gradient at.
        cotangents: The cotangents to evaluate it for.
        expected: The expected gradient.
    """

    transformation: Transformation
    leaves: Arrays
    cotangents: Arrays
    expected: Arrays


def vmap(verification: Verification) -> Check:
    """Checks the vmapped function with each argument batched alone, then with all batched."""
    return _compare(verification, "vmap", _batched_cases(verification, BATCH_FACTORS, under_vmap))


def shard_map(verification: Verification) -> Check:
    """Checks batches of two, split over two devices. Arguments without a batch are replicated."""
    if jax.device_count() < 2:
        fix = "on CPU, set XLA_FLAGS=--xla_force_host_platform_device_count=2 before JAX starts"
        text = f"this check needs two devices, but there is one; {fix}"
        return Check("shard_map", NOT_CHECKED, text)
    return _compare(verification, "shard_map", _batched_cases(verification, BATCH_FACTORS[:2], under_shard_map))


def scan(verification: Verification) -> Check:
    """Checks the gradient of a scan that calls the function, and a gradient in a scan's body."""
    us = list(verification.random_cotangents.values())[:2]
    stacked = _stack(us)
    results = [verification.rule(u).gradients for u in us]
    summed = tuple(sum(leaves[1:], leaves[0]) for leaves in zip(*results, strict=True))
    cases = {
        "gradient of a scan": TransformationCase(of_scan, verification.leaves, stacked, summed),
        "gradient in a scan": TransformationCase(in_scan_body, verification.leaves, stacked, _stack(results)),
    }
    return _compare(verification, "scan", cases)


def checkpoint(verification: Verification) -> Check:
    """Checks the gradient under `jax.checkpoint`, with three policies."""
    policies = {
        "save nothing": jax.checkpoint_policies.nothing_saveable,
        "save everything": jax.checkpoint_policies.everything_saveable,
        "save dots": jax.checkpoint_policies.dots_saveable,
    }
    cases = {name: _same_gradient(verification, partial(under_checkpoint, policy=policy)) for name, policy in policies.items()}
    return _compare(verification, "checkpoint", cases)


def flags(verification: Verification) -> Check:
    """Checks the gradient with `jax_custom_vjp3` and then `jax_remat3` set to the opposite value.

    The flags select JAX's next implementations of `custom_vjp` and `checkpoint`.
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
                not_done.append(f"the rule was defined with {flag}={value}; to check {setting}, set it before the definition")
                continue
            check = _compare(verification, "flags", {setting: _same_gradient(verification, transformation)})
        if check.status == FAIL:
            return check
        if check.status == NOT_CHECKED:  # JAX itself raises, which the author of a rule cannot change
            not_done.append(check.text)
            continue
        done.append(setting)
    same = [f"the gradient is the same with {' and with '.join(done)}"] if done else []
    text = "; ".join([*same, *not_done])
    return Check("flags", PASS if done else NOT_CHECKED, text)


def _rule_follows_flag(verification: Verification, on: bool) -> bool:
    """Returns whether the rule is called by the primitive that `jax_custom_vjp3=on` selects.

    JAX reads the flag when a rule is defined, so the rule may ignore a later change of the flag.
    """
    precision, function = verification.precisions.comparison, verification.function
    with precision.active():
        jaxpr = jax.make_jaxpr(lambda *leaves: function.call_real(leaves, precision.nondiff_args).floating)(
            *precision.cast(verification.leaves)
        )
    return (jaxprs.CUSTOM_VJP_PRIMITIVES[1] in str(jaxpr)) == on and "custom_jvp_call" not in str(jaxpr)


def _same_gradient(verification: Verification, transformation: Transformation) -> TransformationCase:
    """Returns the case of a transformation that must not change the gradient."""
    us = verification.cotangents
    return TransformationCase(transformation, verification.leaves, us, verification.rule(us).gradients)


def _batched_cases(verification: Verification, factors: Sequence[float], batched_gradients) -> dict[str, TransformationCase]:
    """Returns one case for each argument batched alone, and one with all arguments batched."""
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
    done, refused, raising, notes = [], [], [], []
    for condition, case in cases.items():
        try:
            run = verification.runner(case.transformation(verification.function.call_real))
            got = run(case.leaves, case.cotangents)
        except Exception as error:
            if _reference_raises(verification, case):
                refused.append(f"{condition}: the reference raises too ({short_message(error)})")
                notes.append(f"{name} {condition} raises with and without the rule")
            else:
                raising.append(f"{condition}: the rule raises {short_message(error)}")
                notes.append(f"{name} raises {short_message(error, 80)}")
            continue
        found += verification.compare_runs(got, case.expected, condition, factor=4 * len(BATCH_FACTORS))
        done.append(condition)
    wrong = dict.fromkeys(difference.condition for difference in found)
    result = f"the gradient is wrong: {', '.join(wrong)}" if wrong else f"the gradient is right: {', '.join(done)}"
    text = "; ".join([*([result] if done else []), *raising, *refused])
    status = NOT_CHECKED if not done or (raising and not found) else pass_or_fail(found)
    return Check(name, status, text, tuple(found), notes=tuple(dict.fromkeys(notes)))


def _reference_raises(verification: Verification, case: TransformationCase) -> bool:
    reference = verification.reference
    if reference.why_no_gradient:
        return False
    call_real = reference.call_real if reference.is_users else traced_where_called(verification.function)
    try:
        verification.runner(case.transformation(call_real))(case.leaves, case.cotangents)
    except Exception:
        return True
    return False


def _stack(examples: Sequence[Arrays]) -> Arrays:
    return tuple(np.stack(leaves) for leaves in zip(*examples, strict=True))

"""The rule under JAX's transformations: batched, in a scan, under checkpoint, on two devices, under JAX's coming flags.

What it must give is a loop over plain calls, a sum of them where an argument is shared. Where the reference raises under a
transformation too, nothing is asked of the rule; where only the rule raises, it fails.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from gru_jax._jax import config, jaxprs
from gru_jax.verify.compare import Difference
from gru_jax.verify.evaluate import Flat, gradient_alone
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.subject import Arrays
from gru_jax.verify.trial import Trial, brief

FACTORS = (1.0, 15 / 16, 7 / 8)  # what a batch is made of: the leaves, times these


def vmap(trial: Trial) -> Check:
    """Each argument batched alone, then all of them, the others shared: a loop, and sums over it for what is shared."""
    return _over_subsets(trial, "vmap", FACTORS, batched_by_vmap)


def shard_map(trial: Trial) -> Check:
    """The same over two devices, the shared arguments replicated."""
    if jax.device_count() < 2:
        text = "one device; on CPU set XLA_FLAGS=--xla_force_host_platform_device_count=2 before JAX starts"
        return Check("shard_map", NOT_CHECKED, text)
    return _over_subsets(trial, "shard_map", FACTORS[:2], batched_by_shard_map)


def scan(trial: Trial) -> Check:
    """Called in the body of a scan that is differentiated, and differentiated in the body of a scan."""
    us = list(trial.random_cotangents.values())[:2]
    stacked = tuple(np.stack(pair) for pair in zip(*us, strict=True))
    results = [trial.rule(u).bars for u in us]
    expected = {"around it": _summed(results), "in it": tuple(np.stack(pair) for pair in zip(*results, strict=True))}
    return _compared(
        trial,
        "scan",
        {where: (make, stacked, expected[where]) for where, make in {"around it": in_scan, "in it": pulled_in_scan}.items()},
    )


def checkpoint(trial: Trial) -> Check:
    """Under `jax.checkpoint`, with policies that save nothing, everything, and matrix products."""
    policies = {
        "save nothing": jax.checkpoint_policies.nothing_saveable,
        "save everything": jax.checkpoint_policies.everything_saveable,
        "save dots": jax.checkpoint_policies.dots_saveable,
    }
    us = trial.cotangents
    cases = {name: (partial(under_checkpoint, policy=policy), us, trial.rule(us).bars) for name, policy in policies.items()}
    return _compared(trial, "checkpoint", cases)


def flags(trial: Trial) -> Check:
    """With `jax_custom_vjp3` and `jax_remat3`, JAX's coming implementations, switched."""
    us, done, not_done = trial.cotangents, [], []
    for flag, make in {"jax_custom_vjp3": gradient_alone, "jax_remat3": under_checkpoint}.items():
        now = getattr(jax.config, flag, None)
        if now is None:
            not_done.append(f"this JAX has no {flag}")
            continue
        with config.configured(flag, not now):
            if flag == "jax_custom_vjp3" and not _rule_follows(trial, not now):
                not_done.append(f"the rule was decorated with {flag}={now}; set the flag before it is defined")
                continue
            outcome = _compared(trial, "flags", {f"{flag}={not now}": (make, us, trial.rule(us).bars)})
        if outcome.differences:
            return outcome
        if outcome.status == FAIL:  # a rule's author can do nothing about what JAX does not do yet
            not_done.append(outcome.text)
            continue
        done.append(f"{flag}={not now}")
    text = "; ".join([", ".join(done), *not_done]).strip("; ")
    return Check("flags", PASS if done else NOT_CHECKED, text)


def _rule_follows(trial: Trial, on: bool) -> bool:
    """Whether the flag now in force changes the primitive by which the rule is called."""
    with trial.truth():
        jaxpr = jax.make_jaxpr(lambda *leaves: trial.subject.flat(leaves, trial.subject.passengers)[0])(
            *trial.dtyped(trial.truth)
        )
    return (jaxprs.CUSTOM_VJP_PRIMITIVES[1] in str(jaxpr)) == on and "custom_jvp_call" not in str(jaxpr)


# The compositions: each makes (leaves, passengers, cotangents) ↦ cotangents of the leaves from a flat function -------------------


def under_checkpoint(flat: Flat, policy: Any = None) -> Callable[..., Arrays]:
    """The gradient through `jax.checkpoint`."""
    saved = lambda leaves, passengers: (jax.checkpoint(lambda *x: flat(x, passengers)[0], policy=policy)(*leaves), ())
    return gradient_alone(saved)


def in_scan(flat: Flat) -> Callable[..., Arrays]:
    """The gradient of a scan that calls the function in each of two steps."""
    repeated = lambda leaves, passengers: (
        jax.lax.scan(lambda c, _: (c, flat(leaves, passengers)[0]), 0.0, None, length=2)[1],
        (),
    )
    return gradient_alone(repeated)


def pulled_in_scan(flat: Flat) -> Callable[..., Arrays]:
    """A scan over cotangents whose body takes the gradient."""
    run = gradient_alone(flat)
    return lambda leaves, passengers, us: jax.lax.scan(lambda c, u: (c, run(leaves, passengers, u)), 0.0, us)[1]


def batched_by_vmap(flat: Flat, batched: tuple[bool, ...]) -> Callable[..., Arrays]:
    """The gradient of the vmapped function."""
    axes = tuple(0 if b else None for b in batched)
    return gradient_alone(lambda leaves, passengers: (jax.vmap(lambda *x: flat(x, passengers)[0], in_axes=axes)(*leaves), ()))


def batched_by_shard_map(flat: Flat, batched: tuple[bool, ...]) -> Callable[..., Arrays]:
    """The gradient, taken on each of two devices, of the function of what lies there."""
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    split, whole = PartitionSpec("devices"), PartitionSpec()
    specs = tuple(split if b else whole for b in batched)

    def run(leaves, passengers, cotangents):
        def local(leaves, passengers, cotangents):
            own = lambda leaves: tuple(x[0] if b else x for x, b in zip(leaves, batched, strict=True))
            return gradient_alone(lambda leaves, passengers: (tuple(y[None] for y in flat(own(leaves), passengers)[0]), ()))(
                leaves, passengers, cotangents
            )

        return jax.shard_map(local, mesh=mesh, in_specs=(specs, whole, split), out_specs=specs)(
            tuple(leaves), passengers, tuple(cotangents)
        )

    return run


# Judging ------------------------------------------------------------------------------------------------------------------------


def _over_subsets(trial: Trial, name: str, factors: tuple[float, ...], make: Callable[..., Any]) -> Check:
    owners = trial.subject.arguments()
    arguments = list(dict.fromkeys(owners))
    subsets = [(argument,) for argument in arguments[:6]] + ([tuple(arguments)] if len(arguments) > 1 else [])
    us = [trial.normal(trial.output_shapes) for _ in factors]
    stacked = tuple(np.stack(items) for items in zip(*us, strict=True))
    cases = {}
    for subset in subsets:
        batched = tuple(owner in subset for owner in owners)
        copies = [tuple(x * f if b else x for x, b in zip(trial.leaves, batched, strict=True)) for f in factors]
        runs = [trial.rule(u, leaves).bars for u, leaves in zip(us, copies, strict=True)]
        expected = tuple(
            np.stack([run[k] for run in runs]) if b else sum(run[k] for run in runs) for k, b in enumerate(batched)
        )
        leaves = tuple(np.stack([copy[k] for copy in copies]) if b else trial.leaves[k] for k, b in enumerate(batched))
        cases["over " + (", ".join(subset) if len(subset) < len(arguments) or len(arguments) == 1 else "all arguments")] = (
            partial(make, batched=batched),
            stacked,
            expected,
            leaves,
        )
    return _compared(trial, name, cases)


def _compared(trial: Trial, name: str, cases: dict[str, Any]) -> Check:
    """Each case: (make, cotangents, expected, leaves unless the trial's own)."""
    found: list[Difference] = []
    refused = []
    for where, (make, us, expected, *leaves) in cases.items():
        at = (leaves[0] if leaves else trial.leaves, us)
        try:
            got = trial.runner(make(trial.subject.flat))(*at)
        except Exception as error:
            if _reference_raises(trial, make, at):
                refused.append(f"{where}: the reference raises too ({brief(error)})")
                continue
            return Check(name, FAIL, f"{where}: the rule raises {brief(error)}")
        found += trial.alike(got, expected, where, times=4 * len(FACTORS))
    if refused and len(refused) == len(cases):
        return Check(name, NOT_CHECKED, "; ".join(refused))
    return Check(name, FAIL if found else PASS, "; ".join([", ".join(cases), *refused]), tuple(found))


def _reference_raises(trial: Trial, make: Callable[..., Any], at: tuple[Any, ...]) -> bool:
    if trial.why_no_reference:
        return False
    try:
        trial.runner(make(trial.reference))(*at)
    except Exception:
        return True
    return False


def _summed(results: list[Arrays]) -> Arrays:
    return tuple(sum(items[1:], items[0]) for items in zip(*results, strict=True))

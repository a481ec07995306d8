"""Gradients of a function under JAX's transformations.

Each function here takes a function of real leaves, and returns a function (leaves, nondiff_args,
cotangents) ↦ gradients.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from gru_jax.verify.evaluation import gradients
from gru_jax.verify.function import Arrays, Outputs, RealFunction

Transformation = Callable[[RealFunction], Callable[..., Arrays]]


def under_checkpoint(function: RealFunction, policy: Any = None) -> Callable[..., Arrays]:
    """Returns the gradient through `jax.checkpoint`."""

    def checkpointed(leaves, nondiff_args):
        return _floating(jax.checkpoint(lambda *x: function(x, nondiff_args).floating, policy=policy)(*leaves))

    return gradients(checkpointed)


def of_scan(function: RealFunction) -> Callable[..., Arrays]:
    """Returns the gradient of a scan that calls the function in each of its two steps."""

    def repeated(leaves, nondiff_args):
        return _floating(jax.lax.scan(lambda c, _: (c, function(leaves, nondiff_args).floating), 0.0, None, length=2)[1])

    return gradients(repeated)


def in_scan_body(function: RealFunction) -> Callable[..., Arrays]:
    """Returns a scan over the cotangents that computes the gradient in its body."""
    run = gradients(function)
    return lambda leaves, nondiff_args, us: jax.lax.scan(lambda c, u: (c, run(leaves, nondiff_args, u)), 0.0, us)[1]


def under_vmap(function: RealFunction, batched: tuple[bool, ...]) -> Callable[..., Arrays]:
    """Returns the gradient of the vmapped function. `batched` leaves have a batch axis."""
    axes = tuple(0 if b else None for b in batched)

    def vmapped(leaves, nondiff_args):
        return _floating(jax.vmap(lambda *x: function(x, nondiff_args).floating, in_axes=axes)(*leaves))

    return gradients(vmapped)


def under_shard_map(function: RealFunction, batched: tuple[bool, ...]) -> Callable[..., Arrays]:
    """Returns the gradient on two devices. `batched` leaves are split, the others replicated."""
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    split, replicated = PartitionSpec("devices"), PartitionSpec()
    specs = tuple(split if b else replicated for b in batched)

    def of_one_example(leaves, nondiff_args):
        example = tuple(x[0] if b else x for x, b in zip(leaves, batched, strict=True))
        return _floating(tuple(y[None] for y in function(example, nondiff_args).floating))

    def run(leaves, nondiff_args, cotangents):
        sharded = jax.shard_map(gradients(of_one_example), mesh=mesh, in_specs=(specs, replicated, split), out_specs=specs)
        return sharded(tuple(leaves), nondiff_args, tuple(cotangents))

    return run


def _floating(outputs: Arrays) -> Outputs:
    return Outputs(floating=outputs, other=())

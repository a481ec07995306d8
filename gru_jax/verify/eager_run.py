"""Runs a rule without `jit`, which shows types and devices that tracing hides."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.verify.function import Arrays, FlatFunction, is_floating
from gru_jax.verify.precision import Precision


class EagerRun(NamedTuple):
    """What a rule returns without `jit`, before any conversion.

    Attributes:
        forward_outputs: Floating outputs of the forward rule.
        gradients: What the pullback returns.
        gradients_again: What the same pullback returns when called a second time.
    """

    forward_outputs: list[Any]
    gradients: Arrays
    gradients_again: Arrays


def run_eagerly(function: FlatFunction, precision: Precision, cotangents: Arrays) -> EagerRun:
    """Runs the rule without `jit` at the arguments as given. Complex arrays are not split."""
    with precision.active():
        forward, pullback = jax.vjp(lambda *leaves: floating_outputs(function, leaves), *function.leaves)
        us = [_as_cotangent(u, y) for u, y in zip(cotangents, forward, strict=True)]
        return EagerRun(forward, pullback(us), pullback(us))


def floating_outputs(function: FlatFunction, leaves: Arrays) -> list[Any]:
    """Returns the floating outputs of the function as the user wrote it."""
    return [y for y in jax.tree.leaves(function.call(leaves, function.nondiff_args)) if is_floating(y)]


def _as_cotangent(u: np.ndarray, y: Any) -> jax.Array:
    """Casts a float64 cotangent to the dtype of `y`.

    If `y` is complex, the last axis of `u` holds real and imaginary parts.
    """
    return jnp.asarray(u[..., 0] + 1j * u[..., 1] if jnp.iscomplexobj(y) else u, y.dtype).reshape(jnp.shape(y))

"""Calls the functions that the user passes, and checks what they return."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class LossOutput(NamedTuple):
    """What a loss function returned."""

    loss: jax.Array
    metrics: dict[str, jax.Array]
    carry: Any  # unchanged if the loss function does not take a carry


def call_loss_fn(
    loss_fn: Callable[..., Any], params: Any, batch: Any, key: jax.Array, carry: Any, *, has_carry: bool
) -> LossOutput:
    """Calls `loss_fn` and checks what it returns. No gradient flows through the returned carry.

    Raises:
        TypeError: If the result is not `(loss, metrics)` or `(loss, metrics, carry)`, or a part of
            it has the wrong shape.
        ValueError: If a metric has a reserved name.
    """
    result = loss_fn(params, batch, key, carry) if has_carry else loss_fn(params, batch, key)
    size, form = (3, "(loss, metrics, carry)") if has_carry else (2, "(loss, metrics)")
    if not (isinstance(result, tuple) and len(result) == size):
        got = f"a tuple of length {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise TypeError(f"loss_fn: got {got} as its result, expected {form}. Return {{}} if there are no metrics.")
    loss, metrics, new_carry = result if has_carry else (*result, carry)
    if jnp.shape(loss) != ():
        raise TypeError(f"loss_fn: got a loss of shape {jnp.shape(loss)}, expected a scalar. Reduce it: loss.mean().")
    got, expected = jax.tree.map(_shape_and_dtype, new_carry), jax.tree.map(_shape_and_dtype, carry)
    if got != expected:
        raise TypeError(f"loss_fn: got a carry of {got}, expected {expected}, like the carry it received.")
    metrics = checked_metrics("loss_fn", metrics, reserved=("loss", "step", "evaluation"))
    return LossOutput(jnp.asarray(loss), metrics, jax.lax.stop_gradient(new_carry))


def checked_metrics(name: str, metrics: Any, *, reserved: tuple[str, ...]) -> dict[str, jax.Array]:
    """Returns metrics as a dict of scalar arrays.

    Raises:
        TypeError: If `metrics` is not a dict of scalars.
        ValueError: If a metric has a reserved name.
    """
    if not isinstance(metrics, dict):
        raise TypeError(f"{name}: got metrics of type {type(metrics).__name__}, expected a dict of scalars.")
    for metric, value in metrics.items():
        if jnp.shape(value) != ():
            raise TypeError(
                f"{name}: got the metric {metric!r} of shape {jnp.shape(value)}, expected a scalar. Reduce it, for example: .mean()."
            )
        if metric in reserved:
            raise ValueError(f"{name}: got a metric named {metric!r}, expected another name. fit records this one itself.")
    return {metric: jnp.asarray(value) for metric, value in metrics.items()}


def _shape_and_dtype(leaf: Any) -> str:
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"

"""Calls the functions that the user passes, and checks what they return."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train.tree_paths import dtype_and_shape


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
    if not isinstance(loss, jax.Array | np.ndarray | np.generic | int | float) or not _is_real(loss):
        arrived = f"dtype {jnp.result_type(loss)}" if hasattr(loss, "dtype") else f"type {type(loss).__name__}"
        raise TypeError(f"loss_fn: got a loss of {arrived}, expected a floating-point scalar that depends on params.")
    if jnp.shape(loss) != ():
        raise TypeError(f"loss_fn: got a loss of shape {jnp.shape(loss)}, expected a scalar. Reduce it: loss.mean().")
    got, expected = jax.tree.map(dtype_and_shape, new_carry), jax.tree.map(dtype_and_shape, carry)
    if got != expected:
        raise TypeError(f"loss_fn: got a carry of {got}, expected {expected}, like the carry it received.")
    metrics = checked_metrics("loss_fn", metrics, reserved=("loss", "step", "evaluation", "changes", "crc32"))
    return LossOutput(jnp.asarray(loss), metrics, jax.lax.stop_gradient(new_carry))


def checked_weight(weight: Any) -> jax.Array:
    """Returns what `weight_fn` returned as an array.

    Raises:
        TypeError: If it is not a real scalar.
    """
    is_array = isinstance(weight, jax.Array | np.ndarray | np.generic | bool | int | float)
    if not is_array or jnp.shape(weight) or jnp.iscomplexobj(weight):
        got = dtype_and_shape(weight) if is_array else type(weight).__name__
        raise TypeError(f"weight_fn: got {got} as its result, expected a real scalar, for example batch.mask.sum().")
    return jnp.asarray(weight)


def checked_metrics(name: str, metrics: Any, *, reserved: tuple[str, ...]) -> dict[str, jax.Array]:
    """Returns metrics as a flat dict of arrays. A metric "b" in the dict "a" is named "a/b".

    Raises:
        TypeError: If `metrics` is not a dict, or a metric is not a number or an array of numbers.
        ValueError: If a metric has a reserved name, or two metrics have the same name.
    """
    if not isinstance(metrics, dict):
        raise TypeError(f"{name}: got metrics of type {type(metrics).__name__}, expected a dict of numbers and arrays.")
    flat: dict[str, jax.Array] = {}
    for metric, value in _named_metrics("", metrics):
        if metric in reserved:
            raise ValueError(f"{name}: got a metric named {metric!r}, expected another name. fit records this one itself.")
        if metric in flat:
            raise ValueError(f"{name}: got two metrics named {metric!r}, expected different names.")
        flat[metric] = _checked_metric(name, metric, value)
    return flat


def _named_metrics(prefix: str, metrics: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in metrics.items():
        if isinstance(value, dict):
            yield from _named_metrics(f"{prefix}{key}/", value)
        else:
            yield f"{prefix}{key}", value


def _checked_metric(name: str, metric: str, value: Any) -> jax.Array:
    is_array = isinstance(value, jax.Array | np.ndarray | np.generic | bool | int | float)
    dtype = jnp.result_type(value) if is_array else None
    if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_)):
        arrived = f"type {type(value).__name__}" if dtype is None else f"shape {jnp.shape(value)} and dtype {dtype}"
        raise TypeError(f"{name}: got the metric {metric!r} of {arrived}, expected a real number or an array of real numbers.")
    return jnp.asarray(value)


def _is_real(number: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(number), np.floating))

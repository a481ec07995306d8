"""Losses that return one number per time step and sequence. They call the losses of optax."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gru_jax.heads.masks import checked_mask, masked
from gru_jax.heads.precision import as_numbers, as_outputs


def squared_error(predictions: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """Computes the squared error L_t = Σ_k (ŷ_k − y_k)² of each step.

    Args:
        predictions: ŷ, `(…, K)`.
        targets: y, of the same shape as `predictions`. Nothing is broadcast.
        mask: Booleans of shape `(…)`, True at valid steps. The loss of other steps is 0. Defaults
            to None, for all steps.

    Returns:
        L, `(…)`, one number per step and sequence.

    Raises:
        ValueError: If shapes differ.
        TypeError: If the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> gj.heads.squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])).tolist()
        [5.0]
    """
    predictions, targets, mask = _aligned("predictions", predictions, targets, mask)
    return masked(optax.squared_error(predictions, targets).sum(-1), mask)


def half_squared_error(predictions: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """Computes half the squared error L_t = ½ Σ_k (ŷ_k − y_k)², whose gradient is ŷ − y.

    Args:
        predictions: ŷ, `(…, K)`.
        targets: y, of the same shape as `predictions`. Nothing is broadcast.
        mask: Booleans of shape `(…)`, True at valid steps. The loss of other steps is 0. Defaults
            to None, for all steps.

    Returns:
        L, `(…)`, one number per step and sequence.

    Raises:
        ValueError: If shapes differ.
        TypeError: If the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> gj.heads.half_squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])).tolist()
        [2.5]
    """
    predictions, targets, mask = _aligned("predictions", predictions, targets, mask)
    return masked(optax.l2_loss(predictions, targets).sum(-1), mask)


def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """Computes the cross-entropy of K independent binary outputs, in nats per step.

        L_t = −Σ_k [y_k log σ(a_k) + (1 − y_k) log(1 − σ(a_k))]

    Chung et al. (2014) evaluate models of polyphonic music with this loss. There, k is a note.

    Args:
        logits: The pre-activations a, `(…, K)`.
        labels: y, probabilities or booleans of the same shape as `logits`. Nothing is broadcast.
        mask: Booleans of shape `(…)`, True at valid steps. The loss of other steps is 0. Defaults
            to None, for all steps.

    Returns:
        L, `(…)`, one number per step and sequence.

    Raises:
        ValueError: If shapes differ.
        TypeError: If the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> loss = gj.heads.sigmoid_binary_cross_entropy(jnp.zeros((1, 88)), jnp.ones((1, 88)))
        >>> round(float(loss[0] / jnp.log(2)), 3)  # in bits: one for each of 88 fair coins
        88.0
    """
    logits, labels, mask = _aligned("logits", logits, labels, mask, targets_name="labels")
    return masked(optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1), mask)


def softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """Computes the cross-entropy L_t = −Σ_k y_k log softmax(a)_k of K classes, in nats per step.

    Args:
        logits: The pre-activations a, `(…, K)`.
        labels: Integer class indices from 0 to K−1, of shape `(…)`. Alternatively probabilities y,
            floating-point numbers of shape `(…, K)`.
        mask: Booleans of shape `(…)`, True at valid steps. At other steps the loss is 0, and the
            class index may have any value. Defaults to None, for all steps.

    Returns:
        L, `(…)`, one number per step and sequence. Under `jit`, a class index that is
            out of range gives NaN.

    Raises:
        ValueError: If shapes differ, or a concrete class index is out of range.
        TypeError: If the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> logits, labels = jnp.zeros((20, 4, 3)), jnp.ones((20, 4), int)
        >>> gj.heads.softmax_cross_entropy(logits, labels).shape
        (20, 4)
    """
    labels = as_numbers("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        logits, labels, mask = _aligned("logits", logits, labels, mask, targets_name="labels")
        return masked(optax.softmax_cross_entropy(logits, labels), mask)

    logits = as_outputs("logits", logits)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels: got class indices of shape {labels.shape}, expected {logits.shape[:-1]} for logits of shape {logits.shape}."
        )
    mask = checked_mask(mask, logits.shape[:-1])
    if mask is not None:
        logits, labels = jnp.where(mask[..., None], logits, 0), jnp.where(mask, labels, 0)
    in_range = (labels >= 0) & (labels < logits.shape[-1])
    if not isinstance(in_range, jax.core.Tracer) and not in_range.all():
        raise ValueError(
            f"labels: got class indices from {labels.min()} to {labels.max()}, expected 0 to {logits.shape[-1] - 1}. "
            "Pass a mask if some steps have no class."
        )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(in_range, labels, 0))
    return masked(jnp.where(in_range, losses, jnp.nan), mask)


def _aligned(
    name: str, predictions: Any, targets: Any, mask: Any, *, targets_name: str = "targets"
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns arrays of matching shapes, in at least float32.

    Masked values are replaced by 0, so that NaN in them does not reach a gradient.
    """
    predictions, targets = as_outputs(name, predictions), as_numbers(targets_name, targets)
    if predictions.shape != targets.shape:
        raise ValueError(
            f"{targets_name}: got shape {targets.shape}, expected {predictions.shape} like {name}. Nothing is broadcast here."
        )
    mask = checked_mask(mask, predictions.shape[:-1])
    targets = targets.astype(predictions.dtype)
    if mask is None:
        return predictions, targets, None
    return jnp.where(mask[..., None], predictions, 0), jnp.where(mask[..., None], targets, 0), mask

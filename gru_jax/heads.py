"""A dense read-out, losses for each time step, and their reductions over time.

    dense            ŷ_t = g₂(h_t V + b_y)
    a loss           L_t = L(ŷ_t, y_t), one number per step and sequence
    a reduction      J = Σ_t L_t,  J = (1/T) Σ_t L_t,  or J = L_T

A cost is a reduction of a loss, for example `mean_over_steps(softmax_cross_entropy(logits, labels))`.
Losses and reductions are computed and returned in at least float32. Masked steps contribute nothing to
a cost or its gradients, even if they contain NaN.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import initializers
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Activation = Literal["identity", "sigmoid", "tanh", "relu", "softmax"]

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda a: a,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "softmax": jax.nn.softmax,
}


class DenseParams(NamedTuple):
    """The parameters of a read-out, and the type of their gradient.

    Attributes:
        V: The weights, `(H, K)`.
        b_y: The bias, `(K,)`. None without a bias.
    """

    V: Float[Array, "H K"]
    b_y: Float[Array, " K"] | None


def init_dense(
    key: jax.Array,
    hidden_size: int,
    output_size: int,
    *,
    bias: bool = True,
    dtype: Any = jnp.float32,
    kernel_init: Callable[..., jax.Array] = initializers.glorot_uniform(),
    bias_init: Callable[..., jax.Array] = initializers.zeros,
) -> DenseParams:
    """Initialises the parameters of a read-out.

    Args:
        key: A `jax.random` key.
        hidden_size: H, the size of the last axis of the outputs of `unroll`.
        output_size: K, the number of outputs.
        bias: Whether to add a bias. Defaults to True.
        dtype: The dtype of the parameters. Defaults to float32.
        kernel_init: An initialiser of `jax.nn.initializers` for V. Defaults to Glorot uniform.
        bias_init: An initialiser for b_y. Defaults to zeros.

    Returns:
        `DenseParams(V, b_y)`.

    Raises:
        TypeError: If `bias` is not a boolean.

    Example:
        >>> import jax, gru_jax as gj
        >>> params = gj.heads.init_dense(jax.random.key(0), hidden_size=8, output_size=3)
        >>> params.V.shape, params.b_y.shape
        ((8, 3), (3,))
    """
    if not isinstance(bias, bool | np.bool_):
        raise TypeError(f"bias: got {bias!r} ({type(bias).__name__}), expected True or False.")
    key_V, key_b = jax.random.split(key)
    V = kernel_init(key_V, (hidden_size, output_size), dtype)
    return DenseParams(V=V, b_y=bias_init(key_b, (output_size,), dtype) if bias else None)


def dense(params: DenseParams, hs: Float[Array, "*t_b H"], activation: Activation = "identity") -> Float[Array, "*t_b K"]:
    """Computes the read-out ŷ = g₂(h V + b_y) of one time step or of all of them.

    The gradients need no path through time:

        V̄ = Σ hᵀ ȳ_pre,  b̄_y = Σ ȳ_pre,  h̄ += ȳ_pre Vᵀ

    Args:
        params: The parameters, from `init_dense`.
        hs: The outputs of `unroll`, `(…, H)`.
        activation: g₂, one of "identity", "sigmoid", "tanh", "relu" and "softmax". Defaults to
            "identity", which gives the logits that the cross-entropies expect.

    Returns:
        ŷ, `(…, K)`, in the dtype of `params` and `hs`. The sums are computed in at least float32.

    Raises:
        ValueError: If the activation is unknown, or the sizes of `hs` and `params` differ.

    Example:
        >>> import jax, jax.numpy as jnp, gru_jax as gj
        >>> params = gj.heads.init_dense(jax.random.key(0), hidden_size=8, output_size=3)
        >>> hs = jnp.ones((20, 4, 8))  # (time, batch, hidden)
        >>> gj.heads.dense(params, hs, "softmax").shape
        (20, 4, 3)
    """
    if activation not in get_args(Activation):
        raise ValueError(f"activation: got {activation!r}, expected one of {', '.join(map(repr, get_args(Activation)))}.")
    if hs.shape[-1:] != params.V.shape[:1]:
        raise ValueError(f"hs: got shape {hs.shape}, expected (…, {params.V.shape[0]}) for V of shape {params.V.shape}.")
    dtype = jnp.result_type(hs, params.V)
    y_pre = jnp.matmul(hs, params.V, preferred_element_type=_at_least_float32(dtype))
    if params.b_y is not None:
        dtype = jnp.result_type(dtype, params.b_y)
        y_pre = y_pre + jnp.expand_dims(params.b_y, tuple(range(y_pre.ndim - 1))).astype(y_pre.dtype)
    return _ACTIVATIONS[activation](y_pre).astype(dtype)


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
    return _masked(optax.squared_error(predictions, targets).sum(-1), mask)


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
    return _masked(optax.l2_loss(predictions, targets).sum(-1), mask)


def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """Computes the cross-entropy of K independent binary outputs, in nats per step.

        L_t = −Σ_k [y_k log σ(a_k) + (1 − y_k) log(1 − σ(a_k))]

    Chung et al. (2014) evaluate polyphonic music with this loss, where k counts notes.

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
        >>> round(float(loss[0] / jnp.log(2)), 3)  # 88 fair coins have 88 bits
        88.0
    """
    logits, labels, mask = _aligned("logits", logits, labels, mask, targets_name="labels")
    return _masked(optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1), mask)


def softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """Computes the cross-entropy L_t = −Σ_k y_k log softmax(a)_k of K classes, in nats per step.

    Args:
        logits: The pre-activations a, `(…, K)`.
        labels: Class indices from 0 to K−1, integers of shape `(…)`. Or probabilities y, of the
            same floating dtype and shape `(…, K)` as `logits`.
        mask: Booleans of shape `(…)`, True at valid steps. The loss of other steps is 0, and their
            class index may have any value. Defaults to None, for all steps.

    Returns:
        L, `(…)`, one number per step and sequence. Under `jit`, a class index out of range gives NaN.

    Raises:
        ValueError: If shapes differ, or a concrete class index is out of range.
        TypeError: If the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> logits, labels = jnp.zeros((20, 4, 3)), jnp.ones((20, 4), int)
        >>> gj.heads.softmax_cross_entropy(logits, labels).shape
        (20, 4)
    """
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        logits, labels, mask = _aligned("logits", logits, labels, mask, targets_name="labels")
        return _masked(optax.softmax_cross_entropy(logits, labels), mask)

    logits = _as_floating(logits)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels: got class indices of shape {labels.shape}, expected {logits.shape[:-1]} for logits of shape {logits.shape}."
        )
    mask = _checked_mask(mask, logits.shape[:-1])
    if mask is not None:
        logits, labels = jnp.where(mask[..., None], logits, 0), jnp.where(mask, labels, 0)
    in_range = (labels >= 0) & (labels < logits.shape[-1])
    if not isinstance(in_range, jax.core.Tracer) and not in_range.all():
        raise ValueError(
            f"labels: got class indices from {labels.min()} to {labels.max()}, expected 0 to {logits.shape[-1] - 1}. "
            "Mask the steps without a class: mask=…"
        )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(in_range, labels, 0))
    return _masked(jnp.where(in_range, losses, jnp.nan), mask)


def sum_over_steps(losses: ArrayLike, *, axis: int = 0) -> jax.Array:
    """Sums losses over time, J = Σ_t L_t. Masked losses are 0 already.

    Args:
        losses: L, one number per step and sequence, for example `(T, B)`.
        axis: The time axis. Defaults to 0.

    Returns:
        J, the shape of `losses` without the time axis.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> gj.heads.sum_over_steps(jnp.ones((20, 2))).tolist()
        [20.0, 20.0]
    """
    return _widened(losses).sum(axis)


def mean_over_steps(losses: ArrayLike, mask: ArrayLike | None = None, *, axis: int = 0) -> jax.Array:
    """Averages losses over time, J = (1/T) Σ_t L_t.

    Args:
        losses: L, one number per step and sequence, for example `(T, B)`.
        mask: Booleans of the same shape as `losses`, True at valid steps. T is then the number of
            valid steps of each sequence. Defaults to None, for all steps.
        axis: The time axis. Defaults to 0.

    Returns:
        J, the shape of `losses` without the time axis. A sequence without a valid step gives 0.

    Raises:
        ValueError: If `mask` and `losses` have different shapes.
        TypeError: If the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> losses = jnp.array([1.0, 3.0, 8.0])
        >>> float(gj.heads.mean_over_steps(losses)), float(gj.heads.mean_over_steps(losses, losses < 5))
        (4.0, 2.0)
    """
    losses = _as_floating(losses)
    mask = _checked_mask(mask, losses.shape)
    steps = jnp.asarray(losses.shape[axis] if mask is None else mask.sum(axis)).astype(losses.dtype)
    return _masked(losses, mask).sum(axis) / jnp.maximum(steps, 1)


def last_step(losses: ArrayLike, mask: ArrayLike | None = None, *, axis: int = 0) -> jax.Array:
    """Selects the loss of the last step, J = L_T.

    Args:
        losses: L, one number per step and sequence, for example `(T, B)`.
        mask: Booleans of the same shape as `losses`, True at valid steps. The last valid step of each
            sequence is selected. Defaults to None, for all steps.
        axis: The time axis. Defaults to 0.

    Returns:
        J, the shape of `losses` without the time axis. A sequence without a valid step gives 0.

    Raises:
        ValueError: If `mask` and `losses` have different shapes.
        TypeError: If the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> losses = jnp.array([1.0, 3.0, 8.0])
        >>> float(gj.heads.last_step(losses)), float(gj.heads.last_step(losses, losses < 5))
        (8.0, 3.0)
    """
    losses = _widened(losses)
    mask = _checked_mask(mask, losses.shape)
    if mask is None:
        mask = jnp.ones(losses.shape, bool)
    other_axes = [i for i in range(losses.ndim) if i != axis % losses.ndim]
    step = jnp.expand_dims(jnp.arange(losses.shape[axis]), other_axes)
    last = jnp.max(jnp.where(mask, step, -1), axis=axis, keepdims=True, initial=-1)
    return jnp.where(step == last, losses, 0).sum(axis)


def _aligned(
    name: str, predictions: Any, targets: Any, mask: Any, *, targets_name: str = "targets"
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns arrays of matching shapes, in at least float32.

    Masked values are replaced by 0, so that NaN in them does not reach a gradient.
    """
    predictions, targets = _as_floating(predictions), jnp.asarray(targets)
    if predictions.shape != targets.shape:
        raise ValueError(
            f"{targets_name}: got shape {targets.shape}, expected {predictions.shape} like {name}. Nothing is broadcast here."
        )
    mask = _checked_mask(mask, predictions.shape[:-1])
    targets = targets.astype(predictions.dtype)
    if mask is None:
        return predictions, targets, None
    return jnp.where(mask[..., None], predictions, 0), jnp.where(mask[..., None], targets, 0), mask


def _as_floating(x: ArrayLike) -> jax.Array:
    """Returns a floating-point array in at least float32."""
    x = jnp.asarray(x)
    return x.astype(_at_least_float32(x.dtype))


def _widened(x: ArrayLike) -> jax.Array:
    """Returns a floating-point array in at least float32, and other arrays unchanged."""
    x = jnp.asarray(x)
    return _as_floating(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def _at_least_float32(dtype: Any) -> Any:
    # jnp.promote_types would raise under jax.numpy_dtype_promotion("strict")
    if not jnp.issubdtype(dtype, jnp.inexact):
        return jnp.result_type(float)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def _checked_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array | None:
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask: got dtype {mask.dtype}, expected bool. Compare it: mask > 0.")
    if mask.shape != shape:
        raise ValueError(f"mask: got shape {mask.shape}, expected {shape}, one value per step and sequence.")
    return mask


def _masked(losses: jax.Array, mask: jax.Array | None) -> jax.Array:
    return losses if mask is None else jnp.where(mask, losses, 0)

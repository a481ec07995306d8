"""From states to a cost: the dense read-out ŷ = g₂(h V + b_y), losses of one time step, and what becomes of them over time.

    dense            ŷ_t = g₂(h_t V + b_y)
    a loss           L_t = L(ŷ_t, y_t)              one number per step and sequence, in nats where it is a cross-entropy
    a reduction      J = Σ_t L_t,  (1/T) Σ_t L_t,  or  L at the last step

The costs of the tutorials are pairs of these: ½ squared error at every time stamp is `sum_over_steps(half_squared_error(…))`,
squared error at the last step `last_step(squared_error(…))`, the general formulas' J `mean_over_steps(…)`. The arithmetic of the
losses is optax's. A masked step contributes exactly nothing, to the cost and to every gradient, even where it holds NaN.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
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
    """Parameters of the read-out; also the type of their gradient."""

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
    """Draws the parameters of a read-out.

    Args:
        key: a `jax.random` key, consumed here.
        hidden_size: H, the last axis of the outputs of `unroll`.
        output_size: K.
        bias: False leaves `b_y` None.
        dtype: of the parameters.
        kernel_init: for V, (H, K); any of `jax.nn.initializers`.
        bias_init: for b_y, (K,).

    Returns:
        `DenseParams(V, b_y)`.
    """
    key_V, key_b = jax.random.split(key)
    V = kernel_init(key_V, (hidden_size, output_size), dtype)
    return DenseParams(V=V, b_y=bias_init(key_b, (output_size,), dtype) if bias else None)


def dense(params: DenseParams, hs: Float[Array, "*t_b H"], activation: Activation = "identity") -> Float[Array, "*t_b K"]:
    """The read-out ŷ = g₂(h V + b_y), for one step or for all of them.

        V̄ = Σ hᵀ ȳ_pre,  b̄_y = Σ ȳ_pre,  h̄ += ȳ_pre Vᵀ

    V̄ needs the current step only: no path leads through time. (Autodiff finds exactly these, in one matmul each.)

    Args:
        params: from `init_dense`.
        hs: outputs of `unroll`, `(…, H)`.
        activation: g₂. The cross-entropies below take the pre-activations: leave it `"identity"` for them.

    Raises:
        ValueError: an unknown activation, or sizes that disagree.
    """
    if activation not in get_args(Activation):
        raise ValueError(f"activation: got {activation!r}, expected one of {', '.join(map(repr, get_args(Activation)))}.")
    if hs.shape[-1:] != params.V.shape[:1]:
        raise ValueError(f"hs: got shape {hs.shape}, expected (…, {params.V.shape[0]}) for V of shape {params.V.shape}.")
    y_pre = hs @ params.V if params.b_y is None else hs @ params.V + params.b_y
    return _ACTIVATIONS[activation](y_pre)


def squared_error(y_hats: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """L_t = Σ_k (ŷ_k − y_k)².

    Args:
        y_hats: `(…, K)`.
        targets: of the same shape: nothing is broadcast.
        mask: `(…)` bool; where False the loss is 0.

    Returns:
        `(…)`, one number per step and sequence.

    Raises:
        ValueError: shapes that differ.
        TypeError: a mask that is not boolean.
    """
    y_hats, targets, mask = _aligned("y_hats", y_hats, targets, mask)
    return _masked(optax.squared_error(y_hats, targets).sum(-1), mask)


def half_squared_error(y_hats: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """L_t = ½ Σ_k (ŷ_k − y_k)², whose gradient is the plain difference. Arguments and errors as `squared_error`."""
    y_hats, targets, mask = _aligned("y_hats", y_hats, targets, mask)
    return _masked(optax.l2_loss(y_hats, targets).sum(-1), mask)


def bernoulli_cross_entropy(logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """L_t = −Σ_k [y_k log σ(a_k) + (1 − y_k) log(1 − σ(a_k))], in nats per step: K independent yes-or-no outputs.

    The measure of polyphonic music in Chung et al. 2014, summed over the notes.

    Args:
        logits: the pre-activations a, `(…, K)`.
        targets: in [0, 1], of the same shape.
        mask: `(…)` bool; where False the loss is 0.

    Returns:
        `(…)`, nats per step.

    Raises:
        ValueError: shapes that differ.
        TypeError: a mask that is not boolean.
    """
    logits, targets, mask = _aligned("logits", logits, targets, mask)
    return _masked(optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1), mask)


def softmax_cross_entropy(logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """L_t = −Σ_k y_k log softmax(a)_k, in nats per step.

    Args:
        logits: the pre-activations a, `(…, K)`.
        targets: class numbers in 0 … K−1, an integer array `(…)`; or probabilities, a floating array `(…, K)`.
        mask: `(…)` bool; where False the loss is 0, and the class number may be any.

    Returns:
        `(…)`, nats per step. A traced class number outside 0 … K−1 gives NaN.

    Raises:
        ValueError: shapes that differ, or a class number outside 0 … K−1 where it is known.
        TypeError: a mask that is not boolean.
    """
    targets = jnp.asarray(targets)
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        logits, targets, mask = _aligned("logits", logits, targets, mask)
        return _masked(optax.softmax_cross_entropy(logits, targets), mask)

    logits = jnp.asarray(logits)
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets: got class numbers of shape {targets.shape}, expected {logits.shape[:-1]} for logits {logits.shape}."
        )
    mask = _checked_mask(mask, logits.shape[:-1])
    if mask is not None:
        logits, targets = jnp.where(mask[..., None], logits, 0), jnp.where(mask, targets, 0)
    inside = (targets >= 0) & (targets < logits.shape[-1])
    if not isinstance(inside, jax.core.Tracer) and not inside.all():
        raise ValueError(
            f"targets: got class numbers from {targets.min()} to {targets.max()}, expected 0 to {logits.shape[-1] - 1}. "
            "Mask the steps that have none: mask=…"
        )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(inside, targets, 0))
    return _masked(jnp.where(inside, losses, jnp.nan), mask)


def sum_over_steps(losses: jax.Array, *, axis: int = 0) -> jax.Array:
    """J = Σ_t L_t along the time axis. A masked loss is already 0."""
    return losses.sum(axis)


def mean_over_steps(losses: jax.Array, mask: ArrayLike | None = None, *, axis: int = 0) -> jax.Array:
    """J = (1/T) Σ_t L_t along the time axis; with a mask T is the number of steps it leaves. No step at all gives 0.

    Raises:
        ValueError: a mask of another shape than `losses`.
        TypeError: a mask that is not boolean.
    """
    mask = _checked_mask(mask, losses.shape)
    count = jnp.asarray(losses.shape[axis] if mask is None else mask.sum(axis), losses.dtype)
    return _masked(losses, mask).sum(axis) / jnp.maximum(count, 1)


def last_step(losses: jax.Array, mask: ArrayLike | None = None, *, axis: int = 0) -> jax.Array:
    """J = L_T, the loss at the last step along the time axis; with a mask at the last step it leaves. No step at all gives 0.

    Raises:
        ValueError: a mask of another shape than `losses`.
        TypeError: a mask that is not boolean.
    """
    mask = _checked_mask(mask, losses.shape)
    steps = losses.shape[axis]
    if mask is None:
        mask = jnp.ones(losses.shape, bool)
    at = jnp.expand_dims(jnp.arange(steps), [i for i in range(losses.ndim) if i != axis % losses.ndim])
    last = jnp.max(jnp.where(mask, at, -1), axis=axis, keepdims=True, initial=-1)
    return jnp.where(at == last, losses, 0).sum(axis)


def _aligned(name: str, y_hats: Any, targets: Any, mask: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The three as arrays of agreeing shapes; both values 0 where the mask is False, so that no NaN enters a gradient."""
    y_hats, targets = jnp.asarray(y_hats), jnp.asarray(targets)
    if y_hats.shape != targets.shape:
        raise ValueError(f"targets: got shape {targets.shape}, expected {y_hats.shape} as {name}. Nothing is broadcast here.")
    mask = _checked_mask(mask, y_hats.shape[:-1])
    targets = targets.astype(y_hats.dtype)
    if mask is None:
        return y_hats, targets, None
    return jnp.where(mask[..., None], y_hats, 0), jnp.where(mask[..., None], targets, 0), mask


def _checked_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array | None:
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask: got dtype {mask.dtype}, expected bool. Compare: mask > 0.")
    if mask.shape != shape:
        raise ValueError(f"mask: got shape {mask.shape}, expected {shape}, one value per step and sequence.")
    return mask


def _masked(losses: jax.Array, mask: jax.Array | None) -> jax.Array:
    return losses if mask is None else jnp.where(mask, losses, 0)

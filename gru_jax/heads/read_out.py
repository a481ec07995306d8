"""A dense layer that reads outputs from hidden states."""

from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jaxtyping import Array, Float

from gru_jax._jax.export import serializable
from gru_jax._jax.keys import check_key
from gru_jax._jax.precision import at_least_float32

ReadOutActivation = Literal["identity", "sigmoid", "tanh", "relu", "softmax"]

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda a: a,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "softmax": jax.nn.softmax,
}


@serializable
class DenseParams(NamedTuple):
    """The parameters of a read-out. Their gradient has the same type.

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
        kernel_init: An initialiser for V, from `jax.nn.initializers`. Defaults to Glorot uniform.
        bias_init: An initialiser for b_y. Defaults to zeros.

    Returns:
        `DenseParams(V, b_y)`.

    Raises:
        TypeError: If `key` is not a key, a size is not an int of at least 0, `bias` is not a
            boolean, or `dtype` is not a floating-point dtype.
        ValueError: If an initialiser returns another shape.

    Example:
        >>> import jax, gru_jax as gj
        >>> params = gj.heads.init_dense(jax.random.key(0), hidden_size=8, output_size=3)
        >>> params.V.shape, params.b_y.shape
        ((8, 3), (3,))
    """
    if not isinstance(bias, bool | np.bool_):
        raise TypeError(f"bias: got {bias!r} ({type(bias).__name__}), expected True or False.")
    check_key("key", key)
    for name, size in (("hidden_size", hidden_size), ("output_size", output_size)):
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 0:
            raise TypeError(f"{name}: got {size!r}, expected an int of at least 0.")
    try:
        is_inexact = jnp.issubdtype(jnp.dtype(dtype), jnp.inexact)
    except TypeError:
        is_inexact = False
    if not is_inexact:
        raise TypeError(f"dtype: got {dtype!r}, expected a floating-point dtype such as jnp.float32.")
    key_V, key_b = jax.random.split(key)
    V = _drawn("kernel_init", kernel_init, key_V, (hidden_size, output_size), dtype)
    return DenseParams(V=V, b_y=_drawn("bias_init", bias_init, key_b, (output_size,), dtype) if bias else None)


def _drawn(name: str, initializer: Any, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if not callable(initializer):
        raise TypeError(f"{name}: got {type(initializer).__name__}, expected a function such as jax.nn.initializers.zeros.")
    drawn = initializer(key, shape, dtype)
    if jnp.shape(drawn) != shape:
        raise ValueError(f"{name}: got an array of shape {jnp.shape(drawn)}, expected {shape}.")
    return drawn


def dense(
    params: DenseParams, hs: Float[Array, "*t_b H"], activation: ReadOutActivation = "identity"
) -> Float[Array, "*t_b K"]:
    """Computes the read-out ŷ = g₂(h V + b_y), at one time step or at all of them.

    Each step is independent of the others. With the cotangent ȳ_pre of h V + b_y, the gradients are

        V̄ = Σ hᵀ ȳ_pre,  b̄_y = Σ ȳ_pre,  h̄ = ȳ_pre Vᵀ

    Args:
        params: The parameters, from `init_dense`.
        hs: The outputs of `unroll`, `(…, H)`.
        activation: g₂, one of "identity", "sigmoid", "tanh", "relu" and "softmax". Defaults to
            "identity", which gives the logits that the cross-entropies expect.

    Returns:
        ŷ, `(…, K)`, in the dtype of `params` and `hs`. The sums are computed in at least float32.

    Raises:
        TypeError: If `params` are not `DenseParams`, or `hs` is not an array.
        ValueError: If the activation is unknown, or the sizes of `hs` and `params` differ.

    Example:
        >>> import jax, jax.numpy as jnp, gru_jax as gj
        >>> params = gj.heads.init_dense(jax.random.key(0), hidden_size=8, output_size=3)
        >>> hs = jnp.ones((20, 4, 8))  # (time, batch, hidden)
        >>> gj.heads.dense(params, hs, "softmax").shape
        (20, 4, 3)
    """
    if activation not in get_args(ReadOutActivation):
        raise ValueError(
            f"activation: got {activation!r}, expected one of {', '.join(map(repr, get_args(ReadOutActivation)))}."
        )
    if not (hasattr(params, "V") and hasattr(params, "b_y")):
        raise TypeError(f"params: got {type(params).__name__}, expected DenseParams, from gj.heads.init_dense.")
    if not hasattr(hs, "shape"):
        raise TypeError(f"hs: got {type(hs).__name__}, expected an array of shape (…, {params.V.shape[0]}).")
    if hs.shape[-1:] != params.V.shape[:1]:
        raise ValueError(f"hs: got shape {hs.shape}, expected (…, {params.V.shape[0]}) for V of shape {params.V.shape}.")
    dtype = jnp.result_type(hs, params.V)
    y_pre = jnp.matmul(hs, params.V, preferred_element_type=at_least_float32(dtype))
    if params.b_y is not None:
        dtype = jnp.result_type(dtype, params.b_y)
        y_pre = y_pre + jnp.expand_dims(params.b_y, tuple(range(y_pre.ndim - 1))).astype(y_pre.dtype)
    return _ACTIVATIONS[activation](y_pre).astype(dtype)

"""Initializers for recurrent networks that `jax.nn.initializers` does not have."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def symmetric_uniform(bound: float) -> Callable[..., jax.Array]:
    """Makes an initializer that draws from the uniform distribution U(-bound, bound).

    Chung et al. 2014 draw all parameters with a bound of 0.1 (their code, `jych/librnn`). The
    function `jax.nn.initializers.uniform(scale)` draws from U(0, scale) instead.

    Args:
        bound: The largest magnitude, above 0.

    Returns:
        An initializer `(key, shape, dtype) -> array`, for the arguments `kernel_init`,
        `recurrent_init` and `bias_init` of `cell.init`.

    Raises:
        ValueError: If `bound` is not above 0.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> uniform = gj.initializers.symmetric_uniform(0.1)
        >>> key = jax.random.key(0)
        >>> params = gj.gru().init(key, 3, 4, kernel_init=uniform, recurrent_init=uniform)
        >>> bool(abs(params.W_z).max() < 0.1)
        True
    """
    if isinstance(bound, str | bool) or not bound > 0:
        raise ValueError(f"bound: got {bound}, expected a number above 0.")

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init


def chrono(key: jax.Array, params: Any, longest: int) -> Any:
    """Replaces gate biases so that the units remember for 1 to `longest` steps.

    The times are spread evenly (Tallec and Ollivier 2018, eq. 16):

        v ~ log U(1, longest - 1)
        GRU:   b_z = -v            z is the share of the candidate here, so a small z remembers
        LSTM:  b_f = v, b_i = -v

    Args:
        key: A `jax.random` key, consumed here.
        params: The parameters of a GRU (of either form) or an LSTM, with biases.
        longest: The longest dependency to expect, in steps, at least 3.

    Returns:
        `params` with these biases replaced.

    Raises:
        TypeError: If `params` have no such gate, or no biases.
        ValueError: If `longest` is below 3.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> params = gj.lstm().init(jax.random.key(0), 3, 4)
        >>> params = gj.initializers.chrono(jax.random.key(1), params, longest=100)
        >>> bool((params.b_f >= 0).all())
        True
    """
    if longest < 3:
        raise ValueError(f"longest: got {longest}, expected at least 3 steps.")
    signs = {"b_z": -1} if hasattr(params, "b_z") else {"b_f": 1, "b_i": -1}
    if any(getattr(params, field, None) is None for field in signs):
        raise TypeError(
            f"params: got {type(params).__name__} without {' and '.join(signs)}, expected those of a GRU or LSTM with biases. "
            "Make them with cell.init(…, bias=True)."
        )
    like = getattr(params, next(iter(signs)))
    v = jnp.log(jax.random.uniform(key, like.shape, jnp.float32, minval=1, maxval=longest - 1))
    return params._replace(**{field: (sign * v).astype(like.dtype) for field, sign in signs.items()})

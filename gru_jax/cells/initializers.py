"""Initializers of the field that `jax.nn.initializers` lacks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def symmetric_uniform(bound: float) -> Callable[..., jax.Array]:
    """U(-bound, bound): Chung et al. 2014 draw all parameters with bound 0.1 (their code, `jych/librnn`).

    `jax.nn.initializers.uniform(scale)` is U(0, scale), another distribution.

    Args:
        bound: the largest magnitude, above 0.

    Returns:
        An initializer `(key, shape, dtype) -> array`, for `cell.init(kernel_init=…, recurrent_init=…, bias_init=…)`.

    Raises:
        ValueError: `bound` is not above 0.
    """
    if not bound > 0:
        raise ValueError(f"bound: got {bound}, expected a number above 0.")

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init


def chrono(key: jax.Array, params: Any, longest: int) -> Any:
    """Gate biases by which units remember for 1 to `longest` steps, spread evenly (Tallec and Ollivier 2018, eq. 16).

        v ~ log U(1, longest - 1)
        GRU:   b_z = -v            z is the share of the candidate here, so a small z remembers
        LSTM:  b_f = v, b_i = -v

    Args:
        key: a `jax.random` key, consumed here.
        params: of a GRU (both forms) or an LSTM, with biases.
        longest: the longest dependency expected, in steps, at least 3.

    Returns:
        `params` with these biases replaced.

    Raises:
        TypeError: `params` have no such gate, or no biases.
        ValueError: `longest` is below 3.
    """
    if longest < 3:
        raise ValueError(f"longest: got {longest}, expected at least 3 steps.")
    signs = {"b_z": -1} if hasattr(params, "b_z") else {"b_f": 1, "b_i": -1}
    if any(getattr(params, field, None) is None for field in signs):
        raise TypeError(
            f"params: got {type(params).__name__} without {' and '.join(signs)}, expected a GRU's or an LSTM's with biases. "
            "Make them with cell.init(…, bias=True)."
        )
    like = getattr(params, next(iter(signs)))
    v = jnp.log(jax.random.uniform(key, like.shape, jnp.float32, minval=1, maxval=longest - 1))
    return params._replace(**{field: (sign * v).astype(like.dtype) for field, sign in signs.items()})

"""The precision in which sums are accumulated, and in which LAPACK and QR work."""

from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """Returns `dtype`, or float32 if `dtype` is an integer or in half precision."""
    # jnp.promote_types would raise under jax.numpy_dtype_promotion("strict")
    is_wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return dtype if is_wide else jnp.dtype(jnp.float32)

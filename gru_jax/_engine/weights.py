"""Prepares weights for the loops: transposes them once, and casts them to the dtype of the
products.
"""

from typing import Any

import jax
import jax.numpy as jnp


def transpose_matrices(params: Any) -> Any:
    """Swaps the last two axes of every matrix.

    Done once, because XLA repacks a transposed operand at each step of a loop.
    """
    return jax.tree.map(lambda p: p.mT if p.ndim > 1 else p, params)


def lower_matrices(params: Any, compute_dtype: Any) -> Any:
    """Casts every floating-point matrix to `compute_dtype`, so that products take their operands
    in it. Vectors are unchanged.
    """
    if compute_dtype is None:
        return params
    is_matrix = lambda p: p.ndim > 1 and jnp.issubdtype(p.dtype, jnp.floating)
    return jax.tree.map(lambda p: p.astype(compute_dtype) if is_matrix(p) else p, params)

"""What every cell needs: the projection of the input, a weight's and a bias's gradient, and weights transposed."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def affine(x: Float[Array, "*t_b D"], W: Float[Array, "D H"], b: Float[Array, " H"] | None) -> Float[Array, "*t_b H"]:
    """x W + b, for one step or for all of them: the input's share of a pre-activation."""
    return x @ W if b is None else x @ W + b


def affine_dot(
    x: Float[Array, "*t_b D"],
    x_dot: Float[Array, "*t_b D"],
    W: Float[Array, "D H"],
    W_dot: Float[Array, "D H"],
    b_dot: Float[Array, " H"] | None,
) -> Float[Array, "*t_b H"]:
    """ẋ W + x Ẇ + ḃ: the tangent of x W + b."""
    return affine(x, W_dot, b_dot) + x_dot @ W


def outer_sum(x: Float[Array, "*t_b D"], a: Float[Array, "*t_b H"]) -> Float[Array, "D H"]:
    """Σ xᵀ a over time and batch in one matmul: the gradient of W where `a` is the cotangent of x W.

    Contracts all leading axes at once rather than merging them, so a sharded batch axis stays as it is; sums in at least
    float32 and returns the operands' dtype.
    """
    leading = tuple(range(x.ndim - 1))
    total = jax.lax.dot_general(x, a, dimension_numbers=((leading, leading), ((), ())), preferred_element_type=_sum_dtype(x))
    return total.astype(x.dtype)


def bias_sum(a: Float[Array, "*t_b H"], b: Float[Array, " H"] | None) -> Float[Array, " H"] | None:
    """Σ a over time and batch: the gradient of the bias b; None where the cell has none."""
    if b is None:
        return None
    return a.sum(axis=tuple(range(a.ndim - 1)), dtype=_sum_dtype(a)).astype(a.dtype)


def transposed(params: Any) -> Any:
    """`params` with the last two axes of every matrix swapped: done once, for XLA repacks a transposed operand in a loop at
    each step."""
    return jax.tree.map(lambda p: p.mT if p.ndim > 1 else p, params)


def _sum_dtype(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)

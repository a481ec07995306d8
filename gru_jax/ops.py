"""Products and sums for writing cells, which follow the engine's precision, sharding and fusion.

    value     affine(x, W, b)        x W + b                      dot(x, W)       x W
              affines(x, (W₁, b₁), …)                             dots(x, W₁, …)  x W₁, x W₂, …
    tangent   affine_jvp(…)          ẋ W + x Ẇ + ḃ
    adjoint   outer_sum(x, a)        W̄ = Σ xᵀ a                   bias_sum(a, b)  b̄ = Σ a
              dot_sum((a₁, W₁), …)   x̄ = Σ_k a_k W_kᵀ, given transposed weights

`x @ W` works in a cell too. These functions add three things. A product takes its operands in the
dtype of the weight, which `unroll(compute_dtype=…)` lowers, sums in at least float32, and returns
the dtype of `x`. Sums over time and batch leave a sharded batch
axis where it is. Products of the same operand may be taken as one matmul, where the engine expects
that to be faster.

All functions work on arrays with any leading axes: one step, a batch, or all of time at once.

Example:
    The adjoint of h = tanh(x W + h₋ U), where a is the cotangent of the pre-activation:

    >>> import jax.numpy as jnp, gru_jax as gj
    >>> x, h_prev, a = jnp.ones((5, 2, 3)), jnp.ones((5, 2, 4)), jnp.ones((5, 2, 4))
    >>> gj.ops.outer_sum(x, a).shape, gj.ops.outer_sum(h_prev, a).shape, gj.ops.bias_sum(a, jnp.zeros(4)).shape
    ((3, 4), (4, 4), (4,))
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gru_jax._engine.masked_weight import MaskedWeight as _MaskedWeight
from gru_jax._engine.masked_weight import operands as _operands
from gru_jax._engine.products import products_are_joined as _products_are_joined
from gru_jax._jax.precision import at_least_float32 as _at_least_float32
from gru_jax._jax.sharding import explicitly_sharded as _explicitly_sharded
from gru_jax._jax.sharding import replicated as _replicated

__all__ = [
    "add_bias",
    "affine",
    "affine_jvp",
    "affines",
    "bias_sum",
    "dot",
    "dot_sum",
    "dots",
    "outer_sum",
    "outer_sums",
    "sum_dtype",
]


def dot(x: Float[Array, "*t_b K"], W: Float[Array, "K H"] | _MaskedWeight) -> Float[Array, "*t_b H"]:
    """Multiplies by a weight, x W.

    The operands are taken in the dtype of `W`, the sum in at least float32, the result in the dtype
    of `x`.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> gj.ops.dot(jnp.ones((2, 3)), jnp.ones((3, 4), jnp.bfloat16)).dtype
        dtype('float32')
    """
    operand, weight = _operands(x, W)
    return jnp.matmul(operand.astype(weight.dtype), weight, preferred_element_type=sum_dtype(x)).astype(x.dtype)


def dots(x: Float[Array, "*t_b K"], *weights: Float[Array, "K H"] | _MaskedWeight) -> list[Float[Array, "*t_b H"]]:
    """Multiplies by several weights, [x W₁, x W₂, …].

    Inside the time loop these may become one matmul with the concatenated weights. The
    concatenation does not depend on the step, so XLA takes it out of the loop.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> z, r = gj.ops.dots(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones((3, 4)))
        >>> z.shape
        (2, 4)
    """
    whole = tuple(W for W in weights if not isinstance(W, _MaskedWeight))  # the others have operands of their own
    joined = len(whole) == len(weights) > 1 and _products_are_joined()
    if not joined or _explicitly_sharded(x, *whole):
        return [dot(x, W) for W in weights]
    return _split(dot(x, jnp.concatenate(whole, -1)), whole)


def dot_sum(*pairs: tuple[Float[Array, "*t_b K"], Float[Array, "K H"]]) -> Float[Array, "*t_b H"]:
    """Adds up products, Σ a W over pairs (a, W).

    This is the transpose of `dots`, given transposed weights.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> pair = (jnp.ones((2, 4)), jnp.ones((4, 3)))
        >>> gj.ops.dot_sum(pair, pair).shape
        (2, 3)
    """
    operands, weights = zip(*pairs, strict=True)
    # One by one in half precision: jaxlib 0.12 takes the single matmul of constant weights apart
    # again on a CPU, and has no code for bfloat16 parts that are summed in float32.
    joined = _products_are_joined() and jnp.finfo(weights[0].dtype).bits >= 32
    if not joined or _explicitly_sharded(*operands, *weights):
        return functools.reduce(jnp.add, [dot(a, W) for a, W in pairs])
    return dot(jnp.concatenate(operands, -1), jnp.concatenate(weights, -2))


def affine(
    x: Float[Array, "*t_b D"], W: Float[Array, "D H"] | _MaskedWeight, b: Float[Array, " H"] | None
) -> Float[Array, "*t_b H"]:
    """Applies an affine map, x W + b. A bias of None adds nothing.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> gj.ops.affine(jnp.ones((2, 3)), jnp.ones((3, 4)), None).shape
        (2, 4)
    """
    return add_bias(dot(x, W), b)


def affines(
    x: Float[Array, "*t_b D"], *maps: tuple[Float[Array, "D H"] | _MaskedWeight, Float[Array, " H"] | None]
) -> list[Float[Array, "*t_b H"]]:
    """Applies several affine maps, given as pairs (W, b), to one input.

    The matmuls may become one, as in `dots`.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> maps = (jnp.ones((3, 4)), jnp.zeros(4)), (jnp.ones((3, 4)), None)
        >>> z, r = gj.ops.affines(jnp.ones((2, 3)), *maps)
    """
    weights, biases = zip(*maps, strict=True)
    return [add_bias(product, b) for product, b in zip(dots(x, *weights), biases, strict=True)]


def add_bias(x: Float[Array, "*t_b H"], b: Float[Array, " H"] | None) -> Float[Array, "*t_b H"]:
    """Adds a bias along the last axis. A bias of None adds nothing.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> gj.ops.add_bias(jnp.zeros((2, 3)), jnp.arange(3.0))[0]
        Array([0., 1., 2.], dtype=float32)
    """
    # explicit axes, so that jax.numpy_rank_promotion("raise") holds
    return x if b is None else x + jnp.expand_dims(b, tuple(range(x.ndim - 1)))


def affine_jvp(
    x: Float[Array, "*t_b D"],
    x_dot: Float[Array, "*t_b D"],
    W: Float[Array, "D H"],
    W_dot: Float[Array, "D H"],
    b_dot: Float[Array, " H"] | None,
) -> Float[Array, "*t_b H"]:
    """Returns the tangent of x W + b, which is ẋ W + x Ẇ + ḃ.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> x, W = jnp.ones((2, 3)), jnp.ones((3, 4))
        >>> float(gj.ops.affine_jvp(x, 2 * x, W, 5 * W, None)[0, 0])
        21.0
    """
    return affine(x, W_dot, b_dot) + dot(x_dot, W)


def outer_sum(
    x: Float[Array, "*t_b D"], a: Float[Array, "*t_b H"], W: Float[Array, "D H"] | None = None
) -> Float[Array, "D H"]:
    """Returns the gradient of a weight, Σ xᵀ a over time and batch, in one matmul.

    Args:
        x: What the weight was multiplied with.
        a: The cotangent of x W.
        W: The weight. Its dtype is taken for the operands. Defaults to None: the dtype of `x`.

    Returns:
        The sum, in at least float32: the engine adds up all blocks of time before it rounds to the
        dtype of `W`.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> float(gj.ops.outer_sum(jnp.ones((5, 2, 3)), jnp.ones((5, 2, 4)))[0, 0])
        10.0
    """
    return _outer_sum(x, a, x.dtype if W is None else W.dtype)


def outer_sums(
    x: Float[Array, "*t_b D"], *products: tuple[Float[Array, "*t_b H"], Float[Array, "D H"]]
) -> list[Float[Array, "D H"]]:
    """Returns the gradients of several weights of one operand, Σ xᵀ a for pairs (a, W).

    The matmuls may become one, as in `dots`.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> x, a = jnp.ones((5, 2, 3)), jnp.ones((5, 2, 4))
        >>> W_z, W_r = gj.ops.outer_sums(x, (a, jnp.ones((3, 4))), (2 * a, jnp.ones((3, 4))))
        >>> float(W_r[0, 0])
        20.0
    """
    cotangents, weights = zip(*products, strict=True)
    if not _products_are_joined() or _explicitly_sharded(x, *cotangents):
        return [outer_sum(x, a, W) for a, W in products]
    joined = _outer_sum(x, jnp.concatenate(cotangents, -1), weights[0].dtype)
    return _split(joined, cotangents)


def bias_sum(a: Float[Array, "*t_b H"], b: Float[Array, " H"] | None) -> Float[Array, " H"] | None:
    """Returns the gradient of a bias, Σ a over time and batch, in at least float32.

    A bias of None has the gradient None.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> gj.ops.bias_sum(jnp.ones((5, 2, 3)), jnp.zeros(3))
        Array([10., 10., 10.], dtype=float32)
    """
    if b is None:
        return None
    return a.sum(axis=tuple(range(a.ndim - 1)), dtype=sum_dtype(a))


def sum_dtype(x: Array) -> jnp.dtype:
    """Returns the dtype in which products and sums of `x` are accumulated.

    It is the dtype of `x`, or float32 if that is wider.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> gj.ops.sum_dtype(jnp.ones(3, jnp.bfloat16))
        dtype('float32')
    """
    return _at_least_float32(x.dtype)


def _outer_sum(x: Array, a: Array, operand_dtype: jnp.dtype) -> Array:
    # contracts all leading axes at once: merging them by a reshape would move a sharded batch axis
    leading = tuple(range(x.ndim - 1))
    return jax.lax.dot_general(
        x.astype(operand_dtype),
        a.astype(operand_dtype),
        dimension_numbers=((leading, leading), ((), ())),
        preferred_element_type=sum_dtype(x),
        out_sharding=_replicated(x, a),
    )


def _split(joined: Array, parts: tuple[Array, ...]) -> list[Array]:
    """Splits the last axis into the widths of `parts`."""
    edges = itertools.accumulate(part.shape[-1] for part in parts[:-1])
    return jnp.split(joined, list(edges), -1)

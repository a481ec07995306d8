"""What every cell needs: pre-activations, a weight's and a bias's gradient, and weights transposed.

Precision: a product takes its operands in the dtype of the weight (which `compute_dtype` lowers, see `lowered`), sums in at
least float32, and returns the dtype of the other operand, which is the state's.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gru_jax._jax.sharding import explicitly_sharded, replicated

# units; beyond, on a CPU, putting operands side by side costs what one matmul saves (swept by hand; experiments.block_sizes does it
# again)
WIDE_UP_TO = 128

# inputs and units together; up to here a GRU or an LSTM is small: on a CPU [x, h] [W; U] in the loop takes it less time than x W
# before the loop and h U in it (swept by hand)
JOINT_UP_TO = 64


class Affine(NamedTuple):
    """A pre-activation, x W + h U + b."""

    W: Float[Array, "D H"]
    U: Float[Array, "H H"]
    b: Float[Array, " H"] | None


class Unprojected(NamedTuple):
    """The input of a small cell, which `pre_activations` joins to h."""

    x: Float[Array, "*t_b D"]


Prepared = list[Array] | Unprojected  # x W + b of each pre-activation; or x itself


def dot(x: Float[Array, "*t_b K"], W: Float[Array, "K H"]) -> Float[Array, "*t_b H"]:
    """x W."""
    return jnp.matmul(x.astype(W.dtype), W, preferred_element_type=sum_dtype(x)).astype(x.dtype)


def dots(x: Float[Array, "*t_b K"], *weights: Float[Array, "K H"]) -> list[Float[Array, "*t_b H"]]:
    """x W for each of the weights, by one matmul of the weights side by side.

    XLA puts them side by side before a loop. One matmul in the loop takes half the time of three where the state is small, and the
    same or more where it is large; with 64 rows it pays up to twice as many units. The projections are added after it, for slices
    of a stacked array are what is slow.
    """
    up_to = WIDE_UP_TO if math.prod(x.shape[:-1]) < 64 else 2 * WIDE_UP_TO
    if weights[0].shape[-1] > up_to:
        return [dot(x, W) for W in weights]
    return jnp.split(dot(x, jnp.concatenate(weights, -1)), len(weights), -1)


def dot_sum(*pairs: tuple[Float[Array, "*t_b K"], Float[Array, "K H"]]) -> Float[Array, "*t_b H"]:
    """Σ a W over pairs (a, W): the transpose of `dots`. One by one in half precision: where the weights are constants, jaxlib
    0.12 takes the single matmul apart again on a CPU, and has no code for bfloat16 parts that are summed in float32."""
    operands, weights = zip(*pairs, strict=True)
    if weights[0].shape[0] > WIDE_UP_TO or jnp.finfo(weights[0].dtype).bits < 32:
        return functools.reduce(jnp.add, [dot(a, W) for a, W in pairs])
    return dot(jnp.concatenate(operands, -1), jnp.concatenate(weights, -2))


def affine(x: Float[Array, "*t_b D"], W: Float[Array, "D H"], b: Float[Array, " H"] | None) -> Float[Array, "*t_b H"]:
    """x W + b, for one step or for all of them: the input's share of a pre-activation."""
    return dot(x, W) if b is None else dot(x, W) + b


def prepared(x: Float[Array, "*t_b D"], *affines: Affine) -> Prepared:
    """What the `pre_activations` of a GRU or an LSTM need of x, for all t: x W + b of each; x itself if the cell is small. Not in
    half precision, for the reason that `dot_sum` has."""
    W = affines[0].W
    if sum(W.shape) <= JOINT_UP_TO and jnp.finfo(W.dtype).bits >= 32 and not explicitly_sharded(x):
        return Unprojected(x)
    return _shares(x, affines)


def pre_activations(u: Prepared, h: Float[Array, "*t_b H"], *affines: Affine) -> list[Float[Array, "*t_b H"]]:
    """x W + h U + b of each, where u is their `prepared` x: by `dots` of h; or by one matmul, [x, h] [W; U]."""
    Ws, Us, bs = zip(*affines, strict=True)
    if isinstance(u, Unprojected) and not explicitly_sharded(h, *Ws, *Us):
        joint = jnp.concatenate([jnp.concatenate(Ws, -1), jnp.concatenate(Us, -1)])
        parts = jnp.split(dot(jnp.concatenate([u.x, h], -1), joint), len(affines), -1)
        return [part if b is None else part + b for part, b in zip(parts, bs, strict=True)]
    shares = _shares(u.x, affines) if isinstance(u, Unprojected) else u
    return [x_share + h_share for x_share, h_share in zip(shares, dots(h, *Us), strict=True)]


def _shares(x: Float[Array, "*t_b D"], affines: tuple[Affine, ...]) -> list[Float[Array, "*t_b H"]]:
    return [affine(x, W, b) for W, _, b in affines]


def affine_dot(
    x: Float[Array, "*t_b D"],
    x_dot: Float[Array, "*t_b D"],
    W: Float[Array, "D H"],
    W_dot: Float[Array, "D H"],
    b_dot: Float[Array, " H"] | None,
) -> Float[Array, "*t_b H"]:
    """ẋ W + x Ẇ + ḃ: the tangent of x W + b."""
    return affine(x, W_dot, b_dot) + dot(x_dot, W)


def outer_sum(
    x: Float[Array, "*t_b D"], a: Float[Array, "*t_b H"], W: Float[Array, "D H"] | None = None
) -> Float[Array, "D H"]:
    """Σ xᵀ a over time and batch in one matmul: the gradient of W where `a` is the cotangent of x W.

    Contracts all leading axes at once rather than merging them, so a sharded batch axis stays as it is. W gives the dtype of
    the operands; without it they stay as they are. The sum stays in the dtype it was taken in, at least float32: the engine adds up
    those of all blocks before it rounds.
    """
    leading = tuple(range(x.ndim - 1))
    operand = x.dtype if W is None else W.dtype
    return jax.lax.dot_general(
        x.astype(operand),
        a.astype(operand),
        dimension_numbers=((leading, leading), ((), ())),
        preferred_element_type=sum_dtype(x),
        out_sharding=replicated(x, a),
    )


def bias_sum(a: Float[Array, "*t_b H"], b: Float[Array, " H"] | None) -> Float[Array, " H"] | None:
    """Σ a over time and batch, in at least float32: the gradient of the bias b; None where the cell has none."""
    if b is None:
        return None
    return a.sum(axis=tuple(range(a.ndim - 1)), dtype=sum_dtype(a))


def transposed(params: Any) -> Any:
    """`params` with the last two axes of every matrix swapped: done once, for XLA repacks a transposed operand in a loop at
    each step."""
    return jax.tree.map(lambda p: p.mT if p.ndim > 1 else p, params)


def lowered(params: Any, compute_dtype: Any) -> Any:
    """`params` with every matrix in `compute_dtype`, whose products then take their operands in it; vectors stay."""
    if compute_dtype is None:
        return params
    is_matrix = lambda p: p.ndim > 1 and jnp.issubdtype(p.dtype, jnp.floating)
    return jax.tree.map(lambda p: p.astype(compute_dtype) if is_matrix(p) else p, params)


def sum_dtype(x: Array) -> jnp.dtype:
    """In which products and sums of `x` are summed."""
    return jnp.promote_types(x.dtype, jnp.float32)

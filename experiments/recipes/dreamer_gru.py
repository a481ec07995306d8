"""Shows a custom cell: the recurrent cell of DreamerV3.

It normalises its gates, and its recurrent weights are block-diagonal:

    a_k = x W_k + blockdiag(U_k) h₋                      k = r, h, z
    (r̂, ĝ, ẑ) = norm(a_r, a_h, a_z) · scale + offset     by the root mean square of each block
    r = σ(r̂),  g = tanh(r ⊙ ĝ),  z = σ(ẑ − 1)            r also gates the input and the offset
    h = z ⊙ g + (1 − z) ⊙ h₋

The cell has equations, but no derived adjoint. The engine differentiates the equations step by
step. It still saves only the states, and lengths and resets work.

Source: Hafner et al. 2023, arXiv 2301.04104, the functions `GRU` of `nets.py` and `RSSM._core` of
`rssm.py`. Here the normalisation acts within each block, over its three gates, so that blocks stay
independent.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax as gj
from gru_jax.ops import dot


class DreamerParams(NamedTuple):
    """The parameters, with the gates in the order r, h, z. Each block has n = H / blocks units."""

    W: jax.Array  # (D, 3·H), in blocks of 3·n
    U: jax.Array  # (blocks, n, 3·n)
    scale: jax.Array  # (blocks, 3·n)
    offset: jax.Array  # (blocks, 3·n)


@cache  # cells with the same functions are equal, so JAX compiles once for all of them
def dreamer_gru(blocks: int) -> gj.Cell:
    """Makes the cell with `blocks` blocks, which must divide the hidden size."""

    def init(key: jax.Array, input_size: int, hidden_size: int, dtype: Any = jnp.float32) -> DreamerParams:
        key_W, key_U = jax.random.split(key)
        draw = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", batch_axis=())
        n = hidden_size // blocks
        U = jnp.stack([draw(k, (n, 3 * n), dtype) for k in jax.random.split(key_U, blocks)])
        ones = jnp.ones((blocks, 3 * n), dtype)
        return DreamerParams(draw(key_W, (input_size, 3 * hidden_size), dtype), U, ones, jnp.zeros_like(ones))

    def project(params: DreamerParams, xs: jax.Array) -> jax.Array:
        return dot(xs, params.W).reshape(*xs.shape[:-1], blocks, -1)

    def gates(params: DreamerParams, u: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        by_block = h.reshape(*h.shape[:-1], blocks, -1)
        a = u + jnp.einsum("...kn,knm->...km", by_block, params.U)
        a = a * jax.lax.rsqrt((a**2).mean(-1, keepdims=True) + 1e-4) * params.scale + params.offset
        r, g, z = (part.reshape(h.shape) for part in jnp.split(a, 3, axis=-1))
        return jax.nn.sigmoid(z - 1), jnp.tanh(jax.nn.sigmoid(r) * g)

    def update(g: tuple[jax.Array, jax.Array], h: jax.Array) -> jax.Array:
        z, candidate = g
        return z * candidate + (1 - z) * h

    def zero_state(params: DreamerParams) -> jax.Array:
        return jnp.zeros(blocks * params.U.shape[1], params.U.dtype)

    return gj.Cell(name=f"dreamer_gru({blocks})", init=init, project=project, gates=gates, update=update, zero_state=zero_state)

"""Three cells without a derivation, as their users would write them, and the scans to compare with."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax as gj


class Weights(NamedTuple):
    """Input weights, recurrent weights and biases of all gates side by side."""

    W: jax.Array
    U: jax.Array
    b: jax.Array


class ScalarLSTMState(NamedTuple):
    """The state of the sLSTM: memory, normaliser, output, and the stabiliser of the exponents."""

    c: jax.Array
    n: jax.Array
    h: jax.Array
    m: jax.Array


def init(gates: int, key: jax.Array, input_size: int, hidden_size: int) -> Weights:
    """Draws the weights of a number of gates."""
    key_W, key_U = jax.random.split(key)
    draw = lambda key, rows: jax.random.normal(key, (rows, gates * hidden_size)) / rows**0.5
    return Weights(draw(key_W, input_size), draw(key_U, hidden_size), jnp.zeros(gates * hidden_size))


def project(params: Weights, xs: jax.Array) -> jax.Array:
    """x W + b."""
    return xs @ params.W + params.b


def slstm_update(g: jax.Array, state: ScalarLSTMState) -> ScalarLSTMState:
    """Exponential gating with a stabiliser (Beck et al. 2024, arXiv 2405.04517, eqs. 8-17)."""
    z, i, f, o = jnp.split(g, 4, -1)
    log_f = jax.nn.log_sigmoid(f)
    m = jnp.maximum(log_f + state.m, i)
    keep, write = jnp.exp(log_f + state.m - m), jnp.exp(i - m)
    c, n = keep * state.c + write * jnp.tanh(z), keep * state.n + write
    return ScalarLSTMState(c, n, jax.nn.sigmoid(o) * c / n, m)


def slstm_zero_state(params: Weights) -> ScalarLSTMState:
    """Zeros, but for the stabiliser."""
    zeros = jnp.zeros(params.U.shape[0], params.U.dtype)
    return ScalarLSTMState(zeros, zeros, zeros, jnp.full_like(zeros, -jnp.inf))


def normalised(x: jax.Array) -> jax.Array:
    """Layer normalisation without a scale."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def layer_norm_gates(params: Weights, u: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A GRU (reset after) whose recurrent pre-activations are normalised (Ba et al. 2016)."""
    (u_z, u_r, u_h), (v_z, v_r, v_h) = jnp.split(u, 3, -1), map(normalised, jnp.split(h @ params.U, 3, -1))
    z, r = jax.nn.sigmoid(u_z + v_z), jax.nn.sigmoid(u_r + v_r)
    return z, jnp.tanh(u_h + r * v_h)


def minimal_gates(params: Weights, u: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The minimal gated unit (Zhou et al. 2016): one gate forgets and resets."""
    (u_f, u_h), (U_f, U_h) = jnp.split(u, 2, -1), jnp.split(params.U, 2, -1)
    f = jax.nn.sigmoid(u_f + h @ U_f)
    return f, jnp.tanh(u_h + (f * h) @ U_h)


def interpolate(g: tuple[jax.Array, jax.Array], h: jax.Array) -> jax.Array:
    """(1 − z) h + z g."""
    return (1 - g[0]) * h + g[0] * g[1]


def hidden_zeros(params: Weights) -> jax.Array:
    """Zeros of the size of the state."""
    return jnp.zeros(params.U.shape[0], params.U.dtype)


CELLS = {
    "sLSTM": gj.Cell(
        partial(init, 4),
        project,
        lambda params, u, state: u + state.h @ params.U,
        slstm_update,
        output=lambda state: state.h,
        zero_state=slstm_zero_state,
        name="sLSTM",
    ),
    "layer-norm GRU": gj.Cell(
        partial(init, 3), project, layer_norm_gates, interpolate, zero_state=hidden_zeros, name="layer-norm GRU"
    ),
    "minimal gated unit": gj.Cell(
        partial(init, 2), project, minimal_gates, interpolate, zero_state=hidden_zeros, name="minimal gated unit"
    ),
}


def run(cell: gj.Cell, kind: str, params: Any, xs: jax.Array) -> jax.Array:
    """The outputs of a cell: ours by `gj.unroll`, or by a plain or a checkpointed scan."""
    if kind == "ours":
        return gj.unroll(cell, params, xs)[1]
    step = partial(cell.step, params)
    return jax.lax.scan(jax.checkpoint(step) if kind == "checkpointed" else step, cell.initial_state(params, xs.shape[1]), xs)[
        1
    ]

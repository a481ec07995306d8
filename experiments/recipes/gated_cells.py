"""Shows custom cells: published variants of the GRU and the LSTM, by their equations alone.

| cell              | what differs                                   | source                              |
|-------------------|------------------------------------------------|-------------------------------------|
| `LAYER_NORM_GRU`  | the products of input and state are normalised | Ba et al. 2016, arXiv 1607.06450    |
| `LAYER_NORM_LSTM` | the memory is normalised too                   | Ba et al. 2016, arXiv 1607.06450    |
| `conv_lstm`       | images; the matmuls are convolutions           | Shi et al. 2015, arXiv 1506.04214   |

None has a derived adjoint: the engine differentiates the equations step by step. Lengths, masks,
resets, stacks, both directions and every derivative work with each of them. Vectors are rows; h₋ is
the state before the step. `derived_cells` has three more variants, with their derivations.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax as gj
from experiments.recipes.cells_for_science import convolve
from experiments.recipes.derived_cells import init_of_gates, zero_lstm_state, zeros
from gru_jax.cells import LSTMState
from gru_jax.ops import add_bias, dot


class NormalizedParams(NamedTuple):
    """The gates side by side, the gains of the normalised products x W and h₋ U, and that of an
    LSTM's memory.
    """

    W: jax.Array
    U: jax.Array
    b: jax.Array
    gain_x: jax.Array  # (n·H,)
    gain_h: jax.Array  # (n·H,)
    gain_c: Any  # (H,), or None


def normalize(a: jax.Array, gain: jax.Array) -> jax.Array:
    """Scales the last axis to mean 0 and variance 1, and multiplies by a gain."""
    centered = a - a.mean(-1, keepdims=True)
    return gain * centered / jnp.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)


def _init_normalized(gates: int, *, memory: bool) -> Any:
    def init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> NormalizedParams:
        ones = jnp.ones(gates * H, dtype)
        W, U, b = init_of_gates(gates)(key, D, H, dtype)
        return NormalizedParams(W, U, b, ones, ones, ones[:H] if memory else None)

    return init


def _layer_norm_gru_gates(p: NormalizedParams, u: tuple[jax.Array, jax.Array], h: jax.Array) -> tuple[jax.Array, jax.Array]:
    H = h.shape[-1]
    (u_zr, u_h), a = u, dot(h, p.U)
    z, r = jnp.split(jax.nn.sigmoid(u_zr + normalize(a[..., : 2 * H], p.gain_h[: 2 * H])), 2, axis=-1)
    return z, jnp.tanh(u_h + r * normalize(a[..., 2 * H :], p.gain_h[2 * H :]))


def _layer_norm_gru_project(p: NormalizedParams, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, H = dot(x, p.W), p.U.shape[0]
    normalized = [normalize(a[..., part], p.gain_x[part]) for part in (slice(2 * H), slice(2 * H, None))]
    return add_bias(normalized[0], p.b[: 2 * H]), add_bias(normalized[1], p.b[2 * H :])


# The GRU with normalised products; z and r are normalised together, the candidate separately.
#
#     [z, r] = σ(LN(x W_zr) + LN(h₋ U_zr) + b_zr),   g = tanh(LN(x W_h) + b_h + r ⊙ LN(h₋ U_h))
#     h = (1 − z) ⊙ h₋ + z ⊙ g
LAYER_NORM_GRU = gj.Cell(
    _init_normalized(3, memory=False),
    project=_layer_norm_gru_project,
    gates=_layer_norm_gru_gates,
    update=lambda g, h: (1 - g[0]) * h + g[0] * g[1],
    zero_state=zeros,
    name="layer_norm_gru",
)


def _layer_norm_lstm_gates(p: NormalizedParams, u: jax.Array, state: LSTMState) -> tuple[jax.Array, jax.Array]:
    i, f, g, o = jnp.split(u + normalize(dot(state.h, p.U), p.gain_h), 4, axis=-1)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(normalize(c, p.gain_c)), c


# The LSTM with normalised products and a normalised memory.
#
#     [i, f, g, o] = LN(x W) + LN(h₋ U) + b,   c = σ(f) ⊙ c₋ + σ(i) ⊙ tanh(g),   h = σ(o) ⊙ tanh(LN(c))
LAYER_NORM_LSTM = gj.Cell(
    _init_normalized(4, memory=True),
    project=lambda p, x: add_bias(normalize(dot(x, p.W), p.gain_x), p.b),
    gates=_layer_norm_lstm_gates,
    update=lambda g, state: LSTMState(*g),
    output=lambda state: state.h,
    zero_state=zero_lstm_state,
    name="layer_norm_lstm",
)


class ConvLSTMParams(NamedTuple):
    """Filters of 3 × 3 pixels, of the gates i, f, g, o side by side."""

    W: jax.Array  # (3, 3, D, 4·H)
    U: jax.Array  # (3, 3, H, 4·H)
    b: jax.Array  # (4·H,)


@cache  # cells with the same functions are equal, so JAX compiles once for all of them
def conv_lstm(height: int, width: int) -> gj.Cell:
    """Makes an LSTM whose matmuls are convolutions: xs (T, *batch, height, width, D), lengths (*batch,).

    i, f, o = σ(x ∗ W + h₋ ∗ U + b) of each,   g = tanh(x ∗ W_g + h₋ ∗ U_g + b_g)
    c = f ⊙ c₋ + i ⊙ g,   h = o ⊙ tanh(c)
    """

    def init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> ConvLSTMParams:
        draw_filters = jax.nn.initializers.lecun_normal()
        key_W, key_U = jax.random.split(key)
        W, U = draw_filters(key_W, (3, 3, D, 4 * H), dtype), draw_filters(key_U, (3, 3, H, 4 * H), dtype)
        return ConvLSTMParams(W, U, jnp.zeros(4 * H, dtype))

    def gates(p: ConvLSTMParams, u: jax.Array, state: LSTMState) -> tuple[jax.Array, jax.Array]:
        i, f, g, o = jnp.split(u + convolve(state.h, p.U), 4, axis=-1)
        c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def zero_state(p: ConvLSTMParams) -> LSTMState:
        zeros = jnp.zeros((height, width, p.U.shape[-2]), p.U.dtype)
        return LSTMState(zeros, zeros)

    return gj.Cell(
        init,
        project=lambda p, x: add_bias(convolve(x, p.W), p.b),
        gates=gates,
        update=lambda g, state: LSTMState(*g),
        output=lambda state: state.h,
        zero_state=zero_state,
        num_feature_axes=3,
        name=f"conv_lstm({height}, {width})",
    )

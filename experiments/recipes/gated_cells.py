"""Shows cells of one's own: six published variants of the GRU and the LSTM, by their equations.

| cell              | what differs                                   | source                                |
|-------------------|------------------------------------------------|---------------------------------------|
| `LAYER_NORM_GRU`  | the products of input and state are normalised | Ba et al. 2016, arXiv 1607.06450      |
| `LAYER_NORM_LSTM` | the memory is normalised too                   | Ba et al. 2016, arXiv 1607.06450      |
| `COUPLED_LSTM`    | the input gate is 1 − f                        | Greff et al. 2017, arXiv 1503.04069   |
| `MGU`             | one gate                                       | Zhou et al. 2016, arXiv 1603.09420    |
| `IND_RNN`         | each unit sees its own state alone             | Li et al. 2018, arXiv 1803.04831      |
| `conv_lstm`       | images; the matmuls are convolutions           | Shi et al. 2015, arXiv 1506.04214     |

`IND_RNN` has its derivation, which is short; the engine differentiates the others step by step. Lengths,
masks, resets, stacks, both directions and every derivative work with each of them. Vectors are rows;
h₋ is the state before the step.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax as gj
from experiments.recipes.cells_for_science import convolve
from experiments.recipes.new_cells import draw
from gru_jax.cells import LSTMState
from gru_jax.ops import add_bias, affine, affine_jvp, bias_sum, dot, outer_sum


class Params(NamedTuple):
    """The gates side by side: W (D, n·H), U (H, n·H), b (n·H,)."""

    W: jax.Array
    U: jax.Array
    b: jax.Array


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


def _init(gates: int) -> Any:
    def init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> Params:
        key_W, key_U = jax.random.split(key)
        return Params(draw(key_W, (D, gates * H), dtype), draw(key_U, (H, gates * H), dtype), jnp.zeros(gates * H, dtype))

    return init


def _init_normalized(gates: int, *, memory: bool) -> Any:
    def init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> NormalizedParams:
        ones = jnp.ones(gates * H, dtype)
        W, U, b = _init(gates)(key, D, H, dtype)
        return NormalizedParams(W, U, b, ones, ones, ones[:H] if memory else None)

    return init


def _zero_lstm_state(p: Any) -> LSTMState:
    zeros = jnp.zeros(p.U.shape[0], p.U.dtype)
    return LSTMState(zeros, zeros)


def _zeros(p: Any) -> jax.Array:
    return jnp.zeros(p.U.shape[0], p.U.dtype)


def _layer_norm_gru_gates(p: NormalizedParams, u: tuple[jax.Array, jax.Array], h: jax.Array) -> tuple[jax.Array, jax.Array]:
    H = h.shape[-1]
    (u_zr, u_h), a = u, dot(h, p.U)
    z, r = jnp.split(jax.nn.sigmoid(u_zr + normalize(a[..., : 2 * H], p.gain_h[: 2 * H])), 2, axis=-1)
    return z, jnp.tanh(u_h + r * normalize(a[..., 2 * H :], p.gain_h[2 * H :]))


def _layer_norm_gru_project(p: NormalizedParams, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, H = dot(x, p.W), p.U.shape[0]
    normalized = [normalize(a[..., part], p.gain_x[part]) for part in (slice(2 * H), slice(2 * H, None))]
    return add_bias(normalized[0], p.b[: 2 * H]), add_bias(normalized[1], p.b[2 * H :])


# The GRU with normalised products; z and r are normalised together, the candidate for itself.
#
#     [z, r] = σ(LN(x W_zr) + LN(h₋ U_zr) + b_zr),   g = tanh(LN(x W_h) + b_h + r ⊙ LN(h₋ U_h))
#     h = (1 − z) ⊙ h₋ + z ⊙ g
LAYER_NORM_GRU = gj.Cell(
    _init_normalized(3, memory=False),
    project=_layer_norm_gru_project,
    gates=_layer_norm_gru_gates,
    update=lambda g, h: (1 - g[0]) * h + g[0] * g[1],
    zero_state=_zeros,
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
    zero_state=_zero_lstm_state,
    name="layer_norm_lstm",
)


def _coupled_lstm_gates(p: Params, u: jax.Array, state: LSTMState) -> tuple[jax.Array, jax.Array, jax.Array]:
    f, g, o = jnp.split(u + dot(state.h, p.U), 3, axis=-1)
    return jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def _coupled_lstm_update(g: tuple[jax.Array, jax.Array, jax.Array], state: LSTMState) -> LSTMState:
    f, candidate, o = g
    c = f * state.c + (1 - f) * candidate
    return LSTMState(o * jnp.tanh(c), c)


# The LSTM with coupled input and forget gates, ONNX' input_forget.
#
#     f, o = σ(x W + h₋ U + b) of each,   g = tanh(x W_g + h₋ U_g + b_g)
#     c = f ⊙ c₋ + (1 − f) ⊙ g,   h = o ⊙ tanh(c)
COUPLED_LSTM = gj.Cell(
    _init(3),
    project=lambda p, x: affine(x, p.W, p.b),
    gates=_coupled_lstm_gates,
    update=_coupled_lstm_update,
    output=lambda state: state.h,
    zero_state=_zero_lstm_state,
    name="coupled_lstm",
)


def _mgu_gates(p: Params, u: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    H = h.shape[-1]
    f = jax.nn.sigmoid(u[..., :H] + dot(h, p.U[:, :H]))
    return f, jnp.tanh(u[..., H:] + dot(f * h, p.U[:, H:]))


# The minimal gated unit: a GRU whose reset gate is its update gate.
#
#     f = σ(x W_f + h₋ U_f + b_f),   g = tanh(x W_h + (f ⊙ h₋) U_h + b_h),   h = (1 − f) ⊙ h₋ + f ⊙ g
MGU = gj.Cell(
    _init(2),
    project=lambda p, x: affine(x, p.W, p.b),
    gates=_mgu_gates,
    update=lambda g, h: (1 - g[0]) * h + g[0] * g[1],
    zero_state=_zeros,
    name="mgu",
)


class IndRNNParams(NamedTuple):
    """The input weights W (D, H), and the recurrent weight and bias of each unit, u and b (H,)."""

    W: jax.Array
    u: Any
    b: Any


def _ind_rnn_init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> IndRNNParams:
    key_W, key_u = jax.random.split(key)
    return IndRNNParams(draw(key_W, (D, H), dtype), jax.random.uniform(key_u, (H,), dtype), jnp.zeros(H, dtype))


def _ind_rnn_input_vjp(
    p: IndRNNParams, xs: jax.Array, h_prevs: jax.Array, g: jax.Array, k: jax.Array, h_bars: jax.Array
) -> tuple[IndRNNParams, jax.Array]:
    a = k * h_bars
    return IndRNNParams(outer_sum(xs, a, p.W), bias_sum(h_prevs * a, p.u), bias_sum(a, p.b)), dot(a, p.W.T)


def _ind_rnn_input_jvp(
    p: IndRNNParams, p_dot: IndRNNParams, xs: jax.Array, xs_dot: jax.Array, h_prevs: jax.Array, g: jax.Array, k: jax.Array
) -> jax.Array:
    return k * (affine_jvp(xs, xs_dot, p.W, p_dot.W, p_dot.b) + p_dot.u * h_prevs)


# The independently recurrent network, whose gradient through time is a product of each unit's u.
#
#     h = relu(x W + u ⊙ h₋ + b)
#     a = h̄ ⊙ [h > 0],   h̄₋ = u ⊙ a,   W̄ = Σ xᵀ a,   ū = Σ h₋ ⊙ a,   b̄ = Σ a,   x̄ = a Wᵀ
IND_RNN = gj.Cell(
    _ind_rnn_init,
    project=lambda p, x: affine(x, p.W, p.b),
    gates=lambda p, u, h: jax.nn.relu(u + p.u * h),
    update=lambda g, h: g,
    adjoint=gj.Adjoint(
        linearize=lambda g, h_prev: (g > 0).astype(g.dtype),
        input_vjp=_ind_rnn_input_vjp,
        state_vjp=lambda p_T, k, h_bar: p_T.u * (k * h_bar),
        gates_from_state=lambda h: h,
    ),
    tangent=gj.Tangent(input_jvp=_ind_rnn_input_jvp, state_jvp=lambda p, k, h_dot: k * (p.u * h_dot)),
    zero_state=lambda p: jnp.zeros_like(p.u),
    name="ind_rnn",
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

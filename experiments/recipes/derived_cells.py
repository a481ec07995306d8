"""Shows custom cells with their derivations: published variants of the LSTM, GRU and RNN.

| cell           | what differs                      | source                              |
|----------------|-----------------------------------|-------------------------------------|
| `COUPLED_LSTM` | the input gate is 1 − f           | Greff et al. 2017, arXiv 1503.04069 |
| `MGU`          | the reset gate is the update gate | Zhou et al. 2016, arXiv 1603.09420  |
| `IND_RNN`      | each unit sees its own state only | Li et al. 2018, arXiv 1803.04831    |

The LSTM with coupled input and forget gates, the `input_forget` of ONNX:

    (F1)   f = σ(x W_f + h₋ U_f + b_f),  g = tanh(x W_g + h₋ U_g + b_g),  o = σ(x W_o + h₋ U_o + b_o)
    (F2)   c = f ⊙ c₋ + (1 − f) ⊙ g
    (F3)   h = o ⊙ tanh(c)

    (F3)ᵀ  ō = h̄ ⊙ tanh(c),  c̄ += h̄ ⊙ o ⊙ (1 − tanh²(c))
    (F2)ᵀ  f̄ = c̄ ⊙ (c₋ − g),  ḡ = c̄ ⊙ (1 − f),  c̄₋ = c̄ ⊙ f
    (F1)ᵀ  a_f = f̄ ⊙ f ⊙ (1 − f),  a_g = ḡ ⊙ (1 − g²),  a_o = ō ⊙ o ⊙ (1 − o);  h̄₋ = Σ_k a_k U_kᵀ
    after the loop:  W̄_k = Σ xᵀ a_k,  Ū_k = Σ h₋ᵀ a_k,  b̄_k = Σ a_k,  x̄ = Σ_k a_k W_kᵀ

The minimal gated unit:

    (F1)   f = σ(x W_f + h₋ U_f + b_f)
    (F2)   s = f ⊙ h₋,  g = tanh(x W_h + s U_h + b_h)
    (F3)   h = (1 − f) ⊙ h₋ + f ⊙ g

    (F3)ᵀ  ḡ = h̄ ⊙ f,  f̄ = h̄ ⊙ (g − h₋),  h̄₋ = h̄ ⊙ (1 − f)
    (F2)ᵀ  a_h = ḡ ⊙ (1 − g²),  s̄ = a_h U_hᵀ,  f̄ += s̄ ⊙ h₋,  h̄₋ += s̄ ⊙ f
    (F1)ᵀ  a_f = f̄ ⊙ f ⊙ (1 − f),  h̄₋ += a_f U_fᵀ
    after the loop:  W̄_k = Σ xᵀ a_k,  Ū_f = Σ h₋ᵀ a_f,  Ū_h = Σ sᵀ a_h,  b̄_k = Σ a_k,  x̄ = Σ_k a_k W_kᵀ

The independently recurrent network, whose gradient through time is a product of each unit's u:

    (F1)   h = relu(x W + u ⊙ h₋ + b)

    (F1)ᵀ  a = h̄ ⊙ [h > 0],  h̄₋ = u ⊙ a
    after the loop:  W̄ = Σ xᵀ a,  ū = Σ h₋ ⊙ a,  b̄ = Σ a,  x̄ = a Wᵀ

Vectors are rows; h₋ and c₋ are the state before the step; v̄ is ∂L/∂v; a_k is the cotangent of gate
k's pre-activation. Lengths, masks, resets, stacks, both directions and every derivative work with
each cell.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax as gj
from experiments.recipes.new_cells import draw
from gru_jax.cells import LSTMState
from gru_jax.ops import affine, affine_jvp, bias_sum, dot, outer_sum


class Params(NamedTuple):
    """The gates side by side: W (D, n·H), U (H, n·H), b (n·H,)."""

    W: jax.Array
    U: jax.Array
    b: Any


def init_of_gates(gates: int) -> Any:
    """Makes the `init` of a cell with this number of gates side by side."""

    def init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> Params:
        key_W, key_U = jax.random.split(key)
        return Params(draw(key_W, (D, gates * H), dtype), draw(key_U, (H, gates * H), dtype), jnp.zeros(gates * H, dtype))

    return init


def zeros(p: Any) -> jax.Array:
    """Returns the zero state of a cell whose state is h."""
    return jnp.zeros(p.U.shape[0], p.U.dtype)


def zero_lstm_state(p: Any) -> LSTMState:
    """Returns the zero state of a cell whose state is (h, c)."""
    return LSTMState(zeros(p), zeros(p))


class CoupledLSTMGates(NamedTuple):
    """The values of a step: forget gate, candidate, output gate, memory."""

    f: jax.Array
    g: jax.Array
    o: jax.Array
    c: jax.Array


class CoupledLSTMCoefficients(NamedTuple):
    """What multiplies h̄ and c̄ in the backward lines."""

    c: jax.Array  # o (1 − tanh²(c))       h̄ → c̄
    a_o: jax.Array  # tanh(c) o (1 − o)    h̄ → a_o
    a_f: jax.Array  # (c₋ − g) f (1 − f)   c̄ → a_f
    a_g: jax.Array  # (1 − f) (1 − g²)     c̄ → a_g
    keep: jax.Array  # f                   c̄ → c̄₋


def _coupled_lstm_gates(p: Params, u: jax.Array, state: LSTMState) -> CoupledLSTMGates:
    a_f, a_g, a_o = jnp.split(u + dot(state.h, p.U), 3, axis=-1)
    f, g, o = jax.nn.sigmoid(a_f), jnp.tanh(a_g), jax.nn.sigmoid(a_o)  # (F1)
    return CoupledLSTMGates(f, g, o, c=f * state.c + (1 - f) * g)  # (F2)


def _coupled_lstm_linearize(g: CoupledLSTMGates, prev: LSTMState) -> CoupledLSTMCoefficients:
    f, o, tanh_c = g.f, g.o, jnp.tanh(g.c)
    return CoupledLSTMCoefficients(
        c=o * (1 - tanh_c**2),
        a_o=tanh_c * o * (1 - o),
        a_f=(prev.c - g.g) * f * (1 - f),
        a_g=(1 - f) * (1 - g.g**2),
        keep=f,
    )


def _coupled_lstm_bars(k: CoupledLSTMCoefficients, bar: LSTMState) -> tuple[jax.Array, jax.Array]:
    """Computes the cotangents of the pre-activations, side by side, and of the memory."""
    c_bar = bar.c + k.c * bar.h  # (F3)ᵀ
    return jnp.concatenate([k.a_f * c_bar, k.a_g * c_bar, k.a_o * bar.h], axis=-1), c_bar  # (F2)ᵀ (F1)ᵀ


def _coupled_lstm_input_vjp(
    p: Params, xs: jax.Array, prevs: LSTMState, g: CoupledLSTMGates, k: CoupledLSTMCoefficients, bars: LSTMState
) -> tuple[Params, jax.Array]:
    a, _ = _coupled_lstm_bars(k, bars)
    return Params(outer_sum(xs, a, p.W), outer_sum(prevs.h, a, p.U), bias_sum(a, p.b)), dot(a, p.W.T)


def _coupled_lstm_state_vjp(p_T: Params, k: CoupledLSTMCoefficients, bar: LSTMState) -> LSTMState:
    a, c_bar = _coupled_lstm_bars(k, bar)
    return LSTMState(h=dot(a, p_T.U), c=k.keep * c_bar)  # (F1)ᵀ (F2)ᵀ


# The LSTM with coupled input and forget gates.
COUPLED_LSTM = gj.Cell(
    init_of_gates(3),
    project=lambda p, x: affine(x, p.W, p.b),
    gates=_coupled_lstm_gates,
    update=lambda g, state: LSTMState(g.o * jnp.tanh(g.c), g.c),  # (F3)
    adjoint=gj.Adjoint(_coupled_lstm_linearize, _coupled_lstm_input_vjp, _coupled_lstm_state_vjp),
    output=lambda state: state.h,
    zero_state=zero_lstm_state,
    name="coupled_lstm",
)


class MGUGates(NamedTuple):
    """The values of a step: gate, candidate."""

    f: jax.Array
    g: jax.Array


class MGUCoefficients(NamedTuple):
    """What multiplies h̄ and s̄ in the backward lines."""

    keep: jax.Array  # 1 − f                h̄ → h̄₋
    a_h: jax.Array  # f (1 − g²)            h̄ → a_h
    a_f: jax.Array  # (g − h₋) f (1 − f)    h̄ → a_f
    f: jax.Array  # f                       s̄ → h̄₋
    s_to_a_f: jax.Array  # h₋ f (1 − f)     s̄ → a_f


def _mgu_gates(p: Params, u: jax.Array, h: jax.Array) -> MGUGates:
    H = h.shape[-1]
    f = jax.nn.sigmoid(u[..., :H] + dot(h, p.U[:, :H]))  # (F1)
    return MGUGates(f, g=jnp.tanh(u[..., H:] + dot(f * h, p.U[:, H:])))  # (F2)


def _mgu_linearize(g: MGUGates, h_prev: jax.Array) -> MGUCoefficients:
    slope = g.f * (1 - g.f)
    return MGUCoefficients(keep=1 - g.f, a_h=g.f * (1 - g.g**2), a_f=(g.g - h_prev) * slope, f=g.f, s_to_a_f=h_prev * slope)


def _mgu_input_vjp(
    p: Params, xs: jax.Array, h_prevs: jax.Array, g: MGUGates, k: MGUCoefficients, h_bars: jax.Array
) -> tuple[Params, jax.Array]:
    H = h_prevs.shape[-1]
    U_f, U_h = p.U[:, :H], p.U[:, H:]
    a_h = k.a_h * h_bars  # (F3)ᵀ (F2)ᵀ
    s_bar = dot(a_h, U_h.T)  # (F2)ᵀ
    a_f = k.a_f * h_bars + k.s_to_a_f * s_bar  # (F3)ᵀ (F2)ᵀ (F1)ᵀ
    a = jnp.concatenate([a_f, a_h], axis=-1)
    U_bar = jnp.concatenate([outer_sum(h_prevs, a_f, U_f), outer_sum(g.f * h_prevs, a_h, U_h)], axis=-1)
    return Params(outer_sum(xs, a, p.W), U_bar, bias_sum(a, p.b)), dot(a, p.W.T)


def _mgu_state_vjp(p_T: Params, k: MGUCoefficients, h_bar: jax.Array) -> jax.Array:
    H = h_bar.shape[-1]
    s_bar = dot(k.a_h * h_bar, p_T.U[H:])  # (F3)ᵀ (F2)ᵀ
    a_f = k.a_f * h_bar + k.s_to_a_f * s_bar  # (F3)ᵀ (F2)ᵀ (F1)ᵀ
    return k.keep * h_bar + k.f * s_bar + dot(a_f, p_T.U[:H])


# The minimal gated unit.
MGU = gj.Cell(
    init_of_gates(2),
    project=lambda p, x: affine(x, p.W, p.b),
    gates=_mgu_gates,
    update=lambda g, h: (1 - g.f) * h + g.f * g.g,  # (F3)
    adjoint=gj.Adjoint(_mgu_linearize, _mgu_input_vjp, _mgu_state_vjp),
    zero_state=zeros,
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
    a = k * h_bars  # (F1)ᵀ
    return IndRNNParams(outer_sum(xs, a, p.W), bias_sum(h_prevs * a, p.u), bias_sum(a, p.b)), dot(a, p.W.T)


def _ind_rnn_input_jvp(
    p: IndRNNParams, p_dot: IndRNNParams, xs: jax.Array, xs_dot: jax.Array, h_prevs: jax.Array, g: jax.Array, k: jax.Array
) -> jax.Array:
    return k * (affine_jvp(xs, xs_dot, p.W, p_dot.W, p_dot.b) + p_dot.u * h_prevs)


# The independently recurrent network.
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

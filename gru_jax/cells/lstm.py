"""The LSTM, the comparator of Chung et al. 2014; with diagonal peepholes p as an option (Graves
2013, arXiv 1308.0850, eqs. 7-11).

    (F1)   i = σ(x W_i + h₋ U_i + b_i + p_i ⊙ c₋),  f = σ(x W_f + h₋ U_f + b_f + p_f ⊙ c₋),  g = φ(x W_g + h₋ U_g + b_g)
    (F2)   c = f ⊙ c₋ + i ⊙ g
    (F3)   o = σ(x W_o + h₋ U_o + b_o + p_o ⊙ c),  h = o ⊙ φ(c)

    (F3)ᵀ  ō = h̄ ⊙ φ(c),  a_o = ō ⊙ σ′(o),  c̄ += h̄ ⊙ o ⊙ φ′(φ(c)) + a_o ⊙ p_o
    (F2)ᵀ  f̄ = c̄ ⊙ c₋,  ī = c̄ ⊙ g,  ḡ = c̄ ⊙ i,  c̄₋ = c̄ ⊙ f
    (F1)ᵀ  a_i = ī ⊙ σ′(i),  a_f = f̄ ⊙ σ′(f),  a_g = ḡ ⊙ φ′(g);  h̄₋ = Σ_k a_k U_kᵀ;  c̄₋ += a_i ⊙ p_i + a_f ⊙ p_f
    after the loop:  W̄_k = Σ xᵀ a_k,  Ū_k = Σ h₋ᵀ a_k,  b̄_k = Σ a_k,  p̄_i = Σ c₋ ⊙ a_i,  p̄_f = Σ c₋ ⊙ a_f,  p̄_o = Σ c ⊙ a_o,
                     x̄ = Σ_k a_k W_kᵀ

σ is the sigmoid and φ is tanh, unless the cell is given others. Their derivatives are functions of
the value: σ′(i) = i ⊙ (1 − i) and φ′(g) = 1 − g².

Row vectors; h₋ is h_{t-1}, c₋ is c_{t-1}; v̄ is ∂L/∂v; a_k is the cotangent of gate k's
pre-activation; v̇ is a tangent, and (F)˙ tags the differential of line (F). The state is (h, c),
the output is h.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from gru_jax._jax.export import serializable
from gru_jax.cells.activations import Activation
from gru_jax.ops import affine_jvp, affines, bias_sum, dot, dot_sum, dots, outer_sums

Steps = Float[Array, "*t_b H"]


@serializable
class LSTMParams(NamedTuple):
    """Parameters of the LSTM; also the type of their gradient. Without peepholes the p are None."""

    W_i: Float[Array, "D H"]
    U_i: Float[Array, "H H"]
    b_i: Float[Array, " H"] | None
    W_f: Float[Array, "D H"]
    U_f: Float[Array, "H H"]
    b_f: Float[Array, " H"] | None
    W_g: Float[Array, "D H"]
    U_g: Float[Array, "H H"]
    b_g: Float[Array, " H"] | None
    W_o: Float[Array, "D H"]
    U_o: Float[Array, "H H"]
    b_o: Float[Array, " H"] | None
    p_i: Float[Array, " H"] | None = None
    p_f: Float[Array, " H"] | None = None
    p_o: Float[Array, " H"] | None = None


@serializable
class LSTMState(NamedTuple):
    """The state of an LSTM: the output h and the memory c."""

    h: Steps
    c: Steps


class Projected(NamedTuple):
    """The input's share of each pre-activation, x W + b."""

    i: Steps
    f: Steps
    g: Steps
    o: Steps


class Gates(NamedTuple):
    """The values of a step: input and forget gate, candidate, memory, output gate."""

    i: Steps
    f: Steps
    g: Steps
    c: Steps
    o: Steps


class Coefficients(NamedTuple):
    """The coefficients of the linearised step: what multiplies h̄ and c̄ in the backward lines."""

    a_o: Steps  # φ(c) σ′(o)         h̄ → a_o
    c: Steps  # o φ′(φ(c))           h̄ → c̄
    a_f: Steps  # c₋ σ′(f)           c̄ → a_f
    a_i: Steps  # g σ′(i)            c̄ → a_i
    a_g: Steps  # i φ′(g)            c̄ → a_g
    keep: Steps  # f                 c̄ → c̄₋


def project(params: LSTMParams, xs: Float[Array, "*t_b D"]) -> Projected:
    """Computes the input's share of the pre-activations, x W + b, for all t."""
    p = params
    return Projected(*affines(xs, (p.W_i, p.b_i), (p.W_f, p.b_f), (p.W_g, p.b_g), (p.W_o, p.b_o)))


def gates(sigma: Activation, phi: Activation, params: LSTMParams, u: Projected, state: LSTMState) -> Gates:
    """Computes the values of a step, (F1) to (F3)."""
    h, c = state
    i_h, f_h, g_h, o_h = dots(h, params.U_i, params.U_f, params.U_g, params.U_o)
    i = sigma(u.i + i_h + _peep(c, params.p_i))  # (F1)
    f = sigma(u.f + f_h + _peep(c, params.p_f))  # (F1)
    g = phi(u.g + g_h)  # (F1)
    c = f * c + i * g  # (F2)
    o = sigma(u.o + o_h + _peep(c, params.p_o))  # (F3)
    return Gates(i, f, g, c, o)


def update(phi: Activation, g: Gates, state: LSTMState) -> LSTMState:
    """Computes the new state, (F3)."""
    return LSTMState(h=g.o * phi(g.c), c=g.c)  # (F3)


def linearize(sigma: Activation, phi: Activation, g: Gates, state_prev: LSTMState) -> Coefficients:
    """Computes the coefficients of the linearised step, for all t."""
    i, f, o = g.i, g.f, g.o
    phi_c = phi(g.c)
    return Coefficients(
        a_o=sigma.times_slope(phi_c, o),
        c=phi.times_slope(o, phi_c),
        a_f=sigma.times_slope(state_prev.c, f),
        a_i=sigma.times_slope(g.g, i),
        a_g=phi.times_slope(i, g.g),
        keep=f,
    )


def state_jvp(params: LSTMParams, k: Coefficients, state_dot: LSTMState) -> LSTMState:
    """Computes the tangent of a step with respect to the previous state."""
    h_dot, c_dot = state_dot
    i_pre = dot(h_dot, params.U_i) + _peep(c_dot, params.p_i)  # (F1)˙
    f_pre = dot(h_dot, params.U_f) + _peep(c_dot, params.p_f)  # (F1)˙
    g_pre = dot(h_dot, params.U_g)  # (F1)˙
    c_dot = k.keep * c_dot + k.a_f * f_pre + k.a_i * i_pre + k.a_g * g_pre  # (F2)˙
    o_pre = dot(h_dot, params.U_o) + _peep(c_dot, params.p_o)  # (F3)˙
    return LSTMState(h=k.a_o * o_pre + k.c * c_dot, c=c_dot)  # (F3)˙


def input_jvp(
    params: LSTMParams,
    params_dot: LSTMParams,
    xs: Float[Array, "*t_b D"],
    xs_dot: Float[Array, "*t_b D"],
    prevs: LSTMState,
    g: Gates,
    k: Coefficients,
) -> LSTMState:
    """Computes the tangent of all steps with respect to parameters and input, ws."""
    p, p_dot, h, c = params, params_dot, prevs.h, prevs.c
    i_pre = affine_jvp(xs, xs_dot, p.W_i, p_dot.W_i, p_dot.b_i) + dot(h, p_dot.U_i) + _peep(c, p_dot.p_i)  # (F1)˙
    f_pre = affine_jvp(xs, xs_dot, p.W_f, p_dot.W_f, p_dot.b_f) + dot(h, p_dot.U_f) + _peep(c, p_dot.p_f)  # (F1)˙
    g_pre = affine_jvp(xs, xs_dot, p.W_g, p_dot.W_g, p_dot.b_g) + dot(h, p_dot.U_g)  # (F1)˙
    c_dot = k.a_f * f_pre + k.a_i * i_pre + k.a_g * g_pre  # (F2)˙
    o_pre = affine_jvp(xs, xs_dot, p.W_o, p_dot.W_o, p_dot.b_o) + dot(h, p_dot.U_o) + _peep(g.c, p_dot.p_o)  # (F3)˙
    return LSTMState(h=k.a_o * (o_pre + _peep(c_dot, p.p_o)) + k.c * c_dot, c=c_dot)  # (F3)˙


class PreActivationBars(NamedTuple):
    """The cotangents of the four pre-activations, and of the memory."""

    a_i: Steps
    a_f: Steps
    a_g: Steps
    a_o: Steps
    c_bar: Steps


def pre_activation_bars(params: LSTMParams, k: Coefficients, state_bar: LSTMState) -> PreActivationBars:
    """Computes the elementwise part of the adjoint, the same inside the loop and for all t at
    once.
    """
    h_bar, c_bar = state_bar
    a_o = k.a_o * h_bar  # (F3)ᵀ
    c_bar = c_bar + k.c * h_bar + _peep(a_o, params.p_o)  # (F3)ᵀ
    return PreActivationBars(a_i=k.a_i * c_bar, a_f=k.a_f * c_bar, a_g=k.a_g * c_bar, a_o=a_o, c_bar=c_bar)  # (F2)ᵀ (F1)ᵀ


def state_vjp(params_T: LSTMParams, k: Coefficients, state_bar: LSTMState) -> LSTMState:
    """Computes the cotangent of the previous state from that of the state."""
    a_i, a_f, a_g, a_o, c_bar = pre_activation_bars(params_T, k, state_bar)
    return LSTMState(
        h=dot_sum((a_i, params_T.U_i), (a_f, params_T.U_f), (a_g, params_T.U_g), (a_o, params_T.U_o)),  # (F1)ᵀ
        c=k.keep * c_bar + _peep(a_i, params_T.p_i) + _peep(a_f, params_T.p_f),  # (F2)ᵀ (F1)ᵀ
    )


def input_vjp(
    params: LSTMParams, xs: Float[Array, "*t_b D"], prevs: LSTMState, g: Gates, k: Coefficients, state_bars: LSTMState
) -> tuple[LSTMParams, Float[Array, "*t_b D"]]:
    """Computes the cotangents of parameters and input from those of all states, (params̄, x̄s)."""
    a_i, a_f, a_g, a_o, _ = pre_activation_bars(params, k, state_bars)
    p = params
    W_i, W_f, W_g, W_o = outer_sums(xs, (a_i, p.W_i), (a_f, p.W_f), (a_g, p.W_g), (a_o, p.W_o))
    U_i, U_f, U_g, U_o = outer_sums(prevs.h, (a_i, p.U_i), (a_f, p.U_f), (a_g, p.U_g), (a_o, p.U_o))
    params_bar = LSTMParams(
        W_i=W_i,
        U_i=U_i,
        b_i=bias_sum(a_i, p.b_i),
        W_f=W_f,
        U_f=U_f,
        b_f=bias_sum(a_f, p.b_f),
        W_g=W_g,
        U_g=U_g,
        b_g=bias_sum(a_g, p.b_g),
        W_o=W_o,
        U_o=U_o,
        b_o=bias_sum(a_o, p.b_o),
        p_i=bias_sum(prevs.c * a_i, p.p_i),
        p_f=bias_sum(prevs.c * a_f, p.p_f),
        p_o=bias_sum(g.c * a_o, p.p_o),
    )
    return params_bar, dot_sum((a_i, params.W_i.T), (a_f, params.W_f.T), (a_g, params.W_g.T), (a_o, params.W_o.T))


def _peep(c: Steps, p: Float[Array, " H"] | None) -> Steps | float:
    """Multiplies by a peephole, c ⊙ p; its transpose is the same, a ⊙ p.

    Without peepholes the result is 0.
    """
    return 0.0 if p is None else c * jnp.expand_dims(p, tuple(range(c.ndim - 1)))


def output(state: LSTMState) -> Steps:
    """Reads the output from the state."""
    return state.h


def zero_state(params: LSTMParams) -> LSTMState:
    """Returns the zero state without batch axes."""
    zeros = jnp.zeros(params.U_i.shape[-1], params.U_i.dtype)
    return LSTMState(zeros, zeros)

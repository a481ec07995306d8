"""The GRU with the reset after the matmul: Cho et al. (1406.1078 v1), cuDNN, PyTorch, Keras.

    (F1)   z = σ(x W_z + h₋ U_z + b_z)                         update gate
    (F2)   r = σ(x W_r + h₋ U_r + b_r)                         reset gate
    (F3)   q = h₋ U_h + c_h,  g = φ(x W_h + b_h + r ⊙ q)       candidate
    (F4)   h = (1 − z) ⊙ h₋ + z ⊙ g

    (F4)ᵀ  ḡ = h̄ ⊙ z,  z̄ = h̄ ⊙ (g − h₋),  h̄₋ = h̄ ⊙ (1 − z)
    (F3)ᵀ  a_h = ḡ ⊙ φ′(g),  q̄ = a_h ⊙ r,  r̄ = a_h ⊙ q,  h̄₋ += q̄ U_hᵀ
    (F2)ᵀ  a_r = r̄ ⊙ σ′(r),  h̄₋ += a_r U_rᵀ
    (F1)ᵀ  a_z = z̄ ⊙ σ′(z),  h̄₋ += a_z U_zᵀ
    after the loop:  W̄_k = Σ xᵀ a_k,  b̄_k = Σ a_k,  Ū_z = Σ h₋ᵀ a_z,  Ū_r = Σ h₋ᵀ a_r,  Ū_h = Σ h₋ᵀ q̄,  c̄_h = Σ q̄,  x̄ = Σ_k a_k W_kᵀ

The whole step is linear in δ = h̄ with factors known for every t before the reverse scan starts:
δ₋ = (1 − z) ⊙ δ + (k_r ⊙ δ) U_rᵀ + (k_z ⊙ δ) U_zᵀ + (k_q ⊙ δ) U_hᵀ.

σ is the sigmoid and φ is tanh, unless the cell is given others. Their derivatives are functions of
the value: σ′(z) = z ⊙ (1 − z) and φ′(g) = 1 − g².

Row vectors; h₋ is h_{t-1}; v̄ is ∂L/∂v; a_k is the cotangent of gate k's pre-activation; v̇ is a
tangent, and (F)˙ tags the differential of line (F).
"""

from functools import cache
from typing import NamedTuple

from jaxtyping import Array, Float

from gru_jax._engine.functions import bind
from gru_jax._jax.export import serializable
from gru_jax.cell import Adjoint, Cell, Tangent
from gru_jax.cells.activations import Activation, options
from gru_jax.cells.letters import LetteredCheck, LetteredInit
from gru_jax.ops import add_bias, affine, affine_jvp, affines, bias_sum, dot, dot_sum, dots, outer_sums

Steps = Float[Array, "*t_b H"]


@serializable
class GRUResetAfterParams(NamedTuple):
    """Parameters of the GRU, reset after the matmul; also the type of their gradient."""

    W_z: Float[Array, "D H"]
    U_z: Float[Array, "H H"]
    b_z: Float[Array, " H"] | None
    W_r: Float[Array, "D H"]
    U_r: Float[Array, "H H"]
    b_r: Float[Array, " H"] | None
    W_h: Float[Array, "D H"]
    U_h: Float[Array, "H H"]
    b_h: Float[Array, " H"] | None
    c_h: Float[Array, " H"] | None


class Projected(NamedTuple):
    """The input's share of each pre-activation."""

    z: Steps
    r: Steps
    g: Steps


class Gates(NamedTuple):
    """The values of a step: update gate, reset gate, recurrent share of the candidate,
    candidate.
    """

    z: Steps
    r: Steps
    q: Steps
    g: Steps


class Coefficients(NamedTuple):
    """The coefficients of the linearised step: what multiplies h̄ in the backward lines."""

    keep: Steps  # 1 − z                 h̄ → h̄₋
    a_h: Steps  # z φ′(g)                h̄ → a_h
    q: Steps  # z φ′(g) r                h̄ → q̄
    a_r: Steps  # z φ′(g) q σ′(r)        h̄ → a_r
    a_z: Steps  # (g − h₋) σ′(z)         h̄ → a_z


def project(params: GRUResetAfterParams, xs: Float[Array, "*t_b D"]) -> Projected:
    """Computes the input's share of the pre-activations, x W + b, for all t."""
    p = params
    return Projected(*affines(xs, (p.W_z, p.b_z), (p.W_r, p.b_r), (p.W_h, p.b_h)))


def gates(sigma: Activation, phi: Activation, params: GRUResetAfterParams, u: Projected, h: Steps) -> Gates:
    """Computes the values of a step, (F1) to (F3)."""
    z_h, r_h, q = dots(h, params.U_z, params.U_r, params.U_h)
    z = sigma(u.z + z_h)  # (F1)
    r = sigma(u.r + r_h)  # (F2)
    q = add_bias(q, params.c_h)  # (F3)
    g = phi(u.g + r * q)  # (F3)
    return Gates(z, r, q, g)


def update(g: Gates, h: Steps) -> Steps:
    """Computes the new state, (F4)."""
    return (1 - g.z) * h + g.z * g.g  # (F4)


def linearize(sigma: Activation, phi: Activation, g: Gates, h_prev: Steps) -> Coefficients:
    """Computes the coefficients of the linearised step, for all t."""
    z, r = g.z, g.r
    a_h = phi.times_slope(z, g.g)
    return Coefficients(
        keep=1 - z,
        a_h=a_h,
        q=a_h * r,
        a_r=sigma.times_slope(a_h * g.q, r),
        a_z=sigma.times_slope(g.g - h_prev, z),
    )


def state_jvp(params: GRUResetAfterParams, k: Coefficients, h_dot: Steps) -> Steps:
    """Computes the tangent of a step with respect to the previous state."""
    return (  # (F1)˙ (F2)˙ (F3)˙ (F4)˙
        k.keep * h_dot + k.a_z * dot(h_dot, params.U_z) + k.a_r * dot(h_dot, params.U_r) + k.q * dot(h_dot, params.U_h)
    )


def input_jvp(
    params: GRUResetAfterParams,
    params_dot: GRUResetAfterParams,
    xs: Float[Array, "*t_b D"],
    xs_dot: Float[Array, "*t_b D"],
    h_prevs: Steps,
    g: Gates,
    k: Coefficients,
) -> Steps:
    """Computes the tangent of all steps with respect to parameters and input, ws."""
    p, p_dot = params, params_dot
    z_pre = affine_jvp(xs, xs_dot, p.W_z, p_dot.W_z, p_dot.b_z) + dot(h_prevs, p_dot.U_z)  # (F1)˙
    r_pre = affine_jvp(xs, xs_dot, p.W_r, p_dot.W_r, p_dot.b_r) + dot(h_prevs, p_dot.U_r)  # (F2)˙
    q_dot = affine(h_prevs, p_dot.U_h, p_dot.c_h)  # (F3)˙
    h_pre = affine_jvp(xs, xs_dot, p.W_h, p_dot.W_h, p_dot.b_h)  # (F3)˙, without r ⊙ q
    return k.a_z * z_pre + k.a_r * r_pre + k.q * q_dot + k.a_h * h_pre  # (F3)˙ (F4)˙


def state_vjp(params_T: GRUResetAfterParams, k: Coefficients, h_bar: Steps) -> Steps:
    """Computes the cotangent of the previous state from that of the state."""
    q_bar = k.q * h_bar  # (F4)ᵀ (F3)ᵀ
    a_r = k.a_r * h_bar  # (F4)ᵀ (F3)ᵀ (F2)ᵀ
    a_z = k.a_z * h_bar  # (F4)ᵀ (F1)ᵀ
    return k.keep * h_bar + dot_sum((q_bar, params_T.U_h), (a_r, params_T.U_r), (a_z, params_T.U_z))


def input_vjp(
    params: GRUResetAfterParams,
    xs: Float[Array, "*t_b D"],
    h_prevs: Steps,
    g: Gates,
    k: Coefficients,
    h_bars: Steps,
) -> tuple[GRUResetAfterParams, Float[Array, "*t_b D"]]:
    """Computes the cotangents of parameters and input from those of all states, (params̄, x̄s)."""
    a_h = k.a_h * h_bars  # (F4)ᵀ (F3)ᵀ
    q_bar = k.q * h_bars  # (F3)ᵀ
    a_r = k.a_r * h_bars  # (F3)ᵀ (F2)ᵀ
    a_z = k.a_z * h_bars  # (F4)ᵀ (F1)ᵀ
    W_z, W_r, W_h = outer_sums(xs, (a_z, params.W_z), (a_r, params.W_r), (a_h, params.W_h))
    U_z, U_r, U_h = outer_sums(h_prevs, (a_z, params.U_z), (a_r, params.U_r), (q_bar, params.U_h))
    params_bar = GRUResetAfterParams(
        W_z=W_z,
        U_z=U_z,
        b_z=bias_sum(a_z, params.b_z),
        W_r=W_r,
        U_r=U_r,
        b_r=bias_sum(a_r, params.b_r),
        W_h=W_h,
        U_h=U_h,
        b_h=bias_sum(a_h, params.b_h),
        c_h=bias_sum(q_bar, params.c_h),
    )
    return params_bar, dot_sum((a_z, params.W_z.T), (a_r, params.W_r.T), (a_h, params.W_h.T))


@cache
def gru_reset_after(sigma: Activation, phi: Activation) -> Cell:
    """Makes the cell of `gj.gru(reset_after=True)`, once for equal arguments."""
    others = options(gate_activation=(sigma, "sigmoid"), activation=(phi, "tanh"))
    return Cell(
        init=LetteredInit(GRUResetAfterParams),
        project=project,
        gates=bind(gates, sigma, phi),
        update=update,
        adjoint=Adjoint(bind(linearize, sigma, phi), input_vjp, state_vjp),
        tangent=Tangent(input_jvp, state_jvp),
        params_type=GRUResetAfterParams,
        check_params=LetteredCheck(GRUResetAfterParams),
        name=f"gru({', '.join(filter(None, ('reset_after=True', others)))})",
    )

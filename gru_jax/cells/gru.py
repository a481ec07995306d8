"""The GRU with the reset before the matmul: Chung et al. 2014 (arXiv 1412.3555), Cho et al.
(1406.1078 v3), the tutorials' form.

    (F1)   z = σ(x W_z + h₋ U_z + b_z)                         update gate
    (F2)   r = σ(x W_r + h₋ U_r + b_r)                         reset gate
    (F3)   s = r ⊙ h₋,  g = φ(x W_h + s U_h + b_h)             candidate
    (F4)   h = (1 − z) ⊙ h₋ + z ⊙ g

    (F4)ᵀ  ḡ = h̄ ⊙ z,  z̄ = h̄ ⊙ (g − h₋),  h̄₋ = h̄ ⊙ (1 − z)
    (F3)ᵀ  a_h = ḡ ⊙ φ′(g),  s̄ = a_h U_hᵀ,  r̄ = s̄ ⊙ h₋,  h̄₋ += s̄ ⊙ r
    (F2)ᵀ  a_r = r̄ ⊙ σ′(r),  h̄₋ += a_r U_rᵀ
    (F1)ᵀ  a_z = z̄ ⊙ σ′(z),  h̄₋ += a_z U_zᵀ
    after the loop:  W̄_k = Σ xᵀ a_k,  b̄_k = Σ a_k,  Ū_z = Σ h₋ᵀ a_z,  Ū_r = Σ h₋ᵀ a_r,  Ū_h = Σ sᵀ a_h,  x̄ = Σ_k a_k W_kᵀ

σ is the sigmoid and φ is tanh, unless the cell is given others. Their derivatives are functions of
the value: σ′(z) = z ⊙ (1 − z) and φ′(g) = 1 − g².

Row vectors; h₋ is h_{t-1}; v̄ is ∂L/∂v; a_k is the cotangent of gate k's pre-activation; v̇ is a
tangent, and (F)˙ tags the differential of line (F). Each backward line undoes the forward line it
names. Everything but h̄ and s̄ is known for every t before the reverse scan starts: these factors
are the coefficients k.
"""

from functools import cache
from typing import NamedTuple

from jaxtyping import Array, Float

from gru_jax._engine.arguments import check_flag
from gru_jax._engine.functions import bind
from gru_jax._jax.export import serializable
from gru_jax.cell import Adjoint, Cell, Tangent
from gru_jax.cells.activations import Activation, ActivationLike, checked_activation, options
from gru_jax.cells.gru_reset_after import gru_reset_after
from gru_jax.cells.letters import LetteredCheck, LetteredInit
from gru_jax.ops import affine_jvp, affines, bias_sum, dot, dot_sum, dots, outer_sum, outer_sums

Steps = Float[Array, "*t_b H"]


@serializable
class GRUParams(NamedTuple):
    """Parameters of the GRU, reset before the matmul; also the type of their gradient."""

    W_z: Float[Array, "D H"]
    U_z: Float[Array, "H H"]
    b_z: Float[Array, " H"] | None
    W_r: Float[Array, "D H"]
    U_r: Float[Array, "H H"]
    b_r: Float[Array, " H"] | None
    W_h: Float[Array, "D H"]
    U_h: Float[Array, "H H"]
    b_h: Float[Array, " H"] | None


class Projected(NamedTuple):
    """The input's share of each pre-activation, x W + b."""

    z: Steps
    r: Steps
    g: Steps


class Gates(NamedTuple):
    """The values of a step: update gate, reset gate, candidate."""

    z: Steps
    r: Steps
    g: Steps


class Coefficients(NamedTuple):
    """The coefficients of the linearised step: what multiplies h̄ and s̄ in the backward lines."""

    keep: Steps  # 1 − z             h̄ → h̄₋
    a_h: Steps  # z φ′(g)            h̄ → a_h
    a_z: Steps  # (g − h₋) σ′(z)     h̄ → a_z
    r: Steps  # r                    s̄ → h̄₋
    a_r: Steps  # h₋ σ′(r)           s̄ → a_r


def project(params: GRUParams, xs: Float[Array, "*t_b D"]) -> Projected:
    """Computes the input's share of the pre-activations, x W + b, for all t."""
    p = params
    return Projected(*affines(xs, (p.W_z, p.b_z), (p.W_r, p.b_r), (p.W_h, p.b_h)))


def gates(sigma: Activation, phi: Activation, params: GRUParams, u: Projected, h: Steps) -> Gates:
    """Computes the values of a step, (F1) to (F3)."""
    z_h, r_h = dots(h, params.U_z, params.U_r)
    z = sigma(u.z + z_h)  # (F1)
    r = sigma(u.r + r_h)  # (F2)
    g = phi(u.g + dot(r * h, params.U_h))  # (F3)
    return Gates(z, r, g)


def update(g: Gates, h: Steps) -> Steps:
    """Computes the new state, (F4)."""
    return (1 - g.z) * h + g.z * g.g  # (F4)


def linearize(sigma: Activation, phi: Activation, g: Gates, h_prev: Steps) -> Coefficients:
    """Computes the coefficients of the linearised step, for all t."""
    z, r = g.z, g.r
    return Coefficients(
        keep=1 - z,
        a_h=phi.times_slope(z, g.g),
        a_z=sigma.times_slope(g.g - h_prev, z),
        r=r,
        a_r=sigma.times_slope(h_prev, r),
    )


def state_jvp(params: GRUParams, k: Coefficients, h_dot: Steps) -> Steps:
    """Computes the tangent of a step with respect to the previous state."""
    s_dot = k.r * h_dot + k.a_r * dot(h_dot, params.U_r)  # (F2)˙ (F3)˙
    return k.keep * h_dot + k.a_z * dot(h_dot, params.U_z) + k.a_h * dot(s_dot, params.U_h)  # (F4)˙


def input_jvp(
    params: GRUParams,
    params_dot: GRUParams,
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
    s, s_dot = g.r * h_prevs, k.a_r * r_pre  # (F3)˙
    h_pre = affine_jvp(xs, xs_dot, p.W_h, p_dot.W_h, p_dot.b_h) + dot(s, p_dot.U_h) + dot(s_dot, p.U_h)  # (F3)˙
    return k.a_z * z_pre + k.a_h * h_pre  # (F4)˙


def state_vjp(params_T: GRUParams, k: Coefficients, h_bar: Steps) -> Steps:
    """Computes the cotangent of the previous state from that of the state."""
    a_h = k.a_h * h_bar  # (F4)ᵀ (F3)ᵀ
    s_bar = dot(a_h, params_T.U_h)  # (F3)ᵀ
    a_r = k.a_r * s_bar  # (F2)ᵀ
    a_z = k.a_z * h_bar  # (F4)ᵀ (F1)ᵀ
    return k.keep * h_bar + k.r * s_bar + dot_sum((a_r, params_T.U_r), (a_z, params_T.U_z))


def input_vjp(
    params: GRUParams, xs: Float[Array, "*t_b D"], h_prevs: Steps, g: Gates, k: Coefficients, h_bars: Steps
) -> tuple[GRUParams, Float[Array, "*t_b D"]]:
    """Computes the cotangents of parameters and input from those of all states, (params̄, x̄s)."""
    a_h = k.a_h * h_bars  # (F4)ᵀ (F3)ᵀ
    a_r = k.a_r * dot(
        a_h, params.U_h.T
    )  # (F3)ᵀ (F2)ᵀ: recomputing s̄ for all t at once is cheaper than carrying it out of the loop
    a_z = k.a_z * h_bars  # (F4)ᵀ (F1)ᵀ
    s = g.r * h_prevs  # (F3)
    W_z, W_r, W_h = outer_sums(xs, (a_z, params.W_z), (a_r, params.W_r), (a_h, params.W_h))
    U_z, U_r = outer_sums(h_prevs, (a_z, params.U_z), (a_r, params.U_r))
    params_bar = GRUParams(
        W_z=W_z,
        U_z=U_z,
        b_z=bias_sum(a_z, params.b_z),
        W_r=W_r,
        U_r=U_r,
        b_r=bias_sum(a_r, params.b_r),
        W_h=W_h,
        U_h=outer_sum(s, a_h, params.U_h),
        b_h=bias_sum(a_h, params.b_h),
    )
    return params_bar, dot_sum((a_z, params.W_z.T), (a_r, params.W_r.T), (a_h, params.W_h.T))


def gru(reset_after: bool = False, *, gate_activation: ActivationLike = "sigmoid", activation: ActivationLike = "tanh") -> Cell:
    """Makes a gated recurrent unit.

        z = σ(x W_z + h₋ U_z + b_z),  r = σ(x W_r + h₋ U_r + b_r),  h = (1 − z) ⊙ h₋ + z ⊙ g
        g = tanh(x W_h + (r ⊙ h₋) U_h + b_h)                        reset before the matmul
        g = tanh(x W_h + b_h + r ⊙ (h₋ U_h + c_h))                  reset after the matmul

    z weights the candidate, as in Chung et al. 2014. PyTorch, Keras and Flax weight the old state
    with z.

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> params.W_z.shape, params.U_z.shape, params.b_z.shape
        ((3, 4), (4, 4), (4,))

    Args:
        reset_after: If False, the reset gate acts before the matmul: Chung et al. 2014 (arXiv
            1412.3555) and Cho et al. (1406.1078 v3). If True, after it: 1406.1078 v1, the form of
            cuDNN, PyTorch and Keras. Defaults to False.
        gate_activation: σ, a name that `gj.cells.Activation` lists, or a `gj.cells.Activation`.
            Defaults to `"sigmoid"`.
        activation: The function of the candidate, likewise. Defaults to `"tanh"`.

    Returns:
        A cell with parameters `gj.cells.GRUParams(W_z, U_z, b_z, W_r, U_r, b_r, W_h, U_h, b_h)`, or
        `gj.cells.GRUResetAfterParams` with `c_h` too: W (D, H), U (H, H), biases (H,) or None.

    Raises:
        TypeError: If `reset_after` is not a bool, or an activation is neither a name nor a
            `gj.cells.Activation`.
        ValueError: If an activation is unknown.
    """
    sigma, phi = checked_activation("gate_activation", gate_activation), checked_activation("activation", activation)
    return gru_reset_after(sigma, phi) if check_flag("reset_after", reset_after) else _gru(sigma, phi)


@cache
def _gru(sigma: Activation, phi: Activation) -> Cell:
    """Makes the cell of `gj.gru()`, once for equal arguments."""
    return Cell(
        init=LetteredInit(GRUParams),
        project=project,
        gates=bind(gates, sigma, phi),
        update=update,
        adjoint=Adjoint(bind(linearize, sigma, phi), input_vjp, state_vjp),
        tangent=Tangent(input_jvp, state_jvp),
        params_type=GRUParams,
        check_params=LetteredCheck(GRUParams),
        name=f"gru({options(gate_activation=(sigma, 'sigmoid'), activation=(phi, 'tanh'))})",
    )

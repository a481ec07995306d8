"""The Elman RNN, the "vanilla" RNN of the tutorials and the tanh unit of Chung et al. 2014.

    (F1)   h = g₁(x W + h₋ U + b)                g₁ is tanh, or another activation

    (F1)˙  ḣ = g₁′ ⊙ (ḣ₋ U) + w,  w = g₁′ ⊙ (ẋ W + x Ẇ + h₋ U̇ + ḃ)
    (F1)ᵀ  a = h̄ ⊙ g₁′,  h̄₋ = a Uᵀ
    after the loop:  W̄ = Σ xᵀ a,  Ū = Σ h₋ᵀ a,  b̄ = Σ a,  x̄ = a Wᵀ

Row vectors; h₋ is h_{t-1}; v̄ is ∂L/∂v; `a` is the cotangent of the pre-activation. Each g₁′ is a
function of the value g₁ itself, so it is computed from the states. The read-out ŷ = g₂(h V + b_y)
is in `heads`: its V needs the current step only.
"""

from functools import cache
from typing import NamedTuple

from jaxtyping import Array, Float

from gru_jax._engine.functions import bind
from gru_jax._jax.export import serializable
from gru_jax.cell import Adjoint, Cell, Tangent
from gru_jax.cells.activations import Activation, ActivationLike, checked_activation
from gru_jax.cells.letters import LetteredCheck, LetteredInit
from gru_jax.ops import affine, affine_jvp, bias_sum, dot, outer_sum

Steps = Float[Array, "*t_b H"]


@serializable
class ElmanParams(NamedTuple):
    """Parameters of the Elman RNN; also the type of their gradient."""

    W: Float[Array, "D H"]
    U: Float[Array, "H H"]
    b: Float[Array, " H"] | None


def project(params: ElmanParams, xs: Float[Array, "*t_b D"]) -> Steps:
    """Computes the input's share of the pre-activations, x W + b, for all t."""
    return affine(xs, params.W, params.b)


def gates(g1: Activation, params: ElmanParams, u: Steps, h: Steps) -> Steps:
    """Computes the new state, (F1)."""
    return g1(u + dot(h, params.U))  # (F1)


def update(g: Steps, h: Steps) -> Steps:
    """Returns the new state."""
    return g


def gates_from_state(h: Steps) -> Steps:
    """Returns the value of (F1), which is the new state."""
    return h


def linearize(g1: Activation, g: Steps, h_prev: Steps) -> Steps:
    """Computes g₁′ from the value."""
    return g1.slope(g)


def state_jvp(params: ElmanParams, k: Steps, h_dot: Steps) -> Steps:
    """Computes the tangent of a step with respect to the previous state."""
    return k * dot(h_dot, params.U)  # (F1)˙


def input_jvp(
    params: ElmanParams,
    params_dot: ElmanParams,
    xs: Float[Array, "*t_b D"],
    xs_dot: Float[Array, "*t_b D"],
    h_prevs: Steps,
    g: Steps,
    k: Steps,
) -> Steps:
    """Computes the tangent of all steps with respect to parameters and input, ws."""
    return k * (affine_jvp(xs, xs_dot, params.W, params_dot.W, params_dot.b) + dot(h_prevs, params_dot.U))  # (F1)˙


def state_vjp(params_T: ElmanParams, k: Steps, h_bar: Steps) -> Steps:
    """Computes the cotangent of the previous state from that of the state."""
    a = h_bar * k  # (F1)ᵀ
    return dot(a, params_T.U)


def input_vjp(
    params: ElmanParams, xs: Float[Array, "*t_b D"], h_prevs: Steps, g: Steps, k: Steps, h_bars: Steps
) -> tuple[ElmanParams, Float[Array, "*t_b D"]]:
    """Computes the cotangents of parameters and input from those of all states, (params̄, x̄s)."""
    a = h_bars * k  # (F1)ᵀ
    return ElmanParams(W=outer_sum(xs, a, params.W), U=outer_sum(h_prevs, a, params.U), b=bias_sum(a, params.b)), dot(
        a, params.W.T
    )


def elman(activation: ActivationLike = "tanh") -> Cell:
    """Makes an Elman RNN, h_t = g₁(x_t W + h_{t-1} U + b).

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.elman("relu")
        >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> h_last, ys = gj.unroll(cell, params, jax.numpy.ones((5, 2, 3)))
        >>> ys.shape
        (5, 2, 4)

    Args:
        activation: g₁, such as `"tanh"`, `"relu"`, `"sigmoid"`, `"identity"` or another name that
            `gj.cells.Activation` lists, or a `gj.cells.Activation`. Defaults to `"tanh"`.

    Returns:
        A cell with parameters `gj.cells.ElmanParams(W, U, b)`: W (D, H), U (H, H), b (H,) or None.

    Raises:
        TypeError: If the activation is neither a name nor a `gj.cells.Activation`.
        ValueError: If the activation is unknown.
    """
    return _elman(checked_activation("activation", activation))


@cache
def _elman(g1: Activation) -> Cell:
    """Makes the cell, once for equal arguments."""
    return Cell(
        init=LetteredInit(ElmanParams),
        project=project,
        gates=bind(gates, g1),
        update=update,
        adjoint=Adjoint(bind(linearize, g1), input_vjp, state_vjp, gates_from_state),
        tangent=Tangent(input_jvp, state_jvp),
        params_type=ElmanParams,
        check_params=LetteredCheck(ElmanParams),
        name=f"elman({g1!r})",
    )

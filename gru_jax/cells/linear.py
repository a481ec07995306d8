"""The linear RNN: the counter of the tutorials, and the simplest recurrence in which gradients
vanish and explode.

    (F1)   s = x W + s₋ U + b

    (F1)˙  ṡ = ṡ₋ U + w,  w = ẋ W + x Ẇ + s₋ U̇ + ḃ
    (F1)ᵀ  s̄₋ = s̄ Uᵀ
    after the loop:  W̄ = Σ xᵀ s̄,  Ū = Σ s₋ᵀ s̄,  b̄ = Σ s̄,  x̄ = s̄ Wᵀ

Row vectors; s₋ is s_{t-1}; v̄ is ∂L/∂v. The backward pass needs no values: the cotangent at step k
is the one at step t times (Uᵀ)^{t-k}.

Sources: Seo, "Only Numpy: Vanilla RNN"; Roelants, "How to implement a recurrent neural network",
    part 1 (s_k = x_k wx + s_{k-1} wrec).
"""

from typing import NamedTuple

from jaxtyping import Array, Float

from gru_jax._jax.export import serializable
from gru_jax.cell import Adjoint, Cell, Tangent
from gru_jax.cells.letters import LetteredCheck, LetteredInit
from gru_jax.ops import affine, affine_jvp, bias_sum, dot, outer_sum

Steps = Float[Array, "*t_b H"]


@serializable
class LinearParams(NamedTuple):
    """Parameters of the linear RNN; also the type of their gradient."""

    W: Float[Array, "D H"]
    U: Float[Array, "H H"]
    b: Float[Array, " H"] | None


def project(params: LinearParams, xs: Float[Array, "*t_b D"]) -> Steps:
    """Computes the input's share of the pre-activations, x W + b, for all t."""
    return affine(xs, params.W, params.b)


def gates(params: LinearParams, u: Steps, h: Steps) -> Steps:
    """Computes the new state, (F1)."""
    return u + dot(h, params.U)  # (F1)


def update(g: Steps, h: Steps) -> Steps:
    """Returns the new state."""
    return g


def linearize(g: Steps, h_prev: Steps) -> tuple[()]:
    """Returns no coefficients: the step is linear already."""
    return ()


def state_jvp(params: LinearParams, k: tuple[()], h_dot: Steps) -> Steps:
    """Computes the tangent of a step with respect to the previous state."""
    return dot(h_dot, params.U)  # (F1)˙


def input_jvp(
    params: LinearParams,
    params_dot: LinearParams,
    xs: Float[Array, "*t_b D"],
    xs_dot: Float[Array, "*t_b D"],
    h_prevs: Steps,
    g: Steps,
    k: tuple[()],
) -> Steps:
    """Computes the tangent of all steps with respect to parameters and input, ws."""
    return affine_jvp(xs, xs_dot, params.W, params_dot.W, params_dot.b) + dot(h_prevs, params_dot.U)  # (F1)˙


def state_vjp(params_T: LinearParams, k: tuple[()], h_bar: Steps) -> Steps:
    """Computes the cotangent of the previous state from that of the state."""
    return dot(h_bar, params_T.U)  # (F1)ᵀ


def input_vjp(
    params: LinearParams, xs: Float[Array, "*t_b D"], h_prevs: Steps, g: Steps, k: tuple[()], h_bars: Steps
) -> tuple[LinearParams, Float[Array, "*t_b D"]]:
    """Computes the cotangents of parameters and input from those of all states, (params̄, x̄s)."""
    params_bar = LinearParams(
        W=outer_sum(xs, h_bars, params.W), U=outer_sum(h_prevs, h_bars, params.U), b=bias_sum(h_bars, params.b)
    )
    return params_bar, dot(h_bars, params.W.T)


def linear_rnn() -> Cell:
    """Makes a linear RNN, s_t = x_t W + s_{t-1} U + b.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> counter = gj.cells.LinearParams(W=jnp.ones((1, 1)), U=jnp.ones((1, 1)), b=None)
        >>> count, _ = gj.unroll(gj.linear_rnn(), counter, jnp.array([[1.0], [0.0], [1.0]]))
        >>> count
        Array([2.], dtype=float32)

    Returns:
        A cell with parameters `gj.cells.LinearParams(W, U, b)`: W (D, H), U (H, H), b (H,) or None.
    """
    return _CELL


_CELL = Cell(
    init=LetteredInit(LinearParams),
    project=project,
    gates=gates,
    update=update,
    adjoint=Adjoint(linearize, input_vjp, state_vjp),
    tangent=Tangent(input_jvp, state_jvp),
    params_type=LinearParams,
    check_params=LetteredCheck(LinearParams),
    name="linear_rnn()",
)

"""The linear RNN: the tutorials' counter, and the recurrence in which gradients vanish and explode with nothing to hide it.

    (F1)   s = x W + s₋ U + b

    (F1)˙  ṡ = ṡ₋ U + w,  w = ẋ W + x Ẇ + s₋ U̇ + ḃ
    (F1)ᵀ  s̄₋ = s̄ Uᵀ
    after the loop:  W̄ = Σ xᵀ s̄,  Ū = Σ s₋ᵀ s̄,  b̄ = Σ s̄,  x̄ = s̄ Wᵀ

Row vectors; s₋ is s_{t-1}; v̄ is ∂L/∂v. Nothing of the values is needed to go back: the cotangent at step k is the one at step t
times (Uᵀ)^{t-k}.

Sources: Seo, "Only Numpy: Vanilla RNN"; Roelants, "How to implement a recurrent neural network", part 1 (s_k = x_k wx + s_{k-1} wrec).
"""

from functools import cache
from typing import NamedTuple

from jaxtyping import Array, Float

from gru_jax.cell import Cell
from gru_jax.cells.letters import check_for, initializer_for
from gru_jax.ops import affine, affine_dot, bias_sum, dot, outer_sum

Steps = Float[Array, "*t_b H"]


class LinearParams(NamedTuple):
    """Parameters of the linear RNN; also the type of their gradient."""

    W: Float[Array, "D H"]
    U: Float[Array, "H H"]
    b: Float[Array, " H"] | None


def project(params: LinearParams, xs: Float[Array, "*t_b D"]) -> Steps:
    """The input's share of the pre-activations, for all t: x W + b."""
    return affine(xs, params.W, params.b)


def gates(params: LinearParams, u: Steps, h: Steps) -> Steps:
    """(F1)."""
    return u + dot(h, params.U)  # (F1)


def update(g: Steps, h: Steps) -> Steps:
    """The new state."""
    return g


def coefficients(g: Steps, h_prev: Steps) -> tuple[()]:
    """None: the step is linear as it is."""
    return ()


def push(params: LinearParams, k: tuple[()], h_dot: Steps) -> Steps:
    """The tangent of a step by the state: what ḣ₋ becomes."""
    return dot(h_dot, params.U)  # (F1)˙


def drive(
    params: LinearParams,
    params_dot: LinearParams,
    xs: Float[Array, "*t_b D"],
    xs_dot: Float[Array, "*t_b D"],
    h_prevs: Steps,
    g: Steps,
    k: tuple[()],
) -> Steps:
    """The tangent of all steps by parameters and input: ws."""
    return affine_dot(xs, xs_dot, params.W, params_dot.W, params_dot.b) + dot(h_prevs, params_dot.U)  # (F1)˙


def pull(params_T: LinearParams, k: tuple[()], h_bar: Steps) -> Steps:
    """The adjoint of a step by the state: what h̄ becomes one step back."""
    return dot(h_bar, params_T.U)  # (F1)ᵀ


def collect(
    params: LinearParams, xs: Float[Array, "*t_b D"], h_prevs: Steps, g: Steps, k: tuple[()], h_bars: Steps
) -> tuple[LinearParams, Float[Array, "*t_b D"]]:
    """The adjoint of all steps by parameters and input: (params̄, x̄s)."""
    params_bar = LinearParams(
        W=outer_sum(xs, h_bars, params.W), U=outer_sum(h_prevs, h_bars, params.U), b=bias_sum(h_bars, params.b)
    )
    return params_bar, dot(h_bars, params.W.T)


def linear_rnn() -> Cell:
    """The linear RNN, s_t = x_t W + s_{t-1} U + b, as a `Cell`; the same object at every call.

    Parameters: `LinearParams(W, U, b)` with W (D, H), U (H, H), b (H,) or None.
    """
    return _linear_rnn()


@cache
def _linear_rnn() -> Cell:
    return Cell(
        name="linear_rnn()",
        init=initializer_for(LinearParams),
        check=check_for(LinearParams),
        project=project,
        gates=gates,
        update=update,
        coefficients=coefficients,
        push=push,
        drive=drive,
        pull=pull,
        collect=collect,
    )

"""The Elman RNN, the "vanilla" RNN of the tutorials and the tanh unit of Chung et al. 2014.

    (F1)   h = g₁(x W + h₋ U + b)                g₁ is tanh, ReLU, σ or the identity

    (F1)˙  ḣ = g₁′ ⊙ (ḣ₋ U) + w,  w = g₁′ ⊙ (ẋ W + x Ẇ + h₋ U̇ + ḃ)
    (F1)ᵀ  a = h̄ ⊙ g₁′,  h̄₋ = a Uᵀ
    after the loop:  W̄ = Σ xᵀ a,  Ū = Σ h₋ᵀ a,  b̄ = Σ a,  x̄ = a Wᵀ

Row vectors; h₋ is h_{t-1}; v̄ is ∂L/∂v; `a` is the cotangent of the pre-activation. Each g₁′ is a function of the value g₁
itself, so the states give it back. The read-out ŷ = g₂(h V + b_y) stands in `heads`: its V needs the current step only.
"""

from functools import cache, partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gru_jax._engine.validate import check_option
from gru_jax.cell import Cell
from gru_jax.cells.letters import check_for, initializer_for
from gru_jax.ops import affine, affine_dot, bias_sum, dot, outer_sum

Activation = Literal["tanh", "relu", "sigmoid", "identity"]
Steps = Float[Array, "*t_b H"]

# g₁, and g₁′ from the value h = g₁(a). ReLU's derivative at 0 is 0, as in jax.nn.relu.
ACTIVATIONS = {
    "tanh": (jnp.tanh, lambda h: 1 - h**2),
    "relu": (jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
    "sigmoid": (jax.nn.sigmoid, lambda h: h * (1 - h)),
    "identity": (lambda a: a, jnp.ones_like),
}


class ElmanParams(NamedTuple):
    """Parameters of the Elman RNN; also the type of their gradient."""

    W: Float[Array, "D H"]
    U: Float[Array, "H H"]
    b: Float[Array, " H"] | None


def project(params: ElmanParams, xs: Float[Array, "*t_b D"]) -> Steps:
    """The input's share of the pre-activations, for all t: x W + b."""
    return affine(xs, params.W, params.b)


def gates(activation: Activation, params: ElmanParams, u: Steps, h: Steps) -> Steps:
    """(F1)."""
    g1, _ = ACTIVATIONS[activation]
    return g1(u + dot(h, params.U))  # (F1)


def update(g: Steps, h: Steps) -> Steps:
    """The new state."""
    return g


def gates_from_state(h: Steps) -> Steps:
    """The value of (F1) is the new state."""
    return h


def coefficients(activation: Activation, g: Steps, h_prev: Steps) -> Steps:
    """g₁′, from the value."""
    _, g1_prime = ACTIVATIONS[activation]
    return g1_prime(g)


def push(params: ElmanParams, k: Steps, h_dot: Steps) -> Steps:
    """The tangent of a step by the state: what ḣ₋ becomes."""
    return k * dot(h_dot, params.U)  # (F1)˙


def drive(
    params: ElmanParams,
    params_dot: ElmanParams,
    xs: Float[Array, "*t_b D"],
    xs_dot: Float[Array, "*t_b D"],
    h_prevs: Steps,
    g: Steps,
    k: Steps,
) -> Steps:
    """The tangent of all steps by parameters and input: ws."""
    return k * (affine_dot(xs, xs_dot, params.W, params_dot.W, params_dot.b) + dot(h_prevs, params_dot.U))  # (F1)˙


def pull(params_T: ElmanParams, k: Steps, h_bar: Steps) -> Steps:
    """The adjoint of a step by the state: what h̄ becomes one step back."""
    a = h_bar * k  # (F1)ᵀ
    return dot(a, params_T.U)


def collect(
    params: ElmanParams, xs: Float[Array, "*t_b D"], h_prevs: Steps, g: Steps, k: Steps, h_bars: Steps
) -> tuple[ElmanParams, Float[Array, "*t_b D"]]:
    """The adjoint of all steps by parameters and input: (params̄, x̄s)."""
    a = h_bars * k  # (F1)ᵀ
    return ElmanParams(W=outer_sum(xs, a, params.W), U=outer_sum(h_prevs, a, params.U), b=bias_sum(a, params.b)), dot(
        a, params.W.T
    )


def elman(activation: Activation = "tanh") -> Cell:
    """The Elman RNN, h_t = g₁(x_t W + h_{t-1} U + b), as a `Cell`; the same object at every call.

    Args:
        activation: g₁, one of `"tanh"`, `"relu"`, `"sigmoid"`, `"identity"`.

    Parameters: `ElmanParams(W, U, b)` with W (D, H), U (H, H), b (H,) or None.

    Raises:
        ValueError: an unknown activation.
    """
    check_option("activation", activation, get_args(Activation))
    return _elman(activation)


@cache
def _elman(activation: Activation) -> Cell:
    return Cell(
        name=f"elman({activation!r})",
        init=initializer_for(ElmanParams),
        check=check_for(ElmanParams),
        project=project,
        gates=partial(gates, activation),
        update=update,
        coefficients=partial(coefficients, activation),
        push=push,
        drive=drive,
        pull=pull,
        collect=collect,
        gates_from_state=gates_from_state,
    )

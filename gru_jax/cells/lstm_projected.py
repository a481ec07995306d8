"""The LSTM with a recurrent projection: the output is narrower than the memory (Sak et al. 2014,
arXiv 1402.1128, eqs. 1-6; PyTorch's `proj_size`).

    (F1) (F2)  i, f, g, c, o and m = o ⊙ φ(c) as in `lstm`, where m is called h
    (F3)       h = m R

    (F3)ᵀ      m̄ = h̄ Rᵀ
    (F2)ᵀ (F1)ᵀ  as in `lstm`, with m̄ in the place of h̄
    after the loop:  R̄ = Σ mᵀ h̄, and the others as in `lstm`

h has P units, the gates and the memory have H: U_k is (P, H), R is (H, P). The projection is linear,
so the adjoint and the tangent are those of the LSTM with one product more.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from gru_jax._engine.functions import bind
from gru_jax._jax.export import serializable
from gru_jax.cell import Adjoint, Cell, Tangent
from gru_jax.cells import lstm
from gru_jax.cells.activations import Activation
from gru_jax.cells.letters import LetteredCheck, LetteredInit
from gru_jax.cells.lstm import Coefficients, Gates, LSTMParams, LSTMState, Projected
from gru_jax.ops import dot, outer_sum

Steps = Float[Array, "*t_b H"]
Outputs = Float[Array, "*t_b P"]
Inputs = Float[Array, "*t_b D"]


@serializable
class LSTMProjectedParams(NamedTuple):
    """Parameters of the projected LSTM; also the type of their gradient."""

    W_i: Float[Array, "D H"]
    U_i: Float[Array, "P H"]
    b_i: Float[Array, " H"] | None
    W_f: Float[Array, "D H"]
    U_f: Float[Array, "P H"]
    b_f: Float[Array, " H"] | None
    W_g: Float[Array, "D H"]
    U_g: Float[Array, "P H"]
    b_g: Float[Array, " H"] | None
    W_o: Float[Array, "D H"]
    U_o: Float[Array, "P H"]
    b_o: Float[Array, " H"] | None
    R: Float[Array, "H P"]
    p_i: Float[Array, " H"] | None = None
    p_f: Float[Array, " H"] | None = None
    p_o: Float[Array, " H"] | None = None


class ProjectedGates(NamedTuple):
    """The values of a step: those of the LSTM, and the output."""

    inner: Gates
    h: Outputs


def project(params: LSTMProjectedParams, xs: Inputs) -> Projected:
    """Computes the input's share of the pre-activations, x W + b, for all t."""
    return lstm.project(_inner(params), xs)


def gates(sigma: Activation, phi: Activation, params: LSTMProjectedParams, u: Projected, state: LSTMState) -> ProjectedGates:
    """Computes the values of a step, (F1) to (F3)."""
    g = lstm.gates(sigma, phi, _inner(params), u, state)  # (F1) (F2)
    return ProjectedGates(g, h=dot(g.o * phi(g.c), params.R))  # (F3)


def update(g: ProjectedGates, state: LSTMState) -> LSTMState:
    """Returns the new state."""
    return LSTMState(h=g.h, c=g.inner.c)


def linearize(sigma: Activation, phi: Activation, g: ProjectedGates, state_prev: LSTMState) -> Coefficients:
    """Computes the coefficients of the linearised step, for all t."""
    return lstm.linearize(sigma, phi, g.inner, state_prev)


def state_jvp(params: LSTMProjectedParams, k: Coefficients, state_dot: LSTMState) -> LSTMState:
    """Computes the tangent of a step with respect to the previous state."""
    m_dot, c_dot = lstm.state_jvp(_inner(params), k, state_dot)
    return LSTMState(h=dot(m_dot, params.R), c=c_dot)  # (F3)˙


def input_jvp(
    phi: Activation,
    params: LSTMProjectedParams,
    params_dot: LSTMProjectedParams,
    xs: Inputs,
    xs_dot: Inputs,
    prevs: LSTMState,
    g: ProjectedGates,
    k: Coefficients,
) -> LSTMState:
    """Computes the tangent of all steps with respect to parameters and input, ws."""
    m = g.inner.o * phi(g.inner.c)  # (F2)
    m_dot, c_dot = lstm.input_jvp(_inner(params), _inner(params_dot), xs, xs_dot, prevs, g.inner, k)
    return LSTMState(h=dot(m_dot, params.R) + dot(m, params_dot.R), c=c_dot)  # (F3)˙


def state_vjp(params_T: LSTMProjectedParams, k: Coefficients, state_bar: LSTMState) -> LSTMState:
    """Computes the cotangent of the previous state from that of the state."""
    m_bar = dot(state_bar.h, params_T.R)  # (F3)ᵀ
    return lstm.state_vjp(_inner(params_T), k, LSTMState(m_bar, state_bar.c))


def input_vjp(
    phi: Activation,
    params: LSTMProjectedParams,
    xs: Inputs,
    prevs: LSTMState,
    g: ProjectedGates,
    k: Coefficients,
    state_bars: LSTMState,
) -> tuple[LSTMProjectedParams, Inputs]:
    """Computes the cotangents of parameters and input from those of all states, (params̄, x̄s)."""
    h_bars, c_bars = state_bars
    m_bars = dot(h_bars, params.R.T)  # (F3)ᵀ
    inner_bar, xs_bar = lstm.input_vjp(_inner(params), xs, prevs, g.inner, k, LSTMState(m_bars, c_bars))
    R_bar = outer_sum(g.inner.o * phi(g.inner.c), h_bars, params.R)  # (F3)ᵀ
    return LSTMProjectedParams(**inner_bar._asdict(), R=R_bar), xs_bar


def zero_state(params: LSTMProjectedParams) -> LSTMState:
    """Returns the zero state without batch axes."""
    memory, output = params.R.shape
    return LSTMState(jnp.zeros(output, params.R.dtype), jnp.zeros(memory, params.R.dtype))


def _inner(params: LSTMProjectedParams) -> LSTMParams:
    """The parameters without R."""
    return LSTMParams(*(getattr(params, field) for field in LSTMParams._fields))


def lstm_projected(
    proj_size: int, absent: tuple[str, ...], required: tuple[str, ...], sigma: Activation, phi: Activation, name: str
) -> Cell:
    """Makes the cell of `gj.lstm(proj_size=…)`."""
    return Cell(
        init=LetteredInit(LSTMProjectedParams, absent, proj_size),
        project=project,
        gates=bind(gates, sigma, phi),
        update=update,
        adjoint=Adjoint(bind(linearize, sigma, phi), bind(input_vjp, phi), state_vjp),
        tangent=Tangent(bind(input_jvp, phi), state_jvp),
        output=lstm.output,
        zero_state=zero_state,
        params_type=LSTMProjectedParams,
        check_params=LetteredCheck(LSTMProjectedParams, absent, required, proj_size),
        name=name,
    )

"""`gj.lstm`: makes the cell of `lstm`, or of `lstm_projected` where the output is projected."""

from functools import cache

from gru_jax._engine.arguments import check_flag, check_positive_int
from gru_jax._engine.functions import bind
from gru_jax.cell import Adjoint, Cell, Tangent
from gru_jax.cells import lstm as equations
from gru_jax.cells.activations import Activation, ActivationLike, checked_activation, options
from gru_jax.cells.letters import LetteredCheck, LetteredInit
from gru_jax.cells.lstm_projected import lstm_projected

PEEPHOLES = ("p_i", "p_f", "p_o")


def lstm(
    peephole: bool = False,
    *,
    proj_size: int | None = None,
    gate_activation: ActivationLike = "sigmoid",
    activation: ActivationLike = "tanh",
) -> Cell:
    """Makes an LSTM. Its state is `gj.cells.LSTMState(h, c)`, its output h.

        i = σ(x W_i + h₋ U_i + b_i),  f = σ(x W_f + h₋ U_f + b_f),  g = tanh(x W_g + h₋ U_g + b_g)
        c = f ⊙ c₋ + i ⊙ g,  o = σ(x W_o + h₋ U_o + b_o),  h = o ⊙ tanh(c)
        h = (o ⊙ tanh(c)) R                                         with proj_size

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.lstm()
        >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> params = params._replace(b_f=jax.numpy.ones_like(params.b_f))     # remembers from the start
        >>> (h, c), ys = gj.unroll(cell, params, jax.numpy.ones((5, 2, 3)))
        >>> h.shape, c.shape
        ((2, 4), (2, 4))

    Args:
        peephole: If True, the gates see the memory as in Chung et al. 2014: p_i ⊙ c₋ in i, p_f ⊙ c₋
            in f, p_o ⊙ c in o. Defaults to False.
        proj_size: P, the size of h, if it is projected (Sak et al. 2014, arXiv 1402.1128; PyTorch's
            `proj_size`). The memory c keeps the hidden size. Defaults to None: no projection.
        gate_activation: σ, a name that `gj.cells.Activation` lists, or a `gj.cells.Activation`.
            Defaults to `"sigmoid"`.
        activation: The function of the candidate and of the memory, likewise. Defaults to `"tanh"`.

    Returns:
        A cell with parameters `gj.cells.LSTMParams(W_i, U_i, b_i, W_f, …, W_g, …, W_o, …, p_i, p_f,
        p_o)`: W (D, H), U (H, H), biases (H,) or None, peepholes (H,), or None without them. With
        `proj_size` they are `gj.cells.LSTMProjectedParams`: U (P, H), and R (H, P) too. All
        biases start at 0, the forget gate's too; `gj.initializers.chrono` sets them for long
        memories.

    Raises:
        TypeError: If `peephole` is not a bool, `proj_size` is not an int, or an activation is
            neither a name nor a `gj.cells.Activation`.
        ValueError: If an activation is unknown, or `proj_size` is below 1.
    """
    sigma, phi = checked_activation("gate_activation", gate_activation), checked_activation("activation", activation)
    size = None if proj_size is None else check_positive_int("proj_size", proj_size)
    return _lstm(check_flag("peephole", peephole), size, sigma, phi)


@cache
def _lstm(peephole: bool, proj_size: int | None, sigma: Activation, phi: Activation) -> Cell:
    """Makes the cell, once for equal arguments."""
    absent, required = ((), PEEPHOLES) if peephole else (PEEPHOLES, ())
    others = options(gate_activation=(sigma, "sigmoid"), activation=(phi, "tanh"))
    size = "" if proj_size is None else f"proj_size={proj_size}"
    name = f"lstm({', '.join(filter(None, (f'peephole={peephole}', size, others)))})"
    if proj_size is not None:
        return lstm_projected(proj_size, absent, required, sigma, phi, name)
    return Cell(
        init=LetteredInit(equations.LSTMParams, absent),
        project=equations.project,
        gates=bind(equations.gates, sigma, phi),
        update=bind(equations.update, phi),
        adjoint=Adjoint(bind(equations.linearize, sigma, phi), equations.input_vjp, equations.state_vjp),
        tangent=Tangent(equations.input_jvp, equations.state_jvp),
        output=equations.output,
        zero_state=equations.zero_state,
        params_type=equations.LSTMParams,
        check_params=LetteredCheck(equations.LSTMParams, absent, required),
        name=name,
    )

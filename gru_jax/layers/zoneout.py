"""Zoneout: a unit keeps its old state with a given probability, drawn for every step.

    (Z)   h = z ⊙ h₋ + (1 − z) ⊙ h′,  h′ the cell's new state,  z ∈ {0, 1} with P(z = 1) = rate; its expectation for evaluation

    (Z)˙  ḣ = z ⊙ ḣ₋ + (1 − z) ⊙ ḣ′
    (Z)ᵀ  h̄′ = (1 − z) ⊙ h̄,  h̄₋ += z ⊙ h̄

The cell's own functions are used as they are, so its derivation carries over.

Source: Krueger et al. 2017 (arXiv 1606.01305).
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine.functions import bind
from gru_jax._engine.inputs import leading_shape
from gru_jax._engine.noise import NoiseKeys, split_keys
from gru_jax._jax.partition import is_inexact
from gru_jax.cell import Adjoint, Cell, Tangent
from gru_jax.layers.parts import any_rate, check_rates, check_single_cell, rate_of_each


class Zoned(NamedTuple):
    """A value of the cell, and z in the structure of the state.

    If z is None, the rates are used instead, for evaluation.
    """

    inner: Any
    z: Any


def sample_noise(cell: Cell, rates: Any, keys: NoiseKeys, params: Any, xs: Array) -> tuple[Any, Zoned]:
    """Draws z for every step, sequence and unit."""
    own, of_cell = split_keys(keys, 2)
    state, leading = cell._zeros(params), leading_shape(cell, xs)
    leaf_keys = iter(jax.random.split(own.per_step, len(jax.tree.leaves(state))))
    draw = lambda rate, leaf: jax.random.bernoulli(next(leaf_keys), rate, leading + leaf.shape)
    z = jax.tree.map(draw, _per_leaf(rates, state), state)
    if cell.sample_noise is not None:
        params, xs = cell.sample_noise(of_cell, params, xs)
    return params, Zoned(xs, z)


def project(cell: Cell, params: Any, xs: Any) -> Zoned:
    """Calls the cell's own, and passes z on."""
    xs = _zoned(xs)
    return Zoned(cell.project(params, xs.inner), xs.z)


def gates(cell: Cell, params: Any, u: Zoned, h: Any) -> Zoned:
    """Calls the cell's own, and passes z on."""
    return Zoned(cell.gates(params, u.inner, h), u.z)


def update(cell: Cell, rates: Any, g: Zoned, h: Any) -> Any:
    """Computes the new state, (Z)."""
    return _mix(rates, g.z, h, cell.update(g.inner, h))  # (Z)


def read_out(cell: Cell, params: Any, xs: Any, ys: Any) -> Any:
    """Calls the cell's own."""
    assert cell.read_out is not None
    return cell.read_out(params, _zoned(xs).inner, ys)


def linearize(adjoint: Adjoint, g: Zoned, h_prev: Any) -> Zoned:
    """Calls the cell's own, and passes z on."""
    return Zoned(adjoint.linearize(g.inner, h_prev), g.z)


def input_vjp(
    adjoint: Adjoint, rates: Any, params: Any, xs: Any, h_prevs: Any, g: Zoned, k: Zoned, h_bars: Any
) -> tuple[Any, Any]:
    """Computes the cotangents of parameters and input from those of all states."""
    new_bars = _renewed(rates, k.z, h_bars)  # (Z)ᵀ
    params_bar, xs_bar = adjoint.input_vjp(params, _zoned(xs).inner, h_prevs, g.inner, k.inner, new_bars)
    return params_bar, Zoned(xs_bar, None) if isinstance(xs, Zoned) else xs_bar


def state_vjp(adjoint: Adjoint, rates: Any, params_T: Any, k: Zoned, h_bar: Any) -> Any:
    """Computes the cotangent of the previous state from that of the state."""
    through_cell = adjoint.state_vjp(params_T, k.inner, _renewed(rates, k.z, h_bar))  # (Z)ᵀ
    return jax.tree.map(lambda z, h, p: _number(z, h) * h + p, _z(rates, k.z, h_bar), h_bar, through_cell)  # (Z)ᵀ


def input_jvp(
    tangent: Tangent, rates: Any, params: Any, params_dot: Any, xs: Any, xs_dot: Any, h_prevs: Any, g: Zoned, k: Zoned
) -> Any:
    """Computes the tangent of all steps with respect to parameters and input."""
    xs, xs_dot = _zoned(xs), _zoned(xs_dot)
    ws = tangent.input_jvp(params, params_dot, xs.inner, xs_dot.inner, h_prevs, g.inner, k.inner)
    return _renewed(rates, k.z, ws)  # (Z)˙


def state_jvp(tangent: Tangent, rates: Any, params: Any, k: Zoned, h_dot: Any) -> Any:
    """Computes the tangent of a step with respect to the previous state."""
    return _mix(rates, k.z, h_dot, tangent.state_jvp(params, k.inner, h_dot))  # (Z)˙


def zoneout(cell: Cell, rate: Any) -> Cell:
    """Adds zoneout to a cell (Krueger et al. 2017, arXiv 1606.01305).

        h = z ⊙ h₋ + (1 − z) ⊙ h′,   h′ the cell's new state, P(z = 1) = rate, drawn for every step, sequence and unit

    `unroll` then needs a `key`, and `step` a new one at each step. For evaluation,
    `.deterministic()` has z = rate, the expectation. Params and derivation are those of the cell.

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.zoneout(gj.lstm(), gj.cells.LSTMState(h=0.05, c=0.5))     # the rates of the paper
        >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> h_last, ys = gj.unroll(cell, params, jax.numpy.ones((5, 2, 3)), key=jax.random.key(1))
        >>> ys_expected = gj.unroll(cell.deterministic(), params, jax.numpy.ones((5, 2, 3)))[1]

    Args:
        cell: A cell such as `gj.gru()`.
        rate: The probability of keeping the old state, below 1; or one for each part of the state,
            for example `gj.cells.LSTMState(h=0.05, c=0.5)`. Integers and booleans of a state always
            change.

    Returns:
        A `gj.Cell`; `cell` unchanged if all rates are 0.

    Raises:
        TypeError: If `cell` is not a `gj.Cell`, or a rate is not a number.
        ValueError: If a rate is not in [0, 1).
    """
    check_single_cell(cell, "zoneout")
    rates = check_rates("rate", rate)
    if not any_rate(rates):
        return cell
    expectation = replace(_with_zoneout(cell.deterministic(), rates), sample_noise=None)
    return replace(_with_zoneout(cell, rates), evaluation_cell=expectation)


def _with_zoneout(cell: Cell, rates: Any) -> Cell:
    """The cell with each derivation that `cell` has."""
    adjoint, tangent = cell.adjoint, cell.tangent
    if adjoint is not None:
        adjoint = Adjoint(bind(linearize, adjoint), bind(input_vjp, adjoint, rates), bind(state_vjp, adjoint, rates))
    if tangent is not None:
        tangent = Tangent(bind(input_jvp, tangent, rates), bind(state_jvp, tangent, rates))
    return replace(
        cell,
        name=f"zoneout({cell.name}, {rates})",
        sample_noise=bind(sample_noise, cell, rates),
        project=bind(project, cell),
        gates=bind(gates, cell),
        update=bind(update, cell, rates),
        read_out=None if cell.read_out is None else bind(read_out, cell),
        adjoint=adjoint,
        tangent=tangent,
        zero_state=bind(zero_state, cell),
    )


def zero_state(cell: Cell, params: Any) -> Any:
    """Calls the cell's own."""
    return cell._zeros(params)


def _zoned(xs: Any) -> Zoned:
    return xs if isinstance(xs, Zoned) else Zoned(xs, None)


def _per_leaf(rates: Any, state: Any) -> Any:
    return rate_of_each(rates, state, "rate", "state")


def _z(rates: Any, z: Any, like: Any) -> Any:
    return _per_leaf(rates, like) if z is None else z


def _number(z: Any, like: Array) -> Any:
    return z.astype(like.dtype) if isinstance(z, jax.Array) else jnp.asarray(z, like.dtype)


def _mix(rates: Any, z: Any, old: Any, new: Any) -> Any:
    mix = lambda z, h, n: _number(z, h) * h + (1 - _number(z, h)) * n if is_inexact(n) else n
    return jax.tree.map(mix, _z(rates, z, old), old, new)


def _renewed(rates: Any, z: Any, tree: Any) -> Any:
    return jax.tree.map(lambda z, leaf: (1 - _number(z, leaf)) * leaf, _z(rates, z, tree), tree)

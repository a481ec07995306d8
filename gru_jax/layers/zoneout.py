"""Zoneout: a unit keeps its old state with a given probability, drawn anew for every step.

    (Z)   h = z ⊙ h₋ + (1 − z) ⊙ h′,  h′ the cell's new state,  z ∈ {0, 1} with P(z = 1) = rate; its expectation for evaluation

    (Z)˙  ḣ = z ⊙ ḣ₋ + (1 − z) ⊙ ḣ′
    (Z)ᵀ  h̄′ = (1 − z) ⊙ h̄,  h̄₋ += z ⊙ h̄

Krueger et al. 2017 (arXiv 1606.01305). The rows of the cell are used as they are, so its derivation is carried on.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine import validate
from gru_jax.cell import Cell
from gru_jax.layers.parts import check_rate


class Zoned(NamedTuple):
    """Something of the cell's, and z in the structure of the state (None: the rates themselves, for the expectation)."""

    inner: Any
    z: Any


def randomize(cell: Cell, rates: Any, key: Array, params: Any, xs: Array) -> tuple[Any, Zoned]:
    """Draws z for every step, sequence and unit."""
    own, inner = jax.random.split(key)
    state = validate.zero_state(cell, params)
    keys = iter(jax.random.split(own, len(jax.tree.leaves(state))))
    draw = lambda rate, leaf: jax.random.bernoulli(next(keys), rate, xs.shape[:-1] + leaf.shape)
    z = jax.tree.map(draw, _per_leaf(rates, state), state)
    if cell.randomize is not None:
        params, xs = cell.randomize(inner, params, xs)
    return params, Zoned(xs, z)


def project(cell: Cell, params: Any, xs: Any) -> Zoned:
    """The cell's, beside z."""
    xs = _zoned(xs)
    return Zoned(cell.project(params, xs.inner), xs.z)


def gates(cell: Cell, params: Any, u: Zoned, h: Any) -> Zoned:
    """The cell's, beside z."""
    return Zoned(cell.gates(params, u.inner, h), u.z)


def update(cell: Cell, rates: Any, g: Zoned, h: Any) -> Any:
    """(Z)."""
    return _mix(rates, g.z, h, cell.update(g.inner, h))  # (Z)


def coefficients(cell: Cell, g: Zoned, h_prev: Any) -> Zoned:
    """The cell's, beside z."""
    assert cell.coefficients is not None
    return Zoned(cell.coefficients(g.inner, h_prev), g.z)


def push(cell: Cell, rates: Any, params: Any, k: Zoned, h_dot: Any) -> Any:
    """The tangent of a step by the state."""
    assert cell.push is not None
    return _mix(rates, k.z, h_dot, cell.push(params, k.inner, h_dot))  # (Z)˙


def drive(cell: Cell, rates: Any, params: Any, params_dot: Any, xs: Any, xs_dot: Any, h_prevs: Any, g: Zoned, k: Zoned) -> Any:
    """The tangent of all steps by parameters and input."""
    assert cell.drive is not None
    xs, xs_dot = _zoned(xs), _zoned(xs_dot)
    ws = cell.drive(params, params_dot, xs.inner, xs_dot.inner, h_prevs, g.inner, k.inner)
    return _renewed(rates, k.z, ws)  # (Z)˙


def pull(cell: Cell, rates: Any, params_T: Any, k: Zoned, h_bar: Any) -> Any:
    """The adjoint of a step by the state."""
    assert cell.pull is not None
    pulled = cell.pull(params_T, k.inner, _renewed(rates, k.z, h_bar))  # (Z)ᵀ
    return jax.tree.map(lambda z, h, p: _number(z, h) * h + p, _z(rates, k.z, h_bar), h_bar, pulled)  # (Z)ᵀ


def collect(cell: Cell, rates: Any, params: Any, xs: Any, h_prevs: Any, g: Zoned, k: Zoned, h_bars: Any) -> tuple[Any, Any]:
    """The adjoint of all steps by parameters and input."""
    assert cell.collect is not None
    params_bar, xs_bar = cell.collect(
        params,
        _zoned(xs).inner,
        h_prevs,
        g.inner,
        k.inner,
        _renewed(rates, k.z, h_bars),  # (Z)ᵀ
    )
    return params_bar, Zoned(xs_bar, None) if isinstance(xs, Zoned) else xs_bar


def zoneout(cell: Cell, rate: Any) -> Cell:
    """`cell` with zoneout (Krueger et al. 2017, arXiv 1606.01305); the same object for the same arguments.

        h = z ⊙ h₋ + (1 − z) ⊙ h′,   h′ the cell's new state, P(z = 1) = rate, drawn for every step, sequence and unit

    `unroll` needs a `key`. For evaluation, and for `step`, `zoneout(cell, rate).deterministic()` has z = rate, the expectation.
    Params and derivation are those of the cell.

    Args:
        cell: such as `gj.gru()`.
        rate: the probability of keeping the old state, below 1; or one for each part of the state, for an LSTM say
            `LSTMState(h=0.05, c=0.5)`, as in the paper.

    Raises:
        TypeError: no cell.
        ValueError: a rate outside [0, 1).
    """
    validate.check_cell(cell)
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: got {cell.name}, expected a gj.Cell. Put zoneout on the cells inside: it acts on each step.")
    jax.tree.map(partial(check_rate, "rate"), rate)
    return _zoneout(cell, rate)


@cache
def _zoneout(cell: Cell, rates: Any) -> Cell:
    if not any(jax.tree.leaves(rates)):
        return cell
    with_noise = _cell(cell, rates)
    expectation = _cell(cell.deterministic(), rates)._replace(randomize=None)
    return with_noise._replace(expectation=expectation)


def _cell(cell: Cell, rates: Any) -> Cell:
    """The cell with each row that `cell` has."""
    of = lambda function, field, *args: None if getattr(cell, field) is None else partial(function, cell, *args)
    return cell._replace(
        name=f"zoneout({cell.name}, {rates})",
        randomize=partial(randomize, cell, rates),
        project=partial(project, cell),
        gates=partial(gates, cell),
        update=partial(update, cell, rates),
        coefficients=of(coefficients, "coefficients"),
        push=of(push, "push", rates),
        drive=of(drive, "drive", rates),
        pull=of(pull, "pull", rates),
        collect=of(collect, "collect", rates),
        gates_from_state=None,
        zero_state=partial(validate.zero_state, cell),
    )


def _zoned(xs: Any) -> Zoned:
    return xs if isinstance(xs, Zoned) else Zoned(xs, None)


def _per_leaf(rates: Any, state: Any) -> Any:
    return jax.tree.map(lambda leaf: rates, state) if isinstance(rates, int | float) else rates


def _z(rates: Any, z: Any, like: Any) -> Any:
    return _per_leaf(rates, like) if z is None else z


def _number(z: Any, like: Array) -> Any:
    return z.astype(like.dtype) if isinstance(z, jax.Array) else jnp.asarray(z, like.dtype)


def _mix(rates: Any, z: Any, old: Any, new: Any) -> Any:
    return jax.tree.map(lambda z, h, n: _number(z, h) * h + (1 - _number(z, h)) * n, _z(rates, z, old), old, new)


def _renewed(rates: Any, z: Any, tree: Any) -> Any:
    return jax.tree.map(lambda z, leaf: (1 - _number(z, leaf)) * leaf, _z(rates, z, tree), tree)

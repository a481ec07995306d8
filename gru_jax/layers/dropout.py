"""Variational dropout: one mask for all steps of a sequence, on the inputs and on the state that
the recurrent matmuls see.

    x ← x ⊙ m_x / (1 − p_x),   gates(params, u, h₋ ⊙ m_h / (1 − p_h)),   update(g, h₋) with the whole h₋

The state that a gate carries over is not dropped, because a share of it would be lost at every
step.

With `per_gate` each gate k has its own masks, as in the GRU and the LSTM of Keras:

    (x ⊙ m_xk / (1 − p_x)) W_k,   (h₋ ⊙ m_hk / (1 − p_h)) U_k

Source: Gal and Ghahramani 2016 (arXiv 1512.05287).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from gru_jax._engine.arguments import check_flag
from gru_jax._engine.functions import bind
from gru_jax._engine.inputs import leading_shape
from gru_jax._engine.masked_weight import MaskedWeight
from gru_jax._engine.noise import NoiseKeys, split_keys
from gru_jax.cell import Cell
from gru_jax.layers.parts import any_rate, check_rate, check_rates, check_single_cell, rate_of_each


class DroppedParams(NamedTuple):
    """The cell's params, and the mask of the units that its gates see."""

    params: Any
    keep: Bool[Array, "*b H"]


def sample_noise(cell: Cell, p_x: Any, p_h: float, keys: NoiseKeys, params: Any, xs: Any) -> tuple[Any, Any]:
    """Draws a mask per sequence for the inputs, applies it, and draws one for the state."""
    own, of_cell = split_keys(keys, 2)
    key_x, key_h = jax.random.split(own.per_sequence)
    keep = None
    if p_h:
        keep = jax.random.bernoulli(key_h, 1 - p_h, leading_shape(cell, xs)[1:] + _hidden(cell._zeros(params)).shape)
    if any_rate(p_x):
        xs = drop_inputs(p_x, key_x, xs)
    if cell.sample_noise is not None:
        params, xs = cell.sample_noise(of_cell, params, xs)
    return (params if keep is None else DroppedParams(params, keep)), xs


def sample_noise_per_gate(cell: Cell, p_x: float, p_h: float, keys: NoiseKeys, params: Any, xs: Any) -> tuple[Any, Any]:
    """Draws a mask per sequence for each input weight and each recurrent weight."""
    batch, rates = leading_shape(cell, xs)[1:], {"W": p_x, "U": p_h}

    def masked(field: str, weight: Array, key: Array) -> Any:
        rate = rates.get(field[0], 0.0)
        if not rate:
            return weight
        keep = jax.random.bernoulli(key, 1 - rate, (*batch, weight.shape[0]))
        return MaskedWeight(weight / (1 - rate), keep)

    fields = zip(params._fields, params, jax.random.split(keys.per_sequence, len(params)), strict=True)
    return type(params)(*(masked(field, leaf, key) for field, leaf, key in fields)), xs


def drop_inputs(rates: Any, key: Array, xs: Any) -> Any:
    """Drops features of each array of the inputs, the same at all steps of a sequence."""
    arrays = len(jax.tree.leaves(xs))
    keys = iter([key] if arrays == 1 else jax.random.split(key, arrays))

    def drop(rate: float, x: Array) -> Array:
        own = next(keys)
        return jnp.where(jax.random.bernoulli(own, 1 - rate, (1, *x.shape[1:])), x / (1 - rate), 0) if rate else x

    return jax.tree.map(drop, rate_of_each(rates, xs, "inputs", "xs"), xs)


def project(cell: Cell, params: DroppedParams, xs: Any) -> Any:
    """Calls the cell's own."""
    return cell.project(params.params, xs)


def gates(cell: Cell, p_h: float, params: DroppedParams, u: Any, h: Any) -> Any:
    """Calls the cell's own with units of the state dropped."""
    hidden = _hidden(h)
    keep = jnp.expand_dims(params.keep, tuple(range(hidden.ndim - params.keep.ndim)))
    dropped = jnp.where(keep, hidden / (1 - p_h), 0)
    if isinstance(h, Mapping):
        return cell.gates(params.params, u, {**h, "h": dropped})
    return cell.gates(params.params, u, h._replace(h=dropped) if hasattr(h, "_replace") else dropped)


def read_out(cell: Cell, params: DroppedParams, xs: Any, ys: Any) -> Any:
    """Calls the cell's own."""
    assert cell.read_out is not None
    return cell.read_out(params.params, xs, ys)


def zero_state(cell: Cell, params: Any) -> Any:
    """Calls the cell's, with its params or with those that `sample_noise` returns."""
    return cell._zeros(params.params if isinstance(params, DroppedParams) else params)


def variational_dropout(cell: Cell, *, inputs: Any = 0.0, state: float = 0.0, per_gate: bool = False) -> Cell:
    """Adds variational dropout to a cell (Gal and Ghahramani 2016, arXiv 1512.05287).

    One mask per sequence, the same at all its steps, is drawn from the `key` that `unroll` then
    needs. `step` needs a pair of keys, of which the first is the same at all steps of a sequence.
    For evaluation use `.deterministic()`, which is the cell itself. The params are the cell's.

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.variational_dropout(gj.gru(), inputs=0.1, state=0.2)
        >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> h_last, ys = gj.unroll(cell, params, jax.numpy.ones((5, 2, 3)), key=jax.random.key(1))
        >>> cell.deterministic() == gj.gru()
        True

    Args:
        cell: A cell such as `gj.gru()`.
        inputs: The probability of zeroing an input feature; the others are scaled by 1 / (1 -
            inputs). For inputs of several arrays: one for all arrays but integers and booleans,
            which stay, or one for each array in the structure of `xs`, for example `(0.2, 0.0)` for
            features and time gaps. Defaults to 0.
        state: The probability of hiding a unit from the gates, an LSTM's h. The old state and the
            memory that a gate carries over stay whole. With it the cell loses its derivation, which
            has a single h₋: the engine's local one takes its place and evaluates the gates once
            more per step. Defaults to 0.
        per_gate: If True, each gate has its own masks, for its input and for its state, as
            `dropout` and `recurrent_dropout` of Keras' GRU and LSTM with `implementation=1`. Only
            for the cells of this package; they too lose their derivation. If False, all gates share
            one mask, as in Keras' SimpleRNN. Defaults to False.

    Returns:
        A `gj.Cell`; `cell` unchanged if both probabilities are 0.

    Raises:
        TypeError: If `cell` is not a `gj.Cell`, is a custom cell with `per_gate`, or a probability
            is not a number; in `unroll`, if `inputs` has another structure than `xs`.
        ValueError: If a probability is not in [0, 1).
    """
    check_single_cell(cell, "the dropout")
    p_x, p_h, per_gate = check_rates("inputs", inputs), check_rate("state", state), check_flag("per_gate", per_gate)
    if not any_rate(p_x) and not p_h:
        return cell
    if per_gate:
        return _with_masks_of_each_gate(cell, p_x, p_h)
    dropped = replace(
        cell,
        name=f"variational_dropout({cell.name}, inputs={p_x}, state={p_h})",
        sample_noise=bind(sample_noise, cell, p_x, p_h),
        evaluation_cell=cell.deterministic(),
    )
    if not p_h:
        return dropped
    return replace(
        dropped,
        project=bind(project, cell),
        gates=bind(gates, cell, p_h),
        read_out=None if cell.read_out is None else bind(read_out, cell),
        adjoint=None,
        tangent=None,
        zero_state=bind(zero_state, cell),
    )


def _with_masks_of_each_gate(cell: Cell, p_x: Any, p_h: float) -> Cell:
    """Makes the cell whose weights drop units of their operands."""
    if None in (cell.params_type, cell.check_params) or cell.sample_noise is not None:
        raise TypeError(
            f"cell: got {cell.name} with per_gate=True, expected a cell of this package without noise: the masks of gates follow "
            "the names of its params. Use per_gate=False, or draw the masks in sample_noise of your cell."
        )
    return replace(
        cell,
        name=f"variational_dropout({cell.name}, inputs={p_x}, state={p_h}, per_gate=True)",
        sample_noise=bind(sample_noise_per_gate, cell, check_rate("inputs", p_x), p_h),
        evaluation_cell=cell,
        adjoint=None,
        tangent=None,
    )


def _hidden(state: Any) -> Any:
    """The part of a state that the recurrent matmuls see."""
    if isinstance(state, Mapping) and "h" in state:
        return state["h"]
    if hasattr(state, "h"):
        return state.h
    if isinstance(state, tuple | dict | list):
        raise TypeError(f"cell: got a state {type(state).__name__} without a field h, expected one array, or a field h.")
    return state

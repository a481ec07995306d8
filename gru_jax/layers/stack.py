"""Layers on each other: the outputs of one are the inputs of the next.

Each layer runs over the whole sequence before the next one starts, so its input projection is one matmul for all t.
"""

from collections.abc import Callable
from functools import cache
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine import validate
from gru_jax._engine.recursion import How
from gru_jax._engine.run import Ran, Sequence
from gru_jax.cell import initial_state
from gru_jax.layers.parts import check_cells, check_part, check_rate, split


class Stack(NamedTuple):
    """See `stack`."""

    cells: tuple[Any, ...]
    dropout: float
    variational: bool
    residual: bool

    @property
    def name(self) -> str:
        """For messages."""
        return f"stack([{', '.join(cell.name for cell in self.cells)}])"

    @property
    def needs_key(self) -> bool:
        """Whether `unroll` must be given a key."""
        return self.dropout > 0 or any(cell.needs_key for cell in self.cells)

    def init(self, key: Array, input_size: int, hidden_size: int | tuple[int, ...], **options: Any) -> tuple[Any, ...]:
        """Draws the parameters of every layer: a tuple.

        Args:
            key: a `jax.random` key, consumed here.
            input_size: D, of the first layer.
            hidden_size: H of every layer, or one for each.
            options: as for a cell's `init`.

        Raises:
            ValueError: as many sizes as layers are not given; else as a cell's `init`.
        """
        sizes = (hidden_size,) * len(self.cells) if isinstance(hidden_size, int | Integral) else tuple(hidden_size)
        if len(sizes) != len(self.cells):
            raise ValueError(f"hidden_size: got {hidden_size}, expected one number or {len(self.cells)}, one for each layer.")
        params = []
        for cell, k, size in zip(self.cells, jax.random.split(key, len(self.cells)), sizes, strict=True):
            params.append(cell.init(k, input_size, size, **options))
            input_size = cell.output_size(params[-1])
        return tuple(params)

    def check(self, params: Any) -> int | None:
        """Raises where `params` are not those of the layers; the input size of the first."""
        if not isinstance(params, tuple) or len(params) != len(self.cells):
            got = f"a tuple of {len(params)}" if isinstance(params, tuple) else type(params).__name__
            raise TypeError(
                f"params: got {got}, expected a tuple of {len(self.cells)}, one for each layer of {self.name}. "
                "Make them with cell.init(key, input_size, hidden_size)."
            )
        inputs = [check_part(cell, p, f"params[{i}]") for i, (cell, p) in enumerate(zip(self.cells, params, strict=True))]
        outputs = [cell.output_size(p) for cell, p in zip(self.cells, params, strict=True)]
        for i in range(1, len(inputs)):
            if inputs[i] not in (None, outputs[i - 1]):
                raise ValueError(
                    f"params[{i}]: got an input size of {inputs[i]}, expected {outputs[i - 1]}, the outputs of the layer below."
                )
            if self.residual and outputs[i] != outputs[i - 1]:
                raise ValueError(
                    f"params[{i}]: got {outputs[i]} outputs over {outputs[i - 1]} inputs, expected as many with residual=True."
                )
        return inputs[0]

    def zero_state(self, params: Any) -> tuple[Any, ...]:
        """One state per layer, without batch axes."""
        return tuple(validate.zero_state(cell, p) for cell, p in zip(self.cells, params, strict=True))

    def initial_state(self, params: Any, batch_shape: int | tuple[int, ...] = (), *, like: Array | None = None) -> Any:
        """The zero states of the layers, as `Cell.initial_state`."""
        return initial_state(self, params, batch_shape, like)

    def output_size(self, params: Any) -> int:
        """The last axis of `ys`."""
        return self.cells[-1].output_size(params[-1])

    def deterministic(self) -> "Stack":
        """The same without noise, for evaluation and for `step`."""
        return self._replace(cells=tuple(cell.deterministic() for cell in self.cells), dropout=0.0)

    def step(self, params: Any, h: Any, x: Array) -> tuple[Any, Array]:
        """One time step of every layer: (states, input) to (states, output). As `Cell.step`."""
        validate.check_no_noise(self)
        params, h, x = validate.check_step(self, params, h, x)
        states = []
        for i, cell in enumerate(self.cells):
            state, y = cell.step(params[i], h[i], x)
            states.append(state)
            x = self._joined(i, x, y)
        return tuple(states), x

    def run(self, run: Callable[..., Ran], how: How, derivative: str, params: Any, sequence: Sequence) -> Ran:
        """The layers over a validated sequence, for `unroll`."""
        top = len(self.cells) - 1
        keys = split(sequence.key, 2 * len(self.cells))
        below = how._replace(outputs="all" if how.outputs in ("all", "last") else "ys and states")
        xs, ran = sequence.xs, []
        for i, cell in enumerate(self.cells):
            reset_state = None if sequence.reset_state is None else sequence.reset_state[i]
            part = sequence._replace(xs=xs, h0=sequence.h0[i], reset_state=reset_state, key=keys[2 * i])
            ran.append(run(cell, how if i == top else below, derivative, params[i], part))
            if ran[-1].ys is not None:
                xs = self._joined(i, xs, ran[-1].ys)
                xs = xs if i == top else self._dropped(keys[2 * i + 1], xs)
        states = None if ran[-1].states is None else tuple(layer.states for layer in ran)
        return Ran(tuple(layer.h_last for layer in ran), None if ran[-1].ys is None else xs, states)

    def _joined(self, layer: int, x: Array, y: Array) -> Array:
        """The output of a layer, with its input added where the stack is residual; never below the second layer."""
        return x + y if self.residual and layer else y

    def _dropped(self, key: Array, ys: Array) -> Array:
        """Dropout between layers: one mask per step, or per sequence."""
        if not self.dropout:
            return ys
        shape = (1, *ys.shape[1:]) if self.variational else ys.shape
        keep = jax.random.bernoulli(key, 1 - self.dropout, shape)
        return jnp.where(keep, ys / (1 - self.dropout), 0)


def stack(cells: Any, *, dropout: float = 0.0, variational: bool = False, residual: bool = False) -> Stack:
    """Layers on each other; the same object for the same arguments.

        y⁰ = xs,   yˡ = layer_l(dropout(yˡ⁻¹))  (+ yˡ⁻¹ with residual, from the second layer on)

    Goes wherever a cell goes: `init` makes a tuple of the layers' params, its state is the tuple of theirs, `step` runs one
    step through all. `lengths`, `mask` and `resets` hold for every layer; `reset_state` is a tuple too.

    Args:
        cells: at least one: cells, `gj.bidirectional`, or what `gj.zoneout` and `gj.variational_dropout` make of a cell.
        dropout: the share of a layer's outputs that the next layer does not see; the rest is scaled by 1 / (1 - dropout). Between
            layers, as in PyTorch: not on the inputs of the first nor the outputs of the last. `unroll` then needs a `key`.
        variational: one dropout mask for all steps of a sequence (Gal and Ghahramani 2016, arXiv 1512.05287).
        residual: add to each layer's output its input, from the second layer on; the layers must have equal sizes.

    Raises:
        TypeError: not a list of cells.
        ValueError: a share outside [0, 1); dropout with a single layer, which has nothing between.
    """
    layers = check_cells(cells)
    if check_rate("dropout", dropout) and len(layers) == 1:
        raise ValueError(
            f"dropout: got {dropout} with one layer, expected at least two: it acts between layers. For one layer use "
            "gj.variational_dropout(cell, inputs=…, state=…), or drop from xs or ys."
        )
    return _stack(layers, float(dropout), bool(variational), bool(residual))


@cache
def _stack(cells: tuple[Any, ...], dropout: float, variational: bool, residual: bool) -> Stack:
    return Stack(cells, dropout, variational, residual)

"""A stack of layers: the outputs of one are the inputs of the next.

Each layer runs over the whole sequence before the next one starts, so its input projection is one
matmul for all t.
"""

from collections.abc import Sequence as Sequential
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine.arguments import check_flag
from gru_jax._engine.layer import CallOptions, Layer, LayerOutput, LayerRequest, Sequence
from gru_jax._engine.noise import NoiseKeys, split_keys
from gru_jax._engine.step_flags import zero_masked
from gru_jax._engine.structures import rebuild_tuple
from gru_jax._jax.keys import check_key
from gru_jax.layers.parts import check_cells, check_rate
from gru_jax.layers.wiring import checked_residual, connect, input_of, is_residual, sizes


@jax.tree_util.register_static
@dataclass(frozen=True)
class Stack(Layer):
    """Several layers on top of each other. `gj.stack` makes and documents it."""

    cells: tuple[Any, ...]
    dropout: float = 0.0
    variational: bool = False
    residual: bool | Literal["block"] | tuple[bool, ...] = False
    skip_connections: bool = False

    @property
    def name(self) -> str:
        """The name in error messages."""
        return f"stack([{', '.join(cell.name for cell in self.cells)}])"

    @property
    def needs_key(self) -> bool:
        """Whether `unroll` must be given a key."""
        return self.dropout > 0 or any(cell.needs_key for cell in self.cells)

    @property
    def num_feature_axes(self) -> Any:
        """How many trailing axes of each array of the inputs are features: of the first layer."""
        return self.cells[0].num_feature_axes

    def init(self, key: Array, input_size: int, hidden_size: int | tuple[int, ...], **options: Any) -> tuple[Any, ...]:
        """Draws the parameters of every layer.

        Example:
            >>> import jax, gru_jax as gj
            >>> params = gj.stack([gj.gru(), gj.lstm()]).init(jax.random.key(0), input_size=3, hidden_size=(4, 5))
            >>> params[1].W_i.shape
            (4, 5)

        Args:
            key: A `jax.random` key, consumed here.
            input_size: D of the first layer.
            hidden_size: H of every layer, or a tuple with one for each. For a stack inside, it may
                again be a tuple.
            options: The options of a cell's `init`, for all layers.

        Returns:
            A tuple with the params of each layer.

        Raises:
            ValueError: If the number of sizes is not the number of layers; otherwise as a cell's
                `init`.
            TypeError: If a layer below another has outputs of several arrays; otherwise as a cell's
                `init`.
        """
        check_key("key", key)
        if not isinstance(hidden_size, Integral | tuple | list):
            raise TypeError(f"hidden_size: got {hidden_size!r}, expected an int, or a tuple with one for each layer.")
        hidden = (hidden_size,) * len(self.cells) if isinstance(hidden_size, Integral) else tuple(hidden_size)
        if len(hidden) != len(self.cells):
            raise ValueError(f"hidden_size: got {hidden_size}, expected one int or {len(self.cells)}, one for each layer.")
        params: list[Any] = []
        own_size: int | None = input_size
        for i, (cell, k, size) in enumerate(zip(self.cells, jax.random.split(key, len(self.cells)), hidden, strict=True)):
            if own_size is None:
                raise TypeError(
                    f"cells[{i - 1}]: got {self.cells[i - 1].name}, whose output size is unknown, for example because it has several "
                    "arrays. Make the params of each layer by its own init, and pass them as a tuple."
                )
            params.append(cell.init(k, own_size, size, **options))
            own_size = input_of(self, input_size, cell._output_size(params[-1], own_size))
        return tuple(params)

    def _validated_params(self, params: Any, path: str = "params") -> tuple[Any, int | None]:
        """Returns the params as a tuple of the layers' own types, and the input size of the first.

        See `Layer`.
        """
        params = rebuild_tuple(params, len(self.cells))
        if not isinstance(params, tuple) or len(params) != len(self.cells) or hasattr(params, "_fields"):
            got = f"a tuple of {len(params)}" if type(params) is tuple else type(params).__name__
            raise TypeError(
                f"{path}: got {got}, expected a tuple of {len(self.cells)}, one for each layer of {self.name}. "
                "Make them with cell.init(key, input_size, hidden_size)."
            )
        validated = [
            cell._validated_params(p, f"{path}[{i}]") for i, (cell, p) in enumerate(zip(self.cells, params, strict=True))
        ]
        parts, inputs = tuple(p for p, _ in validated), [size for _, size in validated]
        expected, outputs = sizes(self, parts, inputs[0])
        for i in range(len(inputs)):
            if None not in (inputs[i], expected[i]) and inputs[i] != expected[i]:
                of_stack = ", and of the inputs of the stack" if self.skip_connections else ""
                raise ValueError(
                    f"{path}[{i}]: got an input size of {inputs[i]}, expected {expected[i]}, the output size of the layer below"
                    f"{of_stack}."
                )
            below = outputs[i - 1] if i else inputs[0]
            if is_residual(self.residual, i) and None not in (below, outputs[i]) and outputs[i] != below:
                raise ValueError(
                    f"{path}[{i}]: got {outputs[i]} outputs over {below} inputs, expected equal sizes with residual={self.residual}."
                )
        if self.residual == "block" and None not in (inputs[0], outputs[-1]) and inputs[0] != outputs[-1]:
            raise ValueError(
                f'{path}: got {outputs[-1]} outputs over {inputs[0]} inputs, expected equal sizes with residual="block".'
            )
        return parts, inputs[0]

    def _zeros(self, params: Any) -> tuple[Any, ...]:
        """Returns the zero state of each layer, without batch axes."""
        return tuple(cell._zeros(p) for cell, p in zip(self.cells, params, strict=True))

    def _output_size(self, params: Any, input_size: int | None) -> int | None:
        """Returns the size of the last axis of the outputs, or None if it is unknown."""
        _, outputs = sizes(self, params, input_size)
        if not self.skip_connections:
            return outputs[-1]
        return None if None in outputs else sum(size or 0 for size in outputs)

    def deterministic(self) -> "Stack":
        """Returns the stack without its noise, for evaluation and for `step`.

        The params are the same.
        """
        return replace(self, cells=tuple(cell.deterministic() for cell in self.cells), dropout=0.0)

    def _run(self, options: CallOptions, request: LayerRequest, params: Any, sequence: Sequence) -> LayerOutput:
        """Runs the layers one after the other over a validated sequence."""
        top = len(self.cells) - 1
        keys = split_keys(sequence.keys, 2 * len(self.cells))
        results: list[LayerOutput] = []

        def run(i, xs):
            reset_state = None if sequence.reset_state is None else sequence.reset_state[i]
            own = sequence._replace(xs=xs, h0=sequence.h0[i], reset_state=reset_state, keys=keys[2 * i])
            results.append(self.cells[i]._run(options, request if i == top else replace(request, outputs=True), params[i], own))
            return results[-1].ys

        drop = lambda i, ys: self._drop(keys[2 * i + 1], ys)
        ys = connect(self, sequence.xs, run, drop=drop, masked=partial(zero_masked, sequence.flags))
        states = tuple(layer.states for layer in results) if request.states else None
        return LayerOutput(tuple(layer.h_last for layer in results), ys, states)

    def _step(self, params: Any, h: Any, x: Any, keys: Any = None, compute_dtype: Any = None) -> tuple[Any, Any]:
        """Takes one time step through all layers with validated arguments."""
        layer_keys = split_keys(keys, 2 * len(self.cells))
        states = []

        def run(i, x):
            state, y = self.cells[i]._step(params[i], h[i], x, layer_keys[2 * i], compute_dtype)
            states.append(state)
            return y

        def drop(i, y):
            dropped = self._drop(layer_keys[2 * i + 1], jax.tree.map(lambda leaf: leaf[None], y))
            return jax.tree.map(lambda leaf: leaf[0], dropped)

        y = connect(self, x, run, drop=drop)
        return tuple(states), y

    def _drop(self, keys: NoiseKeys, ys: Any) -> Any:
        """Applies dropout between layers: one mask per step, or one per sequence."""
        if not self.dropout:
            return ys
        key, arrays = keys.per_sequence if self.variational else keys.per_step, len(jax.tree.leaves(ys))
        own_keys = iter([key] if arrays == 1 else jax.random.split(key, arrays))

        def drop(y: Array) -> Array:
            keep = jax.random.bernoulli(next(own_keys), 1 - self.dropout, (1, *y.shape[1:]) if self.variational else y.shape)
            # a rate of 1 drops all, and must not divide by 0
            return jnp.where(keep, y / (1 - self.dropout), 0) if self.dropout < 1 else jnp.zeros_like(y)

        return jax.tree.map(drop, ys)


def stack(
    cells: Any,
    *,
    dropout: float = 0.0,
    variational: bool = False,
    residual: bool | Literal["block"] | Sequential[bool] = False,
    skip_connections: bool = False,
) -> Stack:
    """Puts layers on top of each other.

        y⁰ = xs,   yˡ = layer_l(dropout(yˡ⁻¹))  (+ yˡ⁻¹ with residual, from the second layer on)
                   yˡ = layer_l([xs, dropout(yˡ⁻¹)]),  outputs [y¹, …, yᴸ]  with skip_connections

    A stack is used like a cell. `init` makes a tuple with the params of each layer, and the state
    is a tuple too. `lengths`, `mask` and `resets` apply to every layer.

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.stack([gj.gru(), gj.gru()], dropout=0.1)
        >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> (h1, h2), ys = gj.unroll(cell, params, jax.numpy.ones((5, 2, 3)), key=jax.random.key(1))
        >>> ys.shape
        (5, 2, 4)

    Args:
        cells: At least one layer: a cell, what `gj.zoneout` and `gj.variational_dropout` make of a
            cell, `gj.bidirectional`, `gj.feedforward`, or another stack.
        dropout: The probability of zeroing an output between two layers; the others are scaled by 1
            / (1 - dropout). A dropout of 1 zeroes all. As in PyTorch, it acts neither on the inputs
            of the first layer nor on the outputs of the last. `unroll` then needs a `key`. Defaults
            to 0.
        variational: If True, one dropout mask holds for all steps of a sequence (Gal and Ghahramani
            2016, arXiv 1512.05287). Defaults to False: one mask per step.
        residual: If True, adds to each layer's output its input, from the second layer on. The
            layers must have equal sizes. A list of bools, one for each layer, chooses the layers
            and may include the first. If `"block"`, adds the input of the stack to its output: the
            stack is then a residual block, which may be a layer of another stack. Defaults to
            False.
        skip_connections: If True, each layer also reads the inputs of the stack, and the outputs
            are those of all layers side by side (Graves 2013, arXiv 1308.0850, without weights on
            the way out; Haiku's `deep_rnn_with_skip_connections`). Defaults to False.

    Returns:
        A `Stack`.

    Raises:
        TypeError: If `cells` is not a list of cells, a layer above the first takes inputs of several
            arrays, or a flag is not a bool.
        ValueError: If the probability is not in [0, 1], `residual` is an unknown string or has
            another number of layers, or a single layer gets dropout, which has nothing to act on.
    """
    layers = check_cells(cells)
    for i, layer in enumerate(layers[1:], 1):
        if not isinstance(layer.num_feature_axes, int):
            raise TypeError(
                f"cells[{i}]: got {layer.name}, which takes inputs of several arrays, expected a layer that takes one array, the "
                "outputs of the layer below. Only the first layer may take several."
            )
    if check_rate("dropout", dropout, at_most_one=True) and len(layers) == 1:
        raise ValueError(
            f"dropout: got {dropout} with one layer, expected at least two, because it acts between layers. For one layer use "
            "gj.variational_dropout(cell, inputs=…, state=…), or apply dropout to xs or ys."
        )
    around = checked_residual(residual, len(layers))
    skip = check_flag("skip_connections", skip_connections)
    return Stack(layers, float(dropout), check_flag("variational", variational), around, skip)

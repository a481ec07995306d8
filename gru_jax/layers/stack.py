"""A stack of layers: the outputs of one are the inputs of the next.

Each layer runs over the whole sequence before the next one starts, so its input projection is one
matmul for all t.
"""

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine.arguments import check_flag, check_option
from gru_jax._engine.layer import CallOptions, Layer, LayerOutput, LayerRequest, Sequence
from gru_jax._engine.noise import NoiseKeys, split_keys
from gru_jax._engine.step_flags import zero_masked
from gru_jax._engine.structures import rebuild_tuple
from gru_jax.layers.parts import check_cells, check_rate


@jax.tree_util.register_static
@dataclass(frozen=True)
class Stack(Layer):
    """Several layers on top of each other. `gj.stack` makes and documents it."""

    cells: tuple[Any, ...]
    dropout: float = 0.0
    variational: bool = False
    residual: bool | Literal["block"] = False

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
            TypeError: As a cell's `init`.
        """
        sizes = (hidden_size,) * len(self.cells) if isinstance(hidden_size, int | Integral) else tuple(hidden_size)
        if len(sizes) != len(self.cells):
            raise ValueError(f"hidden_size: got {hidden_size}, expected one int or {len(self.cells)}, one for each layer.")
        params = []
        for cell, k, size in zip(self.cells, jax.random.split(key, len(self.cells)), sizes, strict=True):
            params.append(cell.init(k, input_size, size, **options))
            input_size = cell.output_size(params[-1], input_size)
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
        outputs = self._sizes(parts, inputs[0])
        for i in range(1, len(inputs)):
            if None not in (inputs[i], outputs[i - 1]) and inputs[i] != outputs[i - 1]:
                raise ValueError(
                    f"{path}[{i}]: got an input size of {inputs[i]}, expected {outputs[i - 1]}, the output size of the layer below."
                )
            if self.residual is True and None not in outputs and outputs[i] != outputs[i - 1]:
                raise ValueError(
                    f"{path}[{i}]: got {outputs[i]} outputs over {outputs[i - 1]} inputs, expected equal sizes with residual=True."
                )
        if self.residual == "block" and None not in (inputs[0], outputs[-1]) and inputs[0] != outputs[-1]:
            raise ValueError(
                f'{path}: got {outputs[-1]} outputs over {inputs[0]} inputs, expected equal sizes with residual="block".'
            )
        return parts, inputs[0]

    def _sizes(self, params: Any, input_size: int | None) -> list[int | None]:
        """The output size of each layer. None where it is unknown."""
        sizes: list[int | None] = []
        for cell, own in zip(self.cells, params, strict=True):
            sizes.append(cell._output_size(own, sizes[-1] if sizes else input_size))
        return sizes

    def _zeros(self, params: Any) -> tuple[Any, ...]:
        """Returns the zero state of each layer, without batch axes."""
        return tuple(cell._zeros(p) for cell, p in zip(self.cells, params, strict=True))

    def _output_size(self, params: Any, input_size: int | None) -> int | None:
        """Returns the size of the last axis of the outputs, or None if it is unknown."""
        return self._sizes(params, input_size)[-1]

    def deterministic(self) -> "Stack":
        """Returns the stack without its noise, for evaluation and for `step`.

        The params are the same.
        """
        return replace(self, cells=tuple(cell.deterministic() for cell in self.cells), dropout=0.0)

    def _run(self, options: CallOptions, request: LayerRequest, params: Any, sequence: Sequence) -> LayerOutput:
        """Runs the layers one after the other over a validated sequence."""
        top = len(self.cells) - 1
        keys = split_keys(sequence.keys, 2 * len(self.cells))
        xs, results = sequence.xs, []
        for i, cell in enumerate(self.cells):
            reset_state = None if sequence.reset_state is None else sequence.reset_state[i]
            own = sequence._replace(xs=xs, h0=sequence.h0[i], reset_state=reset_state, keys=keys[2 * i])
            results.append(cell._run(options, request if i == top else replace(request, outputs=True), params[i], own))
            if results[-1].ys is not None:
                xs = self._add_residual(i, xs, results[-1].ys)
                xs = xs if i == top else self._drop(keys[2 * i + 1], xs)
        ys = xs if request.outputs else None
        if request.outputs and self.residual == "block":
            ys = zero_masked(sequence.flags, sequence.xs) + xs
        states = tuple(layer.states for layer in results) if request.states else None
        return LayerOutput(tuple(layer.h_last for layer in results), ys, states)

    def _step(self, params: Any, h: Any, x: Any, keys: Any = None, compute_dtype: Any = None) -> tuple[Any, Any]:
        """Takes one time step through all layers with validated arguments."""
        top = len(self.cells) - 1
        layer_keys = split_keys(keys, 2 * len(self.cells))
        states, block_input = [], x
        for i, cell in enumerate(self.cells):
            state, y = cell._step(params[i], h[i], x, layer_keys[2 * i], compute_dtype)
            states.append(state)
            x = self._add_residual(i, x, y)
            x = x if i == top else self._drop(layer_keys[2 * i + 1], x[None])[0]
        return tuple(states), block_input + x if self.residual == "block" else x

    def _add_residual(self, layer: int, x: Array, y: Array) -> Array:
        """Adds a layer's input to its output in a residual stack, from the second layer on."""
        return x + y if self.residual is True and layer else y

    def _drop(self, keys: NoiseKeys, ys: Array) -> Array:
        """Applies dropout between layers: one mask per step, or one per sequence."""
        if not self.dropout:
            return ys
        key, shape = (keys.per_sequence, (1, *ys.shape[1:])) if self.variational else (keys.per_step, ys.shape)
        keep = jax.random.bernoulli(key, 1 - self.dropout, shape)
        return jnp.where(keep, ys / (1 - self.dropout), 0)


def stack(cells: Any, *, dropout: float = 0.0, variational: bool = False, residual: bool | Literal["block"] = False) -> Stack:
    """Puts layers on top of each other.

        y⁰ = xs,   yˡ = layer_l(dropout(yˡ⁻¹))  (+ yˡ⁻¹ with residual, from the second layer on)

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
            / (1 - dropout). As in PyTorch, it acts neither on the inputs of the first layer nor on
            the outputs of the last. `unroll` then needs a `key`. Defaults to 0.
        variational: If True, one dropout mask holds for all steps of a sequence (Gal and Ghahramani
            2016, arXiv 1512.05287). Defaults to False: one mask per step.
        residual: If True, adds to each layer's output its input, from the second layer on. The
            layers must have equal sizes. If `"block"`, adds the input of the stack to its output:
            the stack is then a residual block, which may be a layer of another stack. Defaults to
            False.

    Returns:
        A `Stack`.

    Raises:
        TypeError: If `cells` is not a list of cells, a layer above the first takes inputs of several
            arrays, or a flag is not a bool.
        ValueError: If a probability is not in [0, 1), `residual` is an unknown string, or a single
            layer gets dropout, which has nothing to act on.
    """
    layers = check_cells(cells)
    for i, layer in enumerate(layers[1:], 1):
        if not isinstance(layer.num_feature_axes, int):
            raise TypeError(
                f"cells[{i}]: got {layer.name}, which takes inputs of several arrays, expected a layer that takes one array, the "
                "outputs of the layer below. Only the first layer may take several."
            )
    if check_rate("dropout", dropout) and len(layers) == 1:
        raise ValueError(
            f"dropout: got {dropout} with one layer, expected at least two, because it acts between layers. For one layer use "
            "gj.variational_dropout(cell, inputs=…, state=…), or apply dropout to xs or ys."
        )
    if isinstance(residual, str):
        check_option("residual", residual, ("block",))
    else:
        residual = check_flag("residual", residual)
    return Stack(layers, float(dropout), check_flag("variational", variational), residual)

"""Both directions: one cell reads the sequence forward, one backward.

    y_t = [forward(x_1 … x_t), backward(x_T … x_t)]        concatenated, added, averaged, multiplied, or a pair

With `lengths` each sequence is read backward from its own last step, and the outputs of both
directions stay aligned with `xs`.

Source: Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine.arguments import check_option
from gru_jax._engine.layer import CallOptions, Layer, LayerOutput, LayerRequest, Sequence, check_cell
from gru_jax._engine.noise import split_keys
from gru_jax._engine.step_flags import flags_of_opposite_direction
from gru_jax._engine.structures import describe_structure, rebuild
from gru_jax._jax.export import serializable
from gru_jax._jax.keys import check_key

Merge = Literal["concat", "sum", "mean", "mul", None]


@serializable
class BidirectionalParams(NamedTuple):
    """The parameters of both cells; also the type of their gradient."""

    forward: Any
    backward: Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class Bidirectional(Layer):
    """Two cells, one for each direction. `gj.bidirectional` makes and documents it."""

    forward_cell: Any
    backward_cell: Any
    merge: Merge = "concat"

    @property
    def name(self) -> str:
        """The name in error messages."""
        return f"bidirectional({self.forward_cell.name}, {self.backward_cell.name}, merge={self.merge!r})"

    @property
    def needs_key(self) -> bool:
        """Whether `unroll` must be given a key."""
        return self.forward_cell.needs_key or self.backward_cell.needs_key

    @property
    def num_feature_axes(self) -> Any:
        """How many trailing axes of each array of the inputs are features."""
        return self.forward_cell.num_feature_axes

    def init(self, key: Array, input_size: int, hidden_size: int, **options: Any) -> BidirectionalParams:
        """Draws the parameters of both cells, each with `hidden_size` units.

        Args, raises: as a cell's `init`.

        Returns:
            `BidirectionalParams(forward, backward)`.
        """
        cells = (self.forward_cell, self.backward_cell)
        check_key("key", key)
        keys = jax.random.split(key)
        return BidirectionalParams(
            *(cell.init(k, input_size, hidden_size, **options) for cell, k in zip(cells, keys, strict=True))
        )

    def _validated_params(self, params: Any, path: str = "params") -> tuple[Any, int | None]:
        """Returns the params in the cells' own types, and the input size they are for.

        See `Layer`.
        """
        params = rebuild(params, BidirectionalParams, path)
        forward, forward_size = self.forward_cell._validated_params(params.forward, f"{path}.forward")
        backward, backward_size = self.backward_cell._validated_params(params.backward, f"{path}.backward")
        if None not in (forward_size, backward_size) and forward_size != backward_size:
            raise ValueError(f"{path}: got the input sizes {forward_size} forward and {backward_size} backward, expected one.")
        hidden = self.forward_cell._output_size(forward, None), self.backward_cell._output_size(backward, None)
        if self.merge not in ("concat", None) and None not in hidden and hidden[0] != hidden[1]:
            raise ValueError(
                f"{path}: got {hidden[0]} units forward and {hidden[1]} backward, expected equal numbers with "
                f'merge="{self.merge}". Use merge="concat".'
            )
        return BidirectionalParams(forward, backward), forward_size

    def _zeros(self, params: Any) -> tuple[Any, Any]:
        """Returns the zero states (forward, backward), without batch axes."""
        return self.forward_cell._zeros(params.forward), self.backward_cell._zeros(params.backward)

    def _output_size(self, params: Any, input_size: int | None) -> int | None:
        """Returns the size of the last axis of the outputs, or None if it is unknown."""
        forward = self.forward_cell._output_size(params.forward, input_size)
        backward = self.backward_cell._output_size(params.backward, input_size)
        if self.merge is None:
            return None
        if self.merge != "concat":
            return forward if backward is None else backward
        return None if forward is None or backward is None else forward + backward

    def deterministic(self) -> "Bidirectional":
        """Returns the layer without its noise, for evaluation. The params are the same."""
        return replace(self, forward_cell=self.forward_cell.deterministic(), backward_cell=self.backward_cell.deterministic())

    def step(self, params: Any, h: Any, x: Any) -> Any:
        """Raises a TypeError: the backward cell starts at the end of the sequence."""
        return self._step(params, h, x)

    def _step(self, params: Any, h: Any, x: Any, keys: Any = None, compute_dtype: Any = None) -> Any:
        """Raises a TypeError, as `step`."""
        raise TypeError(
            f"cell: got {self.name} in step, expected a cell with a forward direction: the backward one starts at the "
            "sequence's end. Use gj.unroll on the whole sequence."
        )

    def _run(self, options: CallOptions, request: LayerRequest, params: Any, sequence: Sequence) -> LayerOutput:
        """Runs both cells over a validated sequence."""
        keys = split_keys(sequence.keys, 2)
        reset_states = sequence.reset_state or (None, None)
        parts = [sequence._replace(h0=sequence.h0[i], reset_state=reset_states[i], keys=keys[i]) for i in range(2)]
        parts[1] = parts[1]._replace(flags=flags_of_opposite_direction(sequence.flags, reverse=request.reverse))
        backwards = replace(request, reverse=not request.reverse)
        forward = self.forward_cell._run(options, request, params.forward, parts[0])
        backward = self.backward_cell._run(options, backwards, params.backward, parts[1])
        ys = None
        if request.outputs:
            ys = _merged(self, forward.ys, backward.ys)
        states = (forward.states, backward.states) if request.states else None
        return LayerOutput((forward.h_last, backward.h_last), ys, states)


def _merged(layer: Bidirectional, forward: Any, backward: Any) -> Any:
    """The outputs of both directions, merged array by array."""
    if layer.merge is None:
        return forward, backward
    if jax.tree.structure(forward) != jax.tree.structure(backward):  # type: ignore[operator] # jax: PyTreeDef has no stub
        raise TypeError(
            f"forward_cell: got outputs {describe_structure(forward)} forward and {describe_structure(backward)} backward in "
            f"{layer.name}, expected the same structure. Use merge=None, which returns the pair."
        )
    return jax.tree.map(partial(_merged_array, layer.merge), forward, backward)


def _merged_array(merge: Merge, forward: Array, backward: Array) -> Array:
    if merge == "concat":
        return jnp.concatenate([forward, backward], axis=-1)
    if merge == "mul":
        return forward * backward
    return forward + backward if merge == "sum" else (forward + backward) / 2


def bidirectional(forward_cell: Any, backward_cell: Any = None, merge: Merge = "concat") -> Bidirectional:
    """Runs two cells over a sequence, one in each direction.

    It is used like a cell, except that it has no `step`. `unroll` returns the outputs of both, and
    the pair of last states: the backward cell's is the one after step 0.

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.bidirectional(gj.gru())
        >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> (h_forward, h_backward), ys = gj.unroll(cell, params, jax.numpy.ones((5, 2, 3)), lengths=jax.numpy.array([5, 3]))
        >>> ys.shape
        (5, 2, 8)

    Args:
        forward_cell: A cell such as `gj.gru()`, or a `gj.stack`.
        backward_cell: The cell of the other direction. Defaults to None: the same as
            `forward_cell`, with its own parameters.
        merge: `"concat"` puts the outputs of both side by side, `"sum"` adds, `"mean"` averages and
            `"mul"` multiplies them. None returns the pair (forward, backward). Defaults to
            `"concat"`.

    Returns:
        A `Bidirectional`, whose params are `BidirectionalParams(forward, backward)`.

    Raises:
        TypeError: If an argument is not a cell.
        ValueError: If `merge` is unknown, or the two cells take inputs of different forms.

    Each sequence is read backward from its own last valid step. `resets` mark the first steps of
    segments that are packed into one row. The forward cell resets there, and the backward cell at
    the last valid step of each segment before another, so no direction sees a neighbour.
    """
    check_cell(forward_cell)
    backward_cell = forward_cell if backward_cell is None else backward_cell
    check_cell(backward_cell)
    if merge is not None:
        check_option("merge", merge, get_args(Merge))
    forward_axes, backward_axes = forward_cell.num_feature_axes, backward_cell.num_feature_axes
    if forward_axes != backward_axes:
        raise ValueError(
            f"backward_cell: got num_feature_axes={backward_axes}, expected {forward_axes} as of the forward cell: both read xs."
        )
    return Bidirectional(forward_cell, backward_cell, merge)

"""The base class of cells, stacks and bidirectional layers, and the types of a call.

A layer validates its params, knows its zero state, and runs over a validated sequence. `Cell` runs
by the recursion; a stack and a bidirectional layer run their parts.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine import validate, validate_cell
from gru_jax._engine.arguments import describe
from gru_jax._engine.inputs import cast_inputs, shard_state_like
from gru_jax._engine.noise import NoiseKeys
from gru_jax._engine.plan import Device
from gru_jax._engine.step_flags import StepFlags
from gru_jax._jax.sharding import vary_like
from gru_jax.derivative import Derivative


@dataclass(frozen=True)
class CallOptions:
    """The static options of one call of `unroll`, the same for every layer of it."""

    derivative: Derivative
    device: Device
    compute_dtype: Any = None


@dataclass(frozen=True)
class LayerRequest:
    """What one layer is asked for: the direction, and what to return beside the last state."""

    reverse: bool = False
    outputs: bool = True
    states: bool = False


class Sequence(NamedTuple):
    """The arrays that a layer runs over: time-major, validated, with `h0` filled in."""

    xs: Any
    h0: Any
    reset_state: Any  # None stands for zeros
    flags: StepFlags
    keys: NoiseKeys | None


class LayerOutput(NamedTuple):
    """What a layer returns. `ys` and `states` are None unless they were requested."""

    h_last: Any
    ys: Any = None
    states: Any = None


def check_cell(cell: Any) -> None:
    """Raises unless `cell` is a cell or another layer, rather than the function that makes one."""
    if not isinstance(cell, Layer):
        hint = " Call the function that makes it: gj.gru() rather than gj.gru." if callable(cell) else ""
        raise TypeError(f"cell: got {describe(cell)}, expected a gj.Cell such as gj.gru().{hint}")


class Layer(ABC):
    """Base class of whatever `unroll` accepts."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in error messages."""

    @property
    @abstractmethod
    def needs_key(self) -> bool:
        """Whether the layer draws noise, and therefore needs a `key`."""

    @property
    @abstractmethod
    def num_feature_axes(self) -> Any:
        """How many trailing axes of each array of the inputs are features."""

    @abstractmethod
    def _validated_params(self, params: Any, path: str = "params") -> tuple[Any, int | None]:
        """Returns the params in this layer's own types, and the input size they are for (None if
        unknown).

        Raises:
            TypeError, ValueError: If they do not belong to this layer. The message names them by
            `path`.
        """

    @abstractmethod
    def _zeros(self, params: Any) -> Any:
        """Returns the zero state without batch axes."""

    @abstractmethod
    def _run(self, options: CallOptions, request: LayerRequest, params: Any, sequence: Sequence) -> LayerOutput:
        """Runs over a validated sequence."""

    @abstractmethod
    def _step(self, params: Any, h: Any, x: Any, keys: Any = None, compute_dtype: Any = None) -> tuple[Any, Any]:
        """Takes one time step with validated arguments, drawing noise from `keys`."""

    @abstractmethod
    def _output_size(self, params: Any, input_size: int | None) -> int | None:
        """Returns the size of the last axis of the outputs, or None if neither argument tells it."""

    def output_size(self, params: Any, input_size: int | None = None) -> int:
        """Returns the size of the last axis of the outputs.

        Args:
            params: From `init`.
            input_size: The size of the last axis of the inputs, for a layer without state, whose
                params may not tell. Defaults to None.

        Raises:
            ValueError: If the size depends on an `input_size` that is not given.
        """
        size = self._output_size(params, input_size)
        if size is None:
            raise ValueError(
                f"input_size: got {input_size}, expected the size of the last axis of inputs that {self.name} takes: its params "
                "alone do not tell the size of its outputs."
            )
        return size

    @abstractmethod
    def deterministic(self) -> "Layer":
        """Returns the layer without its noise, for evaluation.

        The params are the same.
        """

    def initial_state(self, params: Any, batch_shape: int | tuple[int, ...] = (), *, like: Array | None = None) -> Any:
        """Returns the zero state: leaves `(*batch_shape, H)` in the dtype of `params`.

        Example:
            >>> import jax, gru_jax as gj
            >>> cell = gj.gru()
            >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
            >>> cell.initial_state(params, batch_shape=2).shape
            (2, 4)

        Args:
            params: From `cell.init`. They determine H and the dtype.
            batch_shape: The batch axes. An int stands for one axis. Defaults to none.
            like: An array `(…, *batch_shape, D)`, for example `xs`. The state's batch
                axes get its sharding over a mesh. A carry of `lax.scan` inside `shard_map` needs
                this. Defaults to None.

        Raises:
            ValueError: If a batch axis is negative, or if the layer cannot tell its hidden size
                from `params`.
        """
        params, _ = validate_cell.check_params(self, params)
        batch = validate.check_batch_shape(batch_shape)
        state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, batch + leaf.shape), self._zeros(params))
        return state if like is None else shard_state_like(self, vary_like(state, like), like, len(batch))

    def step(self, params: Any, h: Any, x: Array) -> tuple[Any, Array]:
        """Takes one time step: (state, input) to (new state, output), the carry and the output of
        `lax.scan`.

        `jax.lax.scan(functools.partial(cell.step, params), h0, xs)` is the plain loop,
        differentiated by autodiff. It returns the same pair as `gj.unroll(cell, params, xs, h0)`.
        For resets, noise and `compute_dtype` see `gj.step`.

        Example:
            >>> import jax, gru_jax as gj
            >>> cell = gj.gru()
            >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
            >>> h, y = cell.step(params, cell.initial_state(params, 2), jax.numpy.ones((2, 3)))
            >>> y.shape
            (2, 4)

        Args:
            params: From `cell.init`.
            h: The state, leaves `(*batch, H)`.
            x: The input, `(*batch, D)`. It is cast to the dtype of `params`.

        Returns:
            `(h, y)`: the new state, and the output `(*batch, H)`.

        Raises:
            TypeError, ValueError: As `gj.unroll`.
        """
        if self.needs_key:
            raise ValueError(
                f"cell: got {self.name}, which draws noise, expected a cell without noise in cell.step, which has no key. Use "
                "gj.step(cell, …, key=…), or the cell for evaluation: cell.deterministic()."
            )
        params, h, x = jax.tree.map(jnp.asarray, validate.check_step(self, params, h, x))
        return self._step(params, h, cast_inputs(x, validate_cell.float_dtype(params, x, h)))

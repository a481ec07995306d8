"""Both directions: one cell reads the sequence forward, one backward.

    y_t = [forward(x_1 … x_t), backward(x_T … x_t)]        concatenated, or added up

With `lengths` each sequence is read backward from its own last step, and the outputs of both directions stay aligned with `xs`.

Source: Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine import validate
from gru_jax._engine.recursion import How
from gru_jax._engine.run import Ran, Sequence
from gru_jax.cell import initial_state
from gru_jax.layers.parts import check_part, split

Merge = Literal["concat", "sum"]


class BidirectionalParams(NamedTuple):
    """The parameters of both cells; also the type of their gradient."""

    forward: Any
    backward: Any


class Bidirectional(NamedTuple):
    """See `bidirectional`."""

    forward_cell: Any
    backward_cell: Any
    merge: Merge

    @property
    def name(self) -> str:
        """For messages."""
        return f"bidirectional({self.forward_cell.name}, {self.backward_cell.name}, merge={self.merge!r})"

    @property
    def needs_key(self) -> bool:
        """Whether `unroll` must be given a key."""
        return self.forward_cell.needs_key or self.backward_cell.needs_key

    def init(self, key: Array, input_size: int, hidden_size: int, **options: Any) -> BidirectionalParams:
        """Draws the parameters of both cells, each with `hidden_size` units; `options` as for a cell's `init`.

        Raises:
            ValueError, TypeError: as a cell's `init`.
        """
        cells = (self.forward_cell, self.backward_cell)
        keys = jax.random.split(key)
        return BidirectionalParams(
            *(cell.init(k, input_size, hidden_size, **options) for cell, k in zip(cells, keys, strict=True))
        )

    def check(self, params: Any) -> int | None:
        """Raises where `params` are not those of both cells; the input size they are for."""
        if not isinstance(params, BidirectionalParams):
            raise TypeError(
                f"params: got {type(params).__name__}, expected BidirectionalParams(forward, backward) for {self.name}. "
                "Make them with cell.init(key, input_size, hidden_size)."
            )
        sizes = [
            check_part(self.forward_cell, params.forward, "params.forward"),
            check_part(self.backward_cell, params.backward, "params.backward"),
        ]
        if None not in sizes and sizes[0] != sizes[1]:
            raise ValueError(f"params: got the input sizes {sizes[0]} forward and {sizes[1]} backward, expected one.")
        hidden = (self.forward_cell.output_size(params.forward), self.backward_cell.output_size(params.backward))
        if self.merge == "sum" and hidden[0] != hidden[1]:
            raise ValueError(
                f'params: got {hidden[0]} units forward and {hidden[1]} backward, expected as many with merge="sum". '
                'Use merge="concat".'
            )
        return sizes[0]

    def zero_state(self, params: Any) -> tuple[Any, Any]:
        """(forward, backward), without batch axes."""
        return validate.zero_state(self.forward_cell, params.forward), validate.zero_state(self.backward_cell, params.backward)

    def initial_state(self, params: Any, batch_shape: int | tuple[int, ...] = (), *, like: Array | None = None) -> Any:
        """The zero states (forward, backward), as `Cell.initial_state`."""
        return initial_state(self, params, batch_shape, like)

    def output_size(self, params: Any) -> int:
        """The last axis of `ys`."""
        forward = self.forward_cell.output_size(params.forward)
        return forward if self.merge == "sum" else forward + self.backward_cell.output_size(params.backward)

    def deterministic(self) -> "Bidirectional":
        """The same without noise, for evaluation."""
        return self._replace(forward_cell=self.forward_cell.deterministic(), backward_cell=self.backward_cell.deterministic())

    def step(self, params: Any, h: Any, x: Any) -> Any:
        """Raises TypeError: the backward cell starts at the end of the sequence."""
        raise TypeError(
            f"cell: got {self.name} in step, expected a cell with a forward direction: the backward one starts at the "
            "sequence's end. Use gj.unroll on the whole sequence."
        )

    def run(self, run: Callable[..., Ran], how: How, derivative: str, params: BidirectionalParams, sequence: Sequence) -> Ran:
        """Both cells over a validated sequence, for `unroll`."""
        keys = split(sequence.key, 2)
        resets = sequence.reset_state or (None, None)
        parts = [sequence._replace(h0=sequence.h0[i], reset_state=resets[i], key=keys[i]) for i in range(2)]
        forward = run(self.forward_cell, how, derivative, params.forward, parts[0])
        turned = how._replace(reverse=not how.reverse)
        backward = run(self.backward_cell, turned, derivative, params.backward, parts[1])
        ys = None
        if forward.ys is not None:
            pair = (forward.ys, backward.ys)
            ys = jnp.concatenate(pair, axis=-1) if self.merge == "concat" else pair[0] + pair[1]
        states = None if forward.states is None else (forward.states, backward.states)
        return Ran((forward.h_last, backward.h_last), ys, states)


def bidirectional(forward_cell: Any, backward_cell: Any = None, merge: Merge = "concat") -> Bidirectional:
    """Two cells, one for each direction; the same object for the same arguments.

    Goes wherever a cell goes: `init(key, input_size, hidden_size)` makes `BidirectionalParams(forward, backward)`;
    `gj.unroll` returns `ys` of `(T, *batch, 2·H)` (`H` with "sum") and the pair of last states `(forward, backward)`, the
    backward one after step 0. It cannot `step`.

    `lengths` and `mask` are right out of the box: each sequence is read backward from its own last step. `resets` act on each
    direction before its step t, as in `gj.unroll`: forward that starts a segment at t, backward it starts one that
    ends at t. For segments packed into one row the backward direction must reset at each segment's last step instead: unroll the two
    cells apart, the second with `reverse=True` and `resets=jnp.concatenate([resets[1:], jnp.ones_like(resets[:1])])`.

    Args:
        forward_cell: such as `gj.gru()`, or a `gj.stack`.
        backward_cell: the same as `forward_cell` if None (with parameters of its own).
        merge: `"concat"` or `"sum"` of the outputs.

    Raises:
        TypeError: no cell.
        ValueError: an unknown merge.
    """
    validate.check_cell(forward_cell)
    backward_cell = forward_cell if backward_cell is None else backward_cell
    validate.check_cell(backward_cell)
    validate.check_option("merge", merge, get_args(Merge))
    return _bidirectional(forward_cell, backward_cell, merge)


@cache
def _bidirectional(forward_cell: Any, backward_cell: Any, merge: Merge) -> Bidirectional:
    return Bidirectional(forward_cell, backward_cell, merge)

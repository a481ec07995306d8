"""Where batches come from. A source is arrays on the device, and for each step an address into them: a pure function of (key, step).

    arrays, whole                  the address is empty
    arrays, `batch_size` of them   the rows of the step
    a function of a key            the address is empty, the key does it
    `bucketed`, `windows`          see `sequences`: several kinds of batch, one for each shape; a window's number

The program that is compiled sees the arrays and the addresses of a whole dispatch, and makes each batch inside.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train.batches import batch_indices, count_examples


class Kind(NamedTuple):
    """One shape of batch, and how it is spread over devices.

    Attributes:
        make: `make(data, address, key, shards, shard) -> batch`: this shard's part of the batch.
        data_is_split: whether each device holds a part of the data, along the first axis; else all of it.
        address_is_split: whether each device gets a part of the address, along the first axis; else all of it.
    """

    make: Callable[..., Any]
    data_is_split: bool = False
    address_is_split: bool = False


class Source(Protocol):
    """What `fit` asks of its data."""

    data: Any

    def kinds(self) -> tuple[Kind, ...]:
        """The shapes of batches; the same objects for the same source, so that nothing is compiled twice."""
        ...

    def addresses(self, key: jax.Array, step: int, steps: int) -> tuple[np.ndarray, Any]:
        """(which kind `(steps,)`, the addresses with a leading axis `(steps, …)`) of the steps from `step` on."""
        ...

    def described(self) -> dict[str, Any]:
        """For the configuration that a checkpoint belongs to."""
        ...


class Whole(NamedTuple):
    """All examples at every step, in order."""

    data: Any

    def kinds(self) -> tuple[Kind, ...]:
        """One shape; each device has a part of the examples."""
        return (Kind(_whole, data_is_split=True),)

    def addresses(self, key: jax.Array, step: int, steps: int) -> tuple[np.ndarray, Any]:
        """Nothing to say."""
        return np.zeros(steps, np.int32), np.zeros((steps, 0), np.int32)

    def described(self) -> dict[str, Any]:
        """Without a batch size."""
        return {"source": "arrays", "batch_size": None}


class Rows(NamedTuple):
    """`batch_size` examples at every step, drawn without replacement, epoch after epoch."""

    data: Any
    batch_size: int

    def kinds(self) -> tuple[Kind, ...]:
        """One shape; each device has all examples and gathers its part of the batch."""
        return (Kind(_rows, address_is_split=True),)

    def addresses(self, key: jax.Array, step: int, steps: int) -> tuple[np.ndarray, Any]:
        """The rows of each step."""
        examples = count_examples(self.data)
        rows = batch_indices(key, step, examples=examples, batch_size=self.batch_size, steps=steps)
        return np.zeros(steps, np.int32), rows

    def described(self) -> dict[str, Any]:
        """With the batch size."""
        return {"source": "arrays", "batch_size": self.batch_size}


class Made(NamedTuple):
    """Batches made from a key inside the compiled program."""

    function: Callable[[jax.Array], Any]
    data: Any = None

    def kinds(self) -> tuple[Kind, ...]:
        """One shape; each device makes the batch and keeps its part."""
        return (Kind(_made(self.function)),)

    def addresses(self, key: jax.Array, step: int, steps: int) -> tuple[np.ndarray, Any]:
        """Nothing to say: the step's own key does it."""
        return np.zeros(steps, np.int32), np.zeros((steps, 0), np.int32)

    def described(self) -> dict[str, Any]:
        """By the function's name."""
        return {"source": getattr(self.function, "__qualname__", type(self.function).__name__)}


def source_of(data: Any, batch_size: int | None) -> Any:
    """The source that `data` and `batch_size` of `fit` mean.

    Raises:
        TypeError: neither arrays, nor a function, nor a source.
        ValueError: a batch size that does not fit.
    """
    is_source = hasattr(data, "addresses") and hasattr(data, "kinds")
    if is_source or callable(data):
        if batch_size is not None:
            what = "bucketed or windowed data, which has its own" if is_source else "a function, which makes whole batches"
            raise ValueError(f"batch_size: got {batch_size} beside {what}, expected None.")
        return data if is_source else Made(data)
    examples = count_examples(data)
    if batch_size is None:
        return Whole(data)
    if not 1 <= batch_size <= examples:
        raise ValueError(f"batch_size: got {batch_size}, expected 1 to {examples}, the number of examples in data.")
    return Rows(data, batch_size)


def _whole(data: Any, address: Any, key: jax.Array, shards: int, shard: Any) -> Any:
    return data


def _rows(data: Any, rows: jax.Array, key: jax.Array, shards: int, shard: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], data)


@cache
def _made(function: Callable[[jax.Array], Any]) -> Callable[..., Any]:
    def make(data: Any, address: Any, key: jax.Array, shards: int, shard: Any) -> Any:
        batch = function(key)
        return batch if shards == 1 else jax.tree.map(partial(_part, shards, shard), batch)

    return make


def _part(shards: int, shard: Any, leaf: Any) -> Any:
    size = leaf.shape[0] // shards
    return jax.lax.dynamic_slice_in_dim(jnp.asarray(leaf), shard * size, size)

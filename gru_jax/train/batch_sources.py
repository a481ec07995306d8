"""Batch sources: the arrays on the device, and for each step the indices of its batch within them.

    source             given as `data`                      batch indices of a step
    WholeData          arrays, without `batch_size`         empty
    ShuffledData       arrays, with `batch_size`            the rows of the batch
    GeneratedData      a function of a key                  empty; the step's key decides
    BucketedSource     `gj.train.bucketed(…)`               the rows of the batch within its bucket
    WindowSource       `gj.train.windows(…)`                the number of the window

A source holds its data in buckets, one for each shape of batch; all but `BucketedSource` have a
single bucket. The batch indices are a pure function of the key and the step. The compiled program
receives the data and the indices of many steps, and makes each batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train.arguments import checked_count
from gru_jax.train.epoch_order import batch_rows, count_examples


class Shard(NamedTuple):
    """Which part of a batch a device makes. The default is the whole batch."""

    shard_index: Any = 0  # a tracer on a mesh
    num_shards: int = 1


@dataclass(frozen=True)
class BatchMaker:
    """Makes the batches of one bucket, and tells how they are spread over devices.

    Attributes:
        make: A function `make(data, batch_indices, key, shard) -> batch` that makes one shard of a
            batch.
        data_is_sharded: If True, each device holds a part of the data along its first axis.
            Otherwise each holds all of it.
        indices_are_sharded: If True, each device gets a part of the batch indices along their first
            axis. Otherwise all of them.
    """

    make: Callable[[Any, Any, jax.Array, Shard], Any]
    data_is_sharded: bool = False
    indices_are_sharded: bool = False


class StepIndices(NamedTuple):
    """Where the batches of consecutive steps are in the data of a source."""

    bucket_index: Any  # (steps,) int32
    batch_indices: Any  # (steps, …)


class BatchSource(Protocol):
    """What `fit` needs from its data."""

    @property
    def bucket_data(self) -> tuple[Any, ...]:
        """The arrays of each bucket."""

    def batch_makers(self) -> tuple[BatchMaker, ...]:
        """Returns one maker per bucket.

        Calls on the same source return equal makers, because the program is compiled for them.
        """

    def step_indices(self, key: jax.Array, step: int, steps: int) -> StepIndices:
        """Returns the indices of `steps` consecutive batches, starting at `step`."""

    def describe(self) -> dict[str, Any]:
        """Returns the settings that a resumed run must share, as JSON values."""


class WholeData(NamedTuple):
    """All examples at every step, in order."""

    data: Any

    @property
    def bucket_data(self) -> tuple[Any, ...]:
        """The arrays of the only bucket."""
        return (self.data,)

    def batch_makers(self) -> tuple[BatchMaker, ...]:
        """Returns a maker whose devices each hold a part of the examples."""
        return (_WHOLE,)

    def step_indices(self, key: jax.Array, step: int, steps: int) -> StepIndices:
        """Returns empty batch indices."""
        return _no_indices(steps)

    def describe(self) -> dict[str, Any]:
        """Returns the kind of source."""
        return {"source": "arrays", "batch_size": None}


class ShuffledData(NamedTuple):
    """A batch of `batch_size` examples per step, drawn without replacement epoch after epoch."""

    data: Any
    batch_size: int

    @property
    def bucket_data(self) -> tuple[Any, ...]:
        """The arrays of the only bucket."""
        return (self.data,)

    def batch_makers(self) -> tuple[BatchMaker, ...]:
        """Returns a maker whose devices hold all examples and gather their part of the batch."""
        return (_ROWS,)

    def step_indices(self, key: jax.Array, step: int, steps: int) -> StepIndices:
        """Returns the rows of each batch."""
        examples = count_examples(self.data)
        rows = batch_rows(key, step, examples=examples, batch_size=self.batch_size, steps=steps)
        return StepIndices(np.zeros(steps, np.int32), rows)

    def describe(self) -> dict[str, Any]:
        """Returns the kind of source and the batch size."""
        return {"source": "arrays", "batch_size": self.batch_size}


class GeneratedData(NamedTuple):
    """Batches that a function makes from a key, inside the compiled program."""

    function: Callable[[jax.Array], Any]

    @property
    def bucket_data(self) -> tuple[Any, ...]:
        """One empty bucket."""
        return (None,)

    def batch_makers(self) -> tuple[BatchMaker, ...]:
        """Returns a maker whose devices each make the whole batch and keep their part."""
        return (_generating(self.function),)

    def step_indices(self, key: jax.Array, step: int, steps: int) -> StepIndices:
        """Returns empty batch indices."""
        return _no_indices(steps)

    def describe(self) -> dict[str, Any]:
        """Returns the name of the function."""
        return {"source": getattr(self.function, "__qualname__", type(self.function).__name__)}


def as_batch_source(data: Any, batch_size: Any) -> BatchSource:
    """Returns the source that the arguments `data` and `batch_size` of `fit` describe.

    Raises:
        TypeError: If `data` is neither arrays, nor a function, nor a source, or `batch_size` is not
            an integer.
        ValueError: If `batch_size` is out of range, or is given although the data has its own.
    """
    is_source = hasattr(data, "step_indices") and hasattr(data, "batch_makers")
    if is_source or callable(data):
        if batch_size is not None:
            what = "bucketed or windowed data, which has its own" if is_source else "a function, which makes whole batches"
            raise ValueError(f"batch_size: got {batch_size} beside {what}, expected None.")
        return data if is_source else GeneratedData(data)
    examples = count_examples(data)
    if batch_size is None:
        return WholeData(data)
    count = checked_count("batch_size", batch_size, least=0)
    if not 1 <= count <= examples:
        raise ValueError(f"batch_size: got {count}, expected 1 to {examples}, the number of examples in data.")
    return ShuffledData(data, count)


def _no_indices(steps: int) -> StepIndices:
    return StepIndices(np.zeros(steps, np.int32), np.zeros((steps, 0), np.int32))


def _make_whole(data: Any, batch_indices: Any, key: jax.Array, shard: Shard) -> Any:
    return data


def _make_rows(data: Any, rows: jax.Array, key: jax.Array, shard: Shard) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], data)


_WHOLE = BatchMaker(_make_whole, data_is_sharded=True)
_ROWS = BatchMaker(_make_rows, indices_are_sharded=True)


@cache
def _generating(function: Callable[[jax.Array], Any]) -> BatchMaker:
    def make(data: Any, batch_indices: Any, key: jax.Array, shard: Shard) -> Any:
        batch = function(key)
        return batch if shard.num_shards == 1 else jax.tree.map(partial(_part, shard), batch)

    return BatchMaker(make)


def _part(shard: Shard, leaf: Any) -> Any:
    size = leaf.shape[0] // shard.num_shards
    return jax.lax.dynamic_slice_in_dim(jnp.asarray(leaf), shard.shard_index * size, size)

"""Batch sources: hold the training data, and say which examples each step uses.

    source             given as `data`                      batch indices of a step
    WholeData          arrays, without `batch_size`         empty
    ShuffledData       arrays, with `batch_size`            the rows of the batch
    GeneratedData      a function of a key                  empty: the key determines the batch
    BucketedSource     `gj.train.bucketed(…)`               the rows of the batch within its bucket
    WindowSource       `gj.train.windows(…)`                the number of the window
    StreamSource       an iterable of batches               the number among those transferred together

A source holds its data in buckets, one for each batch shape. All sources but `BucketedSource` have
a single bucket. The batch indices are a pure function of the key and the step. The compiled program
receives the data and the batch indices of many steps, and makes each batch from them. `StreamSource`
holds no data: its batches arrive while the run goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train.epoch_order import batch_rows, count_examples


class Shard(NamedTuple):
    """The part of a batch that one device makes. Defaults to the whole batch."""

    shard_index: Any = 0  # a tracer on a mesh
    num_shards: int = 1


@dataclass(frozen=True)
class BatchMaker:
    """Makes the batches of one bucket, and says how its inputs are spread over devices.

    Attributes:
        make: A function `make(data, batch_indices, key, shard) -> batch` that makes one shard of a
            batch.
        data_is_sharded: If True, each device holds a part of the data, split along the axis
            `data_axis`. Otherwise each device holds all of it.
        data_axis: The axis of the examples in the data.
        indices_are_sharded: If True, each device gets a part of the batch indices, split along the
            first axis. Otherwise each device gets all of them.
        indices_name: What the batch indices count, for error messages.
    """

    make: Callable[[Any, Any, jax.Array, Shard], Any]
    data_is_sharded: bool = False
    data_axis: int = 0
    indices_are_sharded: bool = False
    indices_name: str = "examples"


class StepIndices(NamedTuple):
    """The buckets and the batch indices of consecutive steps."""

    bucket_index: Any  # (steps,) int32
    batch_indices: Any  # (steps, …)


class BatchSource(Protocol):
    """What `fit` needs from its data."""

    @property
    def bucket_data(self) -> tuple[Any, ...]:
        """The arrays of each bucket."""

    def batch_makers(self) -> tuple[BatchMaker, ...]:
        """Returns one maker per bucket.

        Every call on a source returns equal makers, so that the program is compiled only once.
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
        """Returns a maker with which each device holds a part of the examples."""
        return (_WHOLE,)

    def step_indices(self, key: jax.Array, step: int, steps: int) -> StepIndices:
        """Returns empty batch indices."""
        return _no_indices(steps)

    def describe(self) -> dict[str, Any]:
        """Returns the kind of source."""
        return {"source": "arrays", "batch_size": None}


class ShuffledData(NamedTuple):
    """Batches of `batch_size` examples, drawn without replacement in each epoch."""

    data: Any
    batch_size: int

    @property
    def bucket_data(self) -> tuple[Any, ...]:
        """The arrays of the only bucket."""
        return (self.data,)

    def batch_makers(self) -> tuple[BatchMaker, ...]:
        """Returns a maker with which each device holds all data and gathers its part."""
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
        """Returns a maker with which each device makes the whole batch and keeps its part."""
        return (_generating(self.function),)

    def step_indices(self, key: jax.Array, step: int, steps: int) -> StepIndices:
        """Returns empty batch indices."""
        return _no_indices(steps)

    def describe(self) -> dict[str, Any]:
        """Returns the name of the function."""
        return {"source": getattr(self.function, "__qualname__", type(self.function).__name__)}


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

"""Makes batches of sequences of different lengths.

Sequences of similar length share a bucket. They are padded to the longest sequence in the bucket.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train.arguments import checked_count, optional_count
from gru_jax.train.batch_sources import BatchMaker, Shard, StepIndices
from gru_jax.train.sequence_arrays import check_alike, checked_lengths


class PaddedBatch(NamedTuple):
    """A batch of B sequences padded to T steps, batch-major.

    In a `loss_fn`, unroll a cell over it with
    `gj.unroll(cell, params, batch.sequences, time_major=False, lengths=batch.lengths)`. If the last
    batch of a bucket is not full, it is filled with sequences of length 0. A plain mean over the
    batch counts these too. Leave them out with `mask`, or with `lengths > 0` for one loss per
    sequence, and divide by the sum of the mask or by the number of real sequences.

    Attributes:
        sequences: The sequences, a pytree like each one passed to `bucketed`. Each leaf has shape
            `(B, T, …)`, with zeros at padding.
        labels: The labels, a pytree like each one passed to `bucketed`. Each leaf has shape
            `(B, …)`. None if no labels were passed.
        lengths: The length of each sequence, `(B,)`.
        mask: Booleans of shape `(B, T)`, True at valid steps and False at padding.
    """

    sequences: Any
    labels: Any
    lengths: jax.Array
    mask: jax.Array


class Bucket(NamedTuple):
    """Sequences of similar length, padded to T steps."""

    sequences: Any  # (N, T, …) each
    labels: Any  # (N, …) each; None without labels
    lengths: Any  # (N,)


class BucketedSource:
    """A source of `PaddedBatch`es for `fit`, made by `bucketed`.

    Attributes:
        batch_size: The number of sequences per batch.
    """

    def __init__(self, buckets: tuple[Bucket, ...], original_indices: list[np.ndarray], batch_size: int) -> None:
        """Takes padded buckets, and for each bucket the original indices of its sequences."""
        self.bucket_data, self.batch_size = buckets, batch_size
        self._original_indices = original_indices

    @property
    def bucket_shapes(self) -> list[tuple[int, int]]:
        """The number of sequences and the padded length of each bucket."""
        return [(len(bucket.lengths), _padded_length(bucket)) for bucket in self.bucket_data]

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches that contain every sequence once."""
        return sum(-(-len(bucket.lengths) // self.batch_size) for bucket in self.bucket_data)

    def batch_makers(self) -> tuple[BatchMaker, ...]:
        """Returns one maker per bucket. Each device holds all data and gathers its part."""
        return (_PADDED,) * len(self.bucket_data)

    def epoch_indices(self, key: jax.Array, epoch: int) -> StepIndices:
        """Returns the shuffled batches of one epoch. Row −1 is a sequence of length 0."""
        rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)).ravel().tolist(), epoch])
        bucket_index, rows = [], []
        for index, bucket in enumerate(self.bucket_data):
            shuffled = _full_batches(rng.permutation(len(bucket.lengths)), self.batch_size)
            bucket_index += [index] * len(shuffled)
            rows.append(shuffled)
        order = rng.permutation(len(bucket_index))
        return StepIndices(np.asarray(bucket_index, np.int32)[order], np.concatenate(rows)[order])

    def step_indices(self, key: jax.Array, step: int, steps: int) -> StepIndices:
        """Returns the bucket of each step's batch, and the rows of the batch within the bucket."""
        per_epoch = self.batches_per_epoch
        first, last = step // per_epoch, (step + steps - 1) // per_epoch
        epochs = [self.epoch_indices(key, epoch) for epoch in range(first, last + 1)]
        begin = step - first * per_epoch
        return StepIndices(*(np.concatenate(parts)[begin : begin + steps] for parts in zip(*epochs, strict=True)))

    def evaluation_batches(self) -> Iterator[tuple[PaddedBatch, np.ndarray]]:
        """Yields every sequence once, without shuffling.

        Yields:
            A batch, and the index of each of its sequences in the list passed to `bucketed`. The
            index is −1 for the sequences of length 0 that fill the batch.
        """
        for bucket, indices in zip(self.bucket_data, self._original_indices, strict=True):
            on_device = bucket._replace(lengths=jnp.asarray(bucket.lengths))
            for rows in _full_batches(np.arange(len(bucket.lengths)), self.batch_size):
                yield _make_padded(on_device, rows, None, Shard()), np.where(rows < 0, -1, indices[rows])

    def describe(self) -> dict[str, Any]:
        """Returns the kind of source, the batch size and the shapes of the buckets."""
        shapes = [list(shape) for shape in self.bucket_shapes]
        return {"source": "bucketed", "batch_size": self.batch_size, "buckets": shapes}


def bucketed(
    sequences: Sequence[Any],
    batch_size: int,
    *,
    labels: Sequence[Any] | None = None,
    num_buckets: int = 4,
    pad_to: int | None = None,
) -> BucketedSource:
    """Makes batches of sequences of different lengths, with little padding.

    Sequences of similar length share a bucket. They are padded to the longest sequence in the
    bucket. Every sequence is used once per epoch; none is cut or dropped. The batches of all
    buckets are shuffled together, in an order that depends only on the key and the epoch.

    Args:
        sequences: A list of sequences, each a pytree of arrays with a leading time axis, for
            example `(xs, ys)` with shapes `(T, D)` and `(T, K)`. T may differ. Arrays of different
            dtypes are cast to one that holds all of them.
        batch_size: The number of sequences per batch.
        labels: One label per sequence, for example its class: a pytree of arrays without a time
            axis. Defaults to None.
        num_buckets: The maximum number of buckets. All buckets hold about the same number of
            sequences. More buckets mean less padding, but the training step is compiled once per
            bucket. Defaults to 4.
        pad_to: The padded length of the bucket with the longest sequences. Set it to use the same
            shape for another data set with longer sequences. Defaults to the longest sequence.

    Returns:
        A source to pass to `fit` as `data`. `loss_fn` then receives a `PaddedBatch`.

    Raises:
        TypeError: If `sequences` is not a list, a sequence is not a pytree of arrays with a time
            axis, or `batch_size`, `num_buckets` or `pad_to` is not an integer.
        ValueError: If there is no sequence, the arrays of a sequence differ in length, sequences or
            labels differ in structure or features, one of these integers is below 1, the number of
            labels differs from the number of sequences, or a sequence is longer than `pad_to`.

    Example:
        >>> import numpy as np, gru_jax as gj
        >>> source = gj.train.bucketed([np.ones((length, 2)) for length in (3, 9, 4, 8)], batch_size=2, num_buckets=2)
        >>> source.bucket_shapes
        [(2, 4), (2, 9)]
    """
    batch_size, num_buckets = checked_count("batch_size", batch_size), checked_count("num_buckets", num_buckets)
    pad_to = optional_count("pad_to", pad_to)
    lengths = np.array(checked_lengths(sequences), np.int32)
    if labels is not None:
        if len(labels) != len(sequences):
            raise ValueError(f"labels: got {len(labels)} for {len(sequences)} sequences, expected one for each.")
        check_alike("labels", labels, first_axis=0)
    dtypes = _common_dtypes(sequences)
    if pad_to is not None and lengths.max() > pad_to:
        raise ValueError(
            f"pad_to: got {pad_to}, expected at least {lengths.max()}, the length of sequences[{lengths.argmax()}]."
        )
    by_length = np.argsort(lengths, kind="stable")
    groups = [group for group in np.array_split(by_length, num_buckets) if len(group)]
    padded_lengths = [int(lengths[group].max()) for group in groups]
    if pad_to is not None:
        padded_lengths[-1] = pad_to
    buckets = []
    for group, steps in zip(groups, padded_lengths, strict=True):
        padded = jax.tree.map(
            lambda dtype, *leaves, steps=steps: _stacked(leaves, steps, dtype), dtypes, *(sequences[i] for i in group)
        )
        own_labels = None if labels is None else jax.tree.map(lambda *leaves: np.stack(leaves), *(labels[i] for i in group))
        buckets.append(Bucket(padded, own_labels, lengths[group]))
    return BucketedSource(tuple(buckets), groups, batch_size)


def _make_padded(bucket: Bucket, rows: Any, key: Any, shard: Shard) -> PaddedBatch:
    """Gathers rows of a bucket. Row −1 is a sequence of length 0."""
    rows = jnp.asarray(rows)
    is_filled = rows >= 0
    lengths = jnp.where(is_filled, jnp.asarray(bucket.lengths)[rows], 0)
    mask = jnp.arange(_padded_length(bucket), dtype=lengths.dtype)[None] < lengths[:, None]

    def gather(leaf: Any) -> jax.Array:
        return jnp.where(is_filled.reshape(-1, *[1] * (leaf.ndim - 1)), jnp.asarray(leaf)[rows], 0)

    return PaddedBatch(jax.tree.map(gather, bucket.sequences), jax.tree.map(gather, bucket.labels), lengths, mask)


_PADDED = BatchMaker(_make_padded, indices_are_sharded=True, indices_name="rows (in order of length)")


def _full_batches(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns `(batches, batch_size)`, with −1 after the last row."""
    return np.pad(rows, (0, -len(rows) % batch_size), constant_values=-1).reshape(-1, batch_size).astype(np.int32)


def _common_dtypes(trees: Sequence[Any]) -> Any:
    """Returns a tree with the dtype that holds the numbers of each leaf in all trees."""
    return jax.tree.map(lambda *leaves: np.result_type(*{np.asarray(leaf).dtype for leaf in leaves}), *trees)


def _stacked(leaves: Sequence[Any], steps: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Returns `(N, steps, …)`, with zeros after the end of each leaf."""
    stacked = np.zeros((len(leaves), steps, *leaves[0].shape[1:]), dtype)
    for row, leaf in zip(stacked, leaves, strict=True):
        row[: len(leaf)] = leaf
    return stacked


def _padded_length(bucket: Bucket) -> int:
    return jax.tree.leaves(bucket.sequences)[0].shape[1]

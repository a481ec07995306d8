"""Cuts long sequences into windows, for truncated back-propagation through time."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train.arguments import checked_count
from gru_jax.train.batch_sources import BatchMaker, Shard, StepIndices
from gru_jax.train.sequence_arrays import checked_lengths


class WindowBatch(NamedTuple):
    """A batch of B windows of W steps, batch-major.

    In a `loss_fn`, unroll a cell over it with
    `gj.unroll(cell, params, batch.sequences, carry, time_major=False, resets=batch.resets,
    mask=batch.mask)`.

    Attributes:
        sequences: The sequences, a pytree like each one passed to `windows`. Each leaf has shape
            `(B, W, …)`.
        resets: Booleans of shape `(B, W)`, True at the first step of a sequence or of a stream.
        mask: Booleans of shape `(B, W)`, True at valid steps and False at padding.
    """

    sequences: Any
    resets: jax.Array
    mask: jax.Array


class Streams(NamedTuple):
    """All windows of all streams: B streams, each of N windows, each of W steps."""

    sequences: Any  # (B, N, W, …) each
    resets: Any  # (B, N, W)
    mask: Any  # (B, N, W)


class WindowSource:
    """A source of `WindowBatch`es for `fit`, made by `windows`.

    Attributes:
        batch_size: The number of streams.
        window: The number of steps per window.
        windows_per_epoch: The number of batches that cover every time step once.
    """

    def __init__(self, streams: Streams, *, batch_size: int, window: int, windows_per_epoch: int) -> None:
        self.bucket_data = (streams,)
        self.batch_size, self.window, self.windows_per_epoch = batch_size, window, windows_per_epoch

    def batch_makers(self) -> tuple[BatchMaker, ...]:
        """Returns a maker with which each device holds a part of the streams."""
        return (_WINDOWS,)

    def step_indices(self, key: jax.Array, step: int, steps: int) -> StepIndices:
        """Returns the number of the window that each step uses.

        After the last window, the first one follows again.
        """
        number = (step % self.windows_per_epoch + np.arange(steps)) % self.windows_per_epoch
        return StepIndices(np.zeros(steps, np.int32), number.astype(np.int32))

    def evaluation_batches(self) -> Iterator[WindowBatch]:
        """Yields the windows of one epoch in order. Carry the state from each to the next."""
        for number in range(self.windows_per_epoch):
            yield WindowBatch(*jax.tree.map(lambda leaf, number=number: jnp.asarray(leaf[:, number]), self.bucket_data[0]))

    def describe(self) -> dict[str, Any]:
        """Returns the kind of source, the batch size and the window."""
        return {"source": "windows", "batch_size": self.batch_size, "window": self.window}


def windows(sequences: Sequence[Any], batch_size: int, window: int) -> WindowSource:
    """Cuts long sequences into windows, for training with a state carried from window to window.

    The sequences are concatenated and cut into `batch_size` streams of equal length. Training step
    i uses the i-th window of every stream. No time step is dropped: if a stream ends within a
    window, the rest of the window is padding.

    Args:
        sequences: A list of sequences, each a pytree of arrays with a leading time axis, for
            example `(xs, ys)` with shapes `(T, D)` and `(T,)`. T may differ. For a single sequence,
            pass `[sequence]`.
        batch_size: The number of streams.
        window: The number of time steps per window. Gradients do not flow from one window into the
            previous one.

    Returns:
        A source to pass to `fit` as `data`, with `carry=cell.initial_state(params, batch_size)`.
        `loss_fn(params, batch, key, carry)` then receives a `WindowBatch` and returns
        `(loss, metrics, carry)`.

    Raises:
        TypeError: If `sequences` is not a list, a sequence is not a pytree of arrays with a time
            axis, or `batch_size` or `window` is not an integer.
        ValueError: If `batch_size` or `window` is below 1, sequences differ in structure or
            features, or there are fewer time steps than streams.

    Example:
        >>> import numpy as np, gru_jax as gj
        >>> source = gj.train.windows([np.arange(10), np.arange(3)], batch_size=2, window=4)
        >>> source.windows_per_epoch
        2
    """
    batch_size, window = checked_count("batch_size", batch_size), checked_count("window", window)
    lengths = checked_lengths(sequences)
    total = sum(lengths)
    if total < batch_size:
        raise ValueError(
            f"sequences: got {total} time steps in total, expected at least {batch_size}, one for each of the batch_size streams."
        )
    stream_length = -(-total // batch_size)
    windows_per_epoch = -(-stream_length // window)
    first_steps = np.zeros(total, bool)
    first_steps[np.cumsum([0, *lengths[:-1]])[np.array(lengths) > 0]] = True

    def cut(leaf: np.ndarray) -> np.ndarray:
        """Cuts `(total, …)` into `(batch_size, windows_per_epoch, window, …)`, zero-padded."""
        rest, features = [(0, 0)] * (leaf.ndim - 1), leaf.shape[1:]
        streams = np.pad(leaf, [(0, stream_length * batch_size - total), *rest]).reshape(batch_size, stream_length, *features)
        padding = windows_per_epoch * window - stream_length
        return np.pad(streams, [(0, 0), (0, padding), *rest]).reshape(batch_size, windows_per_epoch, window, *features)

    resets, mask = cut(first_steps), cut(np.ones(total, bool))
    resets[:, 0, 0] = True
    cut_sequences = jax.tree.map(lambda *leaves: cut(np.concatenate([np.asarray(leaf) for leaf in leaves])), *sequences)
    return WindowSource(
        Streams(cut_sequences, resets, mask), batch_size=batch_size, window=window, windows_per_epoch=windows_per_epoch
    )


def _make_window(streams: Streams, number: jax.Array, key: Any, shard: Shard) -> WindowBatch:
    return WindowBatch(*jax.tree.map(lambda leaf: leaf[:, number], streams))


_WINDOWS = BatchMaker(_make_window, data_is_sharded=True, indices_name="window")

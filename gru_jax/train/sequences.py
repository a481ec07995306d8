"""Sequences of different lengths as batches: bags of similar length with exact masks, and windows over long pieces.

Both are sources for `fit`; the order of everything is a pure function of (key, epoch).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train.sources import Kind


class Padded(NamedTuple):
    """A batch of sequences, batch-major: `gj.unroll(…, time_major=False, lengths=batch.lengths)`.

    A batch that the last sequences of a bucket do not fill is filled with sequences of length 0: every mask is exact.
    """

    sequences: Any  # (B, T, …) each; what stands beyond a length is 0
    labels: Any  # (B, …) each; None without labels
    lengths: jax.Array  # (B,)
    mask: jax.Array  # (B, T) bool: the steps that exist


class Window(NamedTuple):
    """A stretch of B streams, batch-major: `gj.unroll(…, h0=carry, time_major=False, resets=batch.resets, mask=batch.mask)`."""

    pieces: Any  # (B, W, …) each
    resets: jax.Array  # (B, W) bool: where a piece, or a stream, begins
    mask: jax.Array  # (B, W) bool: the steps that exist


class Bucketed:
    """See `bucketed`."""

    def __init__(self, buckets: tuple[tuple[Any, Any, np.ndarray], ...], order: list[np.ndarray], batch_size: int) -> None:
        self.data = buckets if len(buckets) > 1 else buckets[0]
        self.batch_size = batch_size
        self._buckets, self._order = buckets, order

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(sequences, longest) of each bucket."""
        return [(len(lengths), _longest(rows)) for rows, _, lengths in self._buckets]

    @property
    def batches_per_epoch(self) -> int:
        """How many batches hold every sequence once."""
        return sum(-(-len(lengths) // self.batch_size) for _, _, lengths in self._buckets)

    def kinds(self) -> tuple[Kind, ...]:
        """One shape per bucket."""
        return (_PADDED,) * len(self._buckets)

    def epoch(self, key: jax.Array, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(bucket, rows `(batches, batch_size)`, −1 where one is not filled) of every batch of an epoch, a pure function of both."""
        rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)).ravel().tolist(), epoch])
        which, rows = [], []
        for bucket, (_, _, lengths) in enumerate(self._buckets):
            shuffled = _filled(rng.permutation(len(lengths)), self.batch_size)
            which += [bucket] * len(shuffled)
            rows.append(shuffled)
        order = rng.permutation(len(which))
        return np.asarray(which, np.int32)[order], np.concatenate(rows)[order]

    def addresses(self, key: jax.Array, step: int, steps: int) -> tuple[np.ndarray, Any]:
        """The buckets and rows of each step, epoch behind epoch."""
        each = self.batches_per_epoch
        first, last = step // each, (step + steps - 1) // each
        epochs = [self.epoch(key, epoch) for epoch in range(first, last + 1)]
        which, rows = (np.concatenate(parts)[step - first * each :][:steps] for parts in zip(*epochs, strict=True))
        return which, rows

    def in_order(self) -> Iterator[tuple[Padded, np.ndarray]]:
        """Every sequence once, for evaluation: (batch, the numbers of its sequences as they were given, −1 for a filling)."""
        for (rows, labels, lengths), numbers in zip(self._buckets, self._order, strict=True):
            for chosen in _filled(np.arange(len(lengths)), self.batch_size):
                yield (
                    _padded((rows, labels, jnp.asarray(lengths)), chosen, None, 1, 0),
                    np.where(chosen < 0, -1, numbers[chosen]),
                )

    def described(self) -> dict[str, Any]:
        """Batch size and buckets."""
        return {"source": "bucketed", "batch_size": self.batch_size, "buckets": [list(shape) for shape in self.shapes]}


def bucketed(
    sequences: Sequence[Any],
    batch_size: int,
    *,
    labels: Sequence[Any] | None = None,
    buckets: int = 4,
    longest: int | None = None,
) -> Bucketed:
    """Sequences of different lengths as a source of batches for `fit`: a bucket holds those of similar length, padded to its longest.

    Every sequence is seen once per epoch, none is cut or dropped. The batches of an epoch, from all buckets, come in one shuffled
    order, which is a pure function of (key, epoch). Each bucket's shape is compiled once.

    Args:
        sequences: each a pytree of arrays with a leading time axis, such as `(xs (T, D), ys (T, K))`; T may differ.
        batch_size: sequences per batch.
        labels: for each sequence a pytree of arrays without a time axis.
        buckets: at most so many, of about equal numbers of sequences.
        longest: pad the last bucket to this length, so that other data has the same shape.

    Raises:
        TypeError: a sequence that is no pytree of arrays with a time axis.
        ValueError: no sequence; arrays of one sequence with different lengths; counts below 1; too few labels; longer than `longest`.
    """
    for name, count in (("batch_size", batch_size), ("buckets", buckets)):
        if count < 1:
            raise ValueError(f"{name}: got {count}, expected at least 1.")
    if not len(sequences):
        raise ValueError("sequences: got none, expected at least one.")
    if labels is not None and len(labels) != len(sequences):
        raise ValueError(f"labels: got {len(labels)} for {len(sequences)} sequences, expected one for each.")
    lengths = np.array([_length(sequence, f"sequences[{i}]") for i, sequence in enumerate(sequences)], np.int32)
    if longest is not None and lengths.max() > longest:
        raise ValueError(
            f"longest: got {longest}, expected at least {lengths.max()}, the length of sequences[{lengths.argmax()}]."
        )
    by_length = np.argsort(lengths, kind="stable")
    groups = [group for group in np.array_split(by_length, buckets) if len(group)]
    made = []
    for i, group in enumerate(groups):
        top = longest if longest is not None and i == len(groups) - 1 else int(lengths[group].max())
        rows = jax.tree.map(lambda *leaves, top=top: _stack(leaves, top), *(sequences[j] for j in group))
        own = None if labels is None else jax.tree.map(lambda *leaves: np.stack(leaves), *(labels[j] for j in group))
        made.append((rows, own, lengths[group]))
    return Bucketed(tuple(made), groups, batch_size)


class Windows:
    """See `windows`."""

    def __init__(self, data: tuple[Any, np.ndarray, np.ndarray], batch_size: int, window: int, number: int) -> None:
        self.data, self.batch_size, self.window, self.windows_per_epoch = data, batch_size, window, number

    def kinds(self) -> tuple[Kind, ...]:
        """One shape; each device has a part of the streams."""
        return (_WINDOW,)

    def addresses(self, key: jax.Array, step: int, steps: int) -> tuple[np.ndarray, Any]:
        """The number of each step's window: in order, from the beginning again after the last."""
        number = (step % self.windows_per_epoch + np.arange(steps)) % self.windows_per_epoch
        return np.zeros(steps, np.int32), number.astype(np.int32)

    def described(self) -> dict[str, Any]:
        """Batch size and window."""
        return {"source": "windows", "batch_size": self.batch_size, "window": self.window}


def windows(pieces: Sequence[Any], batch_size: int, window: int) -> Windows:
    """Long pieces as a source of windows for truncated back-propagation, with the state carried from window to window.

    The pieces stand one behind another and are cut into `batch_size` streams; step i sees the i-th window of every stream, with
    `resets` true where a piece or a stream begins. No step is dropped: the last windows are masked where streams have ended.

        loss_fn(params, batch, key, carry) -> (loss, metrics, carry)     `fit(…, carry=cell.initial_state(params, batch_size))`

    Args:
        pieces: each a pytree of arrays with a leading time axis, such as `(xs (T, D), ys (T,))`; one piece is `[piece]`.
        batch_size: how many streams.
        window: steps per window.

    Raises:
        TypeError: a piece that is no pytree of arrays with a time axis.
        ValueError: no piece, counts below 1, fewer steps than streams.
    """
    for name, count in (("batch_size", batch_size), ("window", window)):
        if count < 1:
            raise ValueError(f"{name}: got {count}, expected at least 1.")
    lengths = [_length(piece, f"pieces[{i}]") for i, piece in enumerate(pieces)]
    total = sum(lengths)
    if total < batch_size:
        raise ValueError(
            f"pieces: got {total} steps in all, expected at least {batch_size}, one for each stream of batch_size."
        )
    stream = -(-total // batch_size)
    number = -(-stream // window)
    resets = np.zeros(total, bool)
    resets[np.cumsum([0, *lengths[:-1]])[np.array(lengths) > 0]] = True

    def cut(leaf: np.ndarray) -> np.ndarray:
        """(batch_size, number, window, …): streams, padded at their ends."""
        rest = [(0, 0)] * (leaf.ndim - 1)
        rows = np.pad(leaf, [(0, stream * batch_size - total), *rest]).reshape(batch_size, stream, *leaf.shape[1:])
        return np.pad(rows, [(0, 0), (0, number * window - stream), *rest]).reshape(batch_size, number, window, *leaf.shape[1:])

    begins, mask = cut(resets), cut(np.ones(total, bool))
    begins[:, 0, 0] = True
    data = jax.tree.map(lambda *leaves: cut(np.concatenate([np.asarray(leaf) for leaf in leaves])), *pieces)
    return Windows((data, begins, mask), batch_size, window, number)


def _padded(data: Any, rows: Any, key: Any, shards: int, shard: Any) -> Padded:
    """The rows of a bucket; −1 is a sequence of length 0."""
    sequences, labels, lengths = data
    rows = jnp.asarray(rows)
    own = jnp.where(rows < 0, 0, jnp.asarray(lengths)[rows])
    steps = jax.tree.leaves(sequences)[0].shape[1]
    mask = jnp.arange(steps) < own[:, None]
    filled = lambda leaf: jnp.where((rows >= 0).reshape(-1, *[1] * (leaf.ndim - 1)), jnp.asarray(leaf)[rows], 0)
    return Padded(jax.tree.map(filled, sequences), jax.tree.map(filled, labels), own, mask)


def _window(data: Any, number: jax.Array, key: Any, shards: int, shard: Any) -> Window:
    """The window of this number; the arrays are (B, windows, W, …)."""
    return Window(*jax.tree.map(lambda leaf: leaf[:, number], data))


_PADDED = Kind(_padded, address_is_split=True)
_WINDOW = Kind(_window, data_is_split=True)


def _filled(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """(batches, batch_size), −1 behind the last."""
    return np.pad(rows, (0, -len(rows) % batch_size), constant_values=-1).reshape(-1, batch_size).astype(np.int32)


def _stack(leaves: Sequence[Any], longest: int) -> np.ndarray:
    """(N, longest, …), padded with zeros."""
    first = np.asarray(leaves[0])
    out = np.zeros((len(leaves), longest, *first.shape[1:]), first.dtype)
    for row, leaf in zip(out, leaves, strict=True):
        row[: len(leaf)] = leaf
    return out


def _length(sequence: Any, name: str) -> int:
    """The common length of a sequence's arrays."""
    leaves = jax.tree.leaves(sequence)
    if not leaves or any(getattr(leaf, "ndim", 0) == 0 for leaf in leaves):
        raise TypeError(f"{name}: got {type(sequence).__name__}, expected arrays with a leading time axis.")
    lengths = {leaf.shape[0] for leaf in leaves}
    if len(lengths) > 1:
        raise ValueError(f"{name}: got arrays of {sorted(lengths)} steps, expected one number.")
    return lengths.pop()


def _longest(rows: Any) -> int:
    return jax.tree.leaves(rows)[0].shape[1]

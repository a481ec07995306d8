"""`batches`: the batches that `fit` takes, for custom training loops."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax._jax.keys import check_key
from gru_jax.train.arguments import checked_count
from gru_jax.train.batch_sources import BatchMaker, BatchSource, Shard
from gru_jax.train.batch_streams import StreamSource
from gru_jax.train.gradients import keys_of_step
from gru_jax.train.make_source import make_batch_source

_STEPS_AT_ONCE = 100


def batches(data: Any, batch_size: int | None = None, *, key: jax.Array, start: int = 0) -> "BatchIterator":
    """Yields the batches that `fit` takes with the same data, batch size and key, without end.

        for step, batch in zip(range(1000), gj.train.batches((xs, ys), 32, key=key)):
            params, opt_state = train_step(params, opt_state, batch)

    Args:
        data: What `fit` takes as `data`, except an iterable of batches: arrays, a function of a
            key, `gj.train.bucketed(…)` or `gj.train.windows(…)`.
        batch_size: The number of examples per batch, as for `fit`. Defaults to None, which uses all
            examples in every batch.
        key: A `jax.random` key. It determines the order of the examples.
        start: The step of the first batch. Defaults to 0.

    Returns:
        An iterator with `get_state()` and `set_state(state)`, like those of grain: a state is a
        dict that JSON can hold, and an iterator continues after the batch that was the last.

    Raises:
        TypeError: If an argument has the wrong type, or `data` is an iterable of batches.
        ValueError: If `batch_size` or `start` is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, gru_jax as gj
        >>> iterator = gj.train.batches(jnp.arange(6), 4, key=jax.random.key(0))
        >>> first, second, third = (next(iterator) for _ in range(3))
        >>> sorted(map(int, [*first, *second[:2]])), sorted(map(int, [*second[2:], *third]))
        ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    """
    check_key("key", key)
    source = make_batch_source(data, batch_size)
    if isinstance(source, StreamSource):
        raise TypeError(
            f"data: got {type(data).__name__}, an iterable of batches, expected arrays or a function. Iterate over it."
        )
    return BatchIterator(source, key, checked_count("start", start, least=0))


class BatchIterator:
    """An iterator over the batches of a source.

    Attributes:
        step: The step of the next batch.
    """

    def __init__(self, source: BatchSource, key: jax.Array, step: int) -> None:
        self.step, self._source = step, source
        self._shuffle_key, self._step_key = jax.random.split(key)
        self._data = jax.tree.map(jnp.asarray, source.bucket_data)
        self._indices: Any = None  # of the steps from _first on
        self._first = 0

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Any:
        if self._indices is None or not self._first <= self.step < self._first + _STEPS_AT_ONCE:
            self._indices, self._first = self._source.step_indices(self._shuffle_key, self.step, _STEPS_AT_ONCE), self.step
        bucket, indices = jax.tree.map(lambda leaf: leaf[self.step - self._first], self._indices)
        maker, data = self._source.batch_makers()[int(bucket)], self._data[int(bucket)]
        batch = _make(data, indices, self._step_key, self.step, maker=maker)
        self.step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position, as a dict that JSON can hold."""
        return {"step": self.step}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues from a position that `get_state` returned.

        Raises:
            TypeError, ValueError: If `state` is something else.
        """
        if not isinstance(state, Mapping) or "step" not in state:
            raise TypeError(f"state: got {state!r:.80}, expected what get_state returned, for example {{'step': 3}}.")
        self.step = checked_count("state['step']", state["step"], least=0)


@partial(jax.jit, static_argnames=("maker",))
def _make(data: Any, indices: Any, step_key: jax.Array, step: Any, *, maker: BatchMaker) -> Any:
    return maker.make(data, indices, keys_of_step(step_key, step).data, Shard())

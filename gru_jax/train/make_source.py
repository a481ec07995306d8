"""Makes the batch source that the arguments `data` and `batch_size` describe."""

from typing import Any

from gru_jax.train.arguments import checked_count
from gru_jax.train.batch_sources import BatchSource, GeneratedData, ShuffledData, WholeData
from gru_jax.train.batch_streams import StreamSource, is_batch_iterable
from gru_jax.train.epoch_order import count_examples


def make_batch_source(data: Any, batch_size: Any) -> BatchSource:
    """Returns the source that the arguments `data` and `batch_size` of `fit` describe.

    Raises:
        TypeError: If `data` is none of what `fit` takes, or `batch_size` is not an
            integer.
        ValueError: If `batch_size` is out of range, or is given for data that determines it.
    """
    source, what = _whole_batches(data)
    if source is not None:
        if batch_size is not None:
            raise ValueError(f"batch_size: got {batch_size} for {what}, expected None. Remove batch_size.")
        return source
    examples = count_examples(data)
    if batch_size is None:
        return WholeData(data)
    count = checked_count("batch_size", batch_size, least=0)
    if not 1 <= count <= examples:
        raise ValueError(f"batch_size: got {count}, expected 1 to {examples}, the number of examples in data.")
    return ShuffledData(data, count)


def _whole_batches(data: Any) -> tuple[BatchSource | None, str]:
    """Returns the source of data that has batches of its own, and what it is. Returns None for arrays."""
    if hasattr(data, "step_indices") and hasattr(data, "batch_makers"):
        return data, "bucketed or windowed data, which has its own"
    if callable(data):
        return GeneratedData(data), "a function, which makes whole batches"
    if is_batch_iterable(data):
        return StreamSource(data), "an iterable, which yields whole batches"
    return None, ""

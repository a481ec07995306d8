"""Makes the batch source that the arguments `data` and `batch_size` describe."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gru_jax._jax.jaxprs import constants_of
from gru_jax.train.arguments import check_callable, check_numbers, checked_count
from gru_jax.train.batch_sources import BatchSource, GeneratedData, ShuffledData, WholeData
from gru_jax.train.batch_streams import StreamSource, is_batch_iterable
from gru_jax.train.epoch_order import count_examples


def make_batch_source(data: Any, batch_size: Any) -> BatchSource:
    """Returns the source that the arguments `data` and `batch_size` of `fit` describe.

    Raises:
        TypeError: If `data` is none of what `fit` takes, or `batch_size` is not an integer.
        ValueError: If `batch_size` is out of range, or is given for data that determines it.
    """
    source, what = _whole_batches(data)
    if source is not None:
        if batch_size is not None:
            raise ValueError(f"batch_size: got {batch_size} for {what}, expected None. Remove batch_size.")
        return source
    examples = count_examples(data)
    check_numbers("data", data)
    if examples == 0:
        raise ValueError("data: got arrays of 0 examples, expected at least 1.")
    if batch_size is None:
        return WholeData(data)
    count = checked_count("batch_size", batch_size, least=0)
    if not 1 <= count <= examples:
        raise ValueError(f"batch_size: got {count}, expected 1 to {examples}, the number of examples in data.")
    return ShuffledData(data, count)


def _whole_batches(data: Any) -> tuple[BatchSource | None, str]:
    """Returns the source of data that determines its batches, and what it is.

    The source is None for arrays.
    """
    if hasattr(data, "step_indices") and hasattr(data, "batch_makers"):
        return data, "bucketed or windowed data, which has its own"
    if callable(data):
        fix = ". Call it, to pass the batches that it yields" if inspect.isgeneratorfunction(data) else ""
        check_callable("data", data, f"data(key) -> batch{fix}", arguments=1)
        check_pure(data)
        return GeneratedData(data), "a function, which makes whole batches"
    if is_batch_iterable(data):
        return StreamSource(data), "an iterable, which yields whole batches"
    return None, ""


def check_pure(function: Callable[[jax.Array], Any]) -> None:
    """Checks that a function draws with its key only.

    The function is traced twice. What it draws with NumPy or Python is a constant of the trace, and
    would be the same in every batch.

    Raises:
        TypeError: If it returns no arrays.
        ValueError: If a constant differs between the traces.
    """
    plain = getattr(function, "__wrapped__", function) if hasattr(function, "lower") else function  # of jax.jit
    try:
        # a new function each time, because traces are cached
        first, second = (jax.make_jaxpr(lambda key: plain(key))(jax.random.key(0)) for _ in range(2))
    except Exception:
        return  # the run raises it where it calls the function
    if not first.out_avals:
        raise TypeError("data: got a function that returns no arrays, expected data(key) -> batch.")
    constants = constants_of(first), constants_of(second)
    same = first.out_avals == second.out_avals and len(constants[0]) == len(constants[1])
    same = same and all(a is b or _equal(a, b) for a, b in zip(*constants, strict=True))
    if not same:
        raise ValueError(
            "data: got a function that returns something else when it is called again with the same key. It runs once inside a "
            "compiled program, so that every batch would repeat what it drew. Draw with jax.random and the key, not with NumPy."
        )


def _equal(a: Any, b: Any) -> bool:
    try:
        return np.array_equal(a, b, equal_nan=True)
    except TypeError:  # keys, for example
        return bool((a == b).all()) if hasattr(a, "all") else bool(a == b)

"""Batches that an iterable yields on the host, and its position, from which another run continues.

A position is what the iterable says of itself, in one of two protocols:

    get_state() and set_state(state)                grain, of the iterator
    state_dict() and load_state_dict(state)         torchdata, of the loader or the iterator
"""

import base64
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train.batch_sources import BatchMaker, Shard, StepIndices
from gru_jax.train.run_config import digest_of

STREAMED = "batch of a stream"
_PROTOCOLS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))


class StreamSource:
    """A source whose batches come from an iterable, in its order."""

    bucket_data: tuple[Any, ...] = ()

    def __init__(self, iterable: Any) -> None:
        self.iterable = ListOfBatches(iterable) if isinstance(iterable, list) else iterable

    def batch_makers(self) -> tuple[BatchMaker, ...]:
        """Returns a maker that takes one of the batches that were transferred together."""
        return (_MAKER,)

    def step_indices(self, key: jax.Array, step: int, steps: int) -> StepIndices:
        """Returns the position of each step's batch among those that were transferred together."""
        return StepIndices(np.zeros(steps, np.int32), np.arange(steps, dtype=np.int32))

    def describe(self) -> dict[str, Any]:
        """Returns the type of the iterable, and a digest of the batches if they are in a list."""
        batches = self.iterable.batches if isinstance(self.iterable, ListOfBatches) else None
        return {"source": type(self.iterable).__qualname__, "batches": None if batches is None else digest_of(batches)}


class ListOfBatches:
    """A list of batches, which starts again after the last one."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> "_ListIterator":
        return _ListIterator(self.batches)


class _ListIterator:
    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.taken = batches, 0

    def __iter__(self) -> "_ListIterator":
        return self

    def __next__(self) -> Any:
        if self.taken >= len(self.batches):
            raise StopIteration
        self.taken += 1
        return self.batches[self.taken - 1]

    def get_state(self) -> int:
        return self.taken

    def set_state(self, state: int) -> None:
        self.taken = state


class BatchStream:
    """The batches of an iterable. After its last one, it is iterated again.

    An iterator, such as a generator, can be iterated only once.
    """

    def __init__(self, iterable: Any) -> None:
        self._iterable = iterable
        self._iterator: Any = None

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self._iterable)
        try:
            return next(self._iterator)
        except StopIteration:
            if self._iterator is self._iterable:
                raise
        self._iterator = iter(self._iterable)
        try:
            return next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"data: got {type(self._iterable).__name__}, which yields no batches, expected an iterable of batches."
            ) from None

    def position(self) -> Any:
        """Returns the position as JSON values, or None if the iterable cannot say it.

        Raises:
            TypeError: If the position contains something that cannot be saved.
        """
        for holder in (self._iterator, self._iterable):
            for get, put in _PROTOCOLS:
                if hasattr(holder, get) and hasattr(holder, put):
                    return {"with": get, "state": encoded(getattr(holder, get)())}
        return None

    def restore(self, position: Any) -> None:
        """Continues from a position that an equal iterable returned.

        Raises:
            ValueError: If this iterable has another protocol than the one that returned it.
        """
        put, state = dict(_PROTOCOLS)[position["with"]], decoded(position["state"])
        if hasattr(self._iterable, put):  # also an iterator, which is its own iterable
            getattr(self._iterable, put)(state)
            return
        self._iterator = iter(self._iterable)
        if not hasattr(self._iterator, put):
            raise ValueError(
                f"data: got {type(self._iterable).__name__} without {put}, which the position in the checkpoint needs. Pass data "
                "of the type that the run started with."
            )
        getattr(self._iterator, put)(state)


def is_batch_iterable(data: Any) -> bool:
    """Tells whether `data` yields batches, in contrast to a pytree of arrays.

    Raises:
        TypeError: If `data` is a list of arrays, which may be either.
    """
    if isinstance(data, list) and data:
        are_leaves = [jax.tree_util.all_leaves([item]) for item in data]
        if any(are_leaves):
            raise TypeError(
                f"data: got a list of {len(data)} arrays, expected a tuple such as (xs, ys) for arrays that share their examples, "
                "or an iterator of batches, such as iter(data)."
            )
        return True
    is_leaf = jax.tree_util.all_leaves([data]) and not isinstance(data, str | bytes)
    return is_leaf and not hasattr(data, "ndim") and (hasattr(data, "__iter__") or hasattr(data, "__next__"))


def as_host_batch(batch: Any, number: int) -> Any:
    """Returns a batch with NumPy arrays as its leaves.

    Raises:
        TypeError: If a leaf is not an array of numbers.
    """

    def as_array(path: Any, leaf: Any) -> np.ndarray:
        array, error = None, ""
        try:
            array = np.asarray(leaf)
        except (TypeError, ValueError, RuntimeError) as problem:  # for example a tensor on a GPU
            error = f" ({problem})"
        if array is None or not (jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
            where = jax.tree_util.keystr(path) or "its only leaf"
            raise TypeError(
                f"data: got {type(leaf).__name__} at {where} of batch {number}, expected an array of numbers on the host.{error}"
            )
        return array

    host = jax.tree_util.tree_map_with_path(as_array, batch)
    if not jax.tree.leaves(host):
        raise TypeError(f"data: got {type(batch).__name__} without arrays as batch {number}, expected a pytree of arrays.")
    return host


def encoded(state: Any) -> Any:
    """Returns JSON values from which `decoded` makes an equal state.

    Raises:
        TypeError: If the state contains something other than numbers, strings, bytes, arrays of
            NumPy and PyTorch, lists, tuples and dicts.
    """
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    if isinstance(state, list):
        return [encoded(item) for item in state]
    if isinstance(state, dict):
        return {"dict": [[encoded(name), encoded(item)] for name, item in state.items()]}
    if type(state) is tuple:
        return {"tuple": [encoded(item) for item in state]}
    is_tensor = type(state).__module__ == "torch" and type(state).__name__ == "Tensor"
    if is_tensor or isinstance(state, np.ndarray | np.generic):
        array = np.asarray(state)
        if array.dtype.kind in "biufc":
            content = base64.b64encode(array.tobytes()).decode()
            return {"tensor" if is_tensor else "array": [array.dtype.str, list(array.shape), content]}
    raise TypeError(
        f"data: got a state with {type(state).__name__}, expected numbers, strings, bytes, arrays, lists, tuples and dicts, which "
        "a checkpoint can hold."
    )


def decoded(value: Any) -> Any:
    """Returns the state that `encoded` turned into JSON values."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "bytes":
        return base64.b64decode(content)
    if kind == "dict":
        return {decoded(name): decoded(item) for name, item in content}
    if kind == "tuple":
        return tuple(map(decoded, content))
    dtype, shape, data = content
    array = np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()
    if kind == "array":
        return array
    import torch

    return torch.from_numpy(array)


def _make_streamed(batches: Any, number: jax.Array, key: Any, shard: Shard) -> Any:
    return jax.tree.map(lambda leaf: leaf[number], batches)


_MAKER = BatchMaker(_make_streamed, data_is_sharded=True, data_axis=1, indices_name=STREAMED)

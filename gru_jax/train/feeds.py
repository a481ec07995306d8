"""Feeds give each execution of the compiled program its data.

feed            its data
ResidentFeed    on the devices for the whole run; each execution gets batch indices
StreamFeed      batches of an iterable, which a thread transfers while the devices compute
"""

import queue
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train import data_parallel
from gru_jax.train.batch_sources import BatchMaker, StepIndices
from gru_jax.train.batch_streams import BatchStream, StreamSource, as_host_batch
from gru_jax.train.plans import TrainingPlan

_BYTES_AT_ONCE = 2**26  # of the batches that are transferred together
_AHEAD = 2  # transfers that may wait
_NO_POSITION = "it has neither get_state and set_state nor state_dict and load_state_dict"
_WAYS_OUT = (
    "Pass a loader that has them, for example of grain or torchdata.stateful_dataloader, or start a new run from the saved "
    "params: gj.train.load_params."
)


class Execution(NamedTuple):
    """What one execution of the compiled program gets."""

    data: tuple[Any, ...]  # on the devices
    indices: StepIndices  # on the host
    steps: int
    position: Any = None  # of the data after these steps, as JSON values; None if it cannot be said


class Feed(Protocol):
    """Gives each execution its data."""

    def next(self, step: int, was_interrupted: Callable[[], bool]) -> Execution | None:
        """Returns what the execution that starts at `step` gets.

        Returns None if the data has ended, or if the run was interrupted while it waited.
        """

    def close(self) -> None:
        """Stops what runs in the background."""


def make_feed(plan: TrainingPlan, shuffle_key: jax.Array, step: int, position: Any) -> Feed:
    """Makes the feed of a run that starts or continues at `step`."""
    if isinstance(plan.source, StreamSource):
        return StreamFeed(plan, plan.source, step, position)
    return ResidentFeed(plan, shuffle_key, step)


class ResidentFeed:
    """Places the data on the devices, once for the whole run."""

    def __init__(self, plan: TrainingPlan, shuffle_key: jax.Array, step: int) -> None:
        self._plan, self._shuffle_key = plan, shuffle_key
        mesh, makers, buckets = plan.program.mesh, plan.program.batch_makers, plan.source.bucket_data
        if mesh is not None and makers[0].indices_are_sharded:
            data_parallel.check_divisible(mesh, "batch_size", self._step_indices(step, 1).batch_indices, -1)
        self._data = tuple(_placed(plan, maker, bucket) for maker, bucket in zip(makers, buckets, strict=True))

    def next(self, step: int, was_interrupted: Callable[[], bool]) -> Execution:
        """Returns all data, and the batch indices of the steps."""
        plan = self._plan
        return Execution(self._data, self._step_indices(step, plan.indices_per_execution), plan.end_of_execution(step) - step)

    def close(self) -> None:
        """Does nothing."""

    def _step_indices(self, step: int, steps: int) -> StepIndices:
        """Returns the indices of `steps` consecutive batches, starting with that of `step`.

        If the models of an ensemble have their own batches, the second axis of the batch indices
        counts models.
        """
        source, spec, key = self._plan.source, self._plan.program, self._shuffle_key
        if not spec.is_ensemble:
            return source.step_indices(key, step, steps)
        if not spec.models_have_own_batches:
            return source.step_indices(key[0], step, steps)
        of_each_model = [source.step_indices(each, step, steps) for each in key]
        return StepIndices(of_each_model[0].bucket_index, jnp.stack([found.batch_indices for found in of_each_model], 1))


class StreamFeed:
    """Takes batches of an iterable in a thread, and transfers several of equal shapes together.

    A transfer ends where an execution must end, before a batch of another shape, and at 64 MiB. The
    thread never takes more batches than the run has steps.
    """

    def __init__(self, plan: TrainingPlan, source: StreamSource, step: int, position: Any) -> None:
        self._plan, self._source, self._step = plan, source, step
        self._stream = BatchStream(source.iterable)
        self._next_batch: Any = None  # one that was taken, but has another shape than those before
        self._structure: Any = None
        self._has_warned = False
        if step > 0 and step < plan.steps:
            self._restore(position)
        self._queue: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gru_jax batches", daemon=True)

    def next(self, step: int, was_interrupted: Callable[[], bool]) -> Execution | None:
        """Returns the next batches. Waits for them if necessary.

        Raises:
            Exception: What the iterable raised.
        """
        if self._thread.ident is None:
            self._thread.start()
        while True:
            try:
                item = self._queue.get(timeout=0.2)
            except queue.Empty:
                if was_interrupted():
                    return None
                continue
            if isinstance(item, BaseException):
                raise item
            if item is not None and item.position is None and self._plan.checkpoints is not None and not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"data: got {type(self._source.iterable).__name__}, with which this run cannot be resumed, because {_NO_POSITION}. "
                    f"{_WAYS_OUT}",
                    stacklevel=2,
                )
            if jax.process_count() == 1:
                return item
            sizes = None if item is None else (item.steps, _shapes(item.data))
            if data_parallel.differs_between_processes(str(sizes)):
                raise ValueError(
                    f"data: got {'no further batch' if item is None else f'{item.steps} batches'} after step {step} in process "
                    f"{jax.process_index()}, and something else in another. Pass the same batches in every process: fit gives each "
                    "device its share."
                )
            if item is None:
                return None
            return item._replace(data=self._place(item.data))

    def _restore(self, position: Any) -> None:
        """Continues from the position of a checkpoint.

        Raises:
            ValueError: If the checkpoint holds none.
        """
        if position is None:
            assert self._plan.checkpoints is not None
            raise ValueError(
                f"data: got {type(self._source.iterable).__name__}, whose position in {self._plan.checkpoints.directory} is not known "
                f"after {self._step} steps, because {_NO_POSITION}. {_WAYS_OUT}"
            )
        self._stream.restore(position)

    def close(self) -> None:
        """Stops the thread, or abandons it if the iterable does not return."""
        self._is_closed.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=1)

    def _run(self) -> None:
        step = self._step
        item: Execution | BaseException | None
        while step < self._plan.steps and not self._is_closed.is_set():
            try:
                item = self._take(step)
            except BaseException as error:
                item = error
            while not self._is_closed.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if not isinstance(item, Execution):
                return
            step += item.steps

    def _take(self, first_step: int) -> Execution | None:
        """Takes the batches of the execution that starts at `first_step`."""
        batch = self._batch(first_step) if self._next_batch is None else self._next_batch
        if batch is None:
            return None
        self._next_batch = None
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
        capacity = min(self._plan.longest_execution(), max(1, _BYTES_AT_ONCE // max(size, 1)))
        together = jax.tree.map(lambda leaf: np.zeros((capacity, *leaf.shape), leaf.dtype), batch)
        most = min(capacity, self._plan.end_of_execution(first_step) - first_step)
        steps, position, shapes = 0, None, _shapes(batch)
        while True:
            jax.tree.map(lambda rows, leaf, i=steps: rows.__setitem__(i, leaf), together, batch)
            steps, position = steps + 1, self._position_of_checkpoint()
            if steps == most:
                break
            batch = self._batch(first_step + steps)
            if batch is None or _shapes(batch) != shapes:
                self._next_batch = batch
                break
        indices = self._source.step_indices(None, 0, capacity)  # type: ignore[arg-type]
        # with several processes, placing makes them communicate, which only the main thread may do
        data = (together,) if jax.process_count() > 1 else self._place((together,))
        return Execution(data, indices, steps, position)

    def _place(self, data: tuple[Any]) -> tuple[Any]:
        return (_placed(self._plan, self._plan.program.batch_makers[0], data[0]),)

    def _batch(self, number: int) -> Any:
        """Takes one batch. Returns None after the last one."""
        try:
            batch = as_host_batch(next(self._stream), number)
        except StopIteration:
            return None
        structure = jax.tree.structure(batch)
        if self._structure is not None and self._structure != structure:
            raise ValueError(f"data: got batch {number} with the structure {structure}, expected {self._structure}, as before.")
        self._structure = structure
        return batch

    def _position_of_checkpoint(self) -> Any:
        # for each batch, because a signal may end the run after any execution; grain and torchdata take 1 to 40 µs
        return None if self._plan.checkpoints is None else self._stream.position()


def _placed(plan: TrainingPlan, maker: BatchMaker, data: Any) -> Any:
    """Places the data of one bucket on the devices."""
    mesh = plan.program.mesh
    if not maker.data_is_sharded:
        return data_parallel.replicate(mesh, data)
    if mesh is not None:
        data_parallel.check_divisible(mesh, "data", data, maker.data_axis)
    return data_parallel.shard_axis(mesh, data, maker.data_axis)


def _shapes(batch: Any) -> list[Any]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(batch)]

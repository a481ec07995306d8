"""Records the history of a run in memory, and in a file of JSON lines that can be read at any time.

    {"step": 17, "loss": 0.25, "accuracy": 0.9}    computed at step 17, before its update
    {"step": 20, "evaluation": {"nats": 0.3}}      the evaluation of the parameters after 20 steps
    {"step": 20, "changes": {"optimizer": "…"}}    what was changed on purpose when the run was resumed

NaN and infinite numbers are written as null. Each line also has a checksum; see `history_file`.
"""

import math
import operator
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from io import BufferedIOBase
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gru_jax.train.history_file import DamagedLine, as_line, read_lines, replace_lines

FILE_NAME = "history.jsonl"


class HistoryFormat(NamedTuple):
    """The dtypes and shapes of recorded values, which the JSON lines do not contain."""

    metrics: Mapping[str, tuple[str, list[int]]] = MappingProxyType({})  # name: (dtype, shape at one step)
    evaluations: Mapping[str, str] = MappingProxyType({})  # name: dtype


_EMPTY_FORMAT = HistoryFormat()
_MOST_NUMBERS = 1 << 26  # of a metric at one step; a line of the file holds no more


def parsed_format(values: Any) -> HistoryFormat:
    """Parses the format that a checkpoint holds.

    Raises:
        TypeError, ValueError, AttributeError: If it is not one.
    """
    metrics = {
        str(name): (_name_of_dtype(dtype), [operator.index(size) for size in shape])
        for name, (dtype, shape) in values["metrics"].items()
    }
    sizes = [size for _, shape in metrics.values() for size in shape]
    if min(sizes, default=0) < 0 or any(math.prod(shape) > _MOST_NUMBERS for _, shape in metrics.values()):
        raise ValueError("the shape of a metric is too large")
    return HistoryFormat(metrics, {str(name): _name_of_dtype(dtype) for name, dtype in values["evaluations"].items()})


def _name_of_dtype(name: Any) -> str:
    dtype = np.dtype(str(name))
    if str(dtype) != name or dtype.itemsize > 16 or dtype.names or dtype.hasobject:
        raise ValueError(f"{str(name)[:80]} is no dtype of numbers")
    return name


class History:
    """The losses, metrics and evaluations of a run."""

    def __init__(
        self,
        directory: Path | None,
        *,
        writes_file: bool,
        first_step: int = 0,
        last_evaluation: int = -1,
        previous_format: HistoryFormat = _EMPTY_FORMAT,
    ) -> None:
        """Opens the history. If a run is resumed, first restores its earlier entries from the file.

        Args:
            directory: The directory of the file. If None, the history is kept in memory only.
            writes_file: Whether this process writes the file. Otherwise it only reads the file.
            first_step: The number of steps taken before the resume. Lines of steps from this number
                on are dropped, because the run takes these steps again.
            last_evaluation: The step of the last evaluation before the resume. Lines of later
                evaluations are dropped.
            previous_format: The format of the earlier entries, from the checkpoint.

        Raises:
            ValueError: If the file is something else than the history of a run.
            OSError: If the file cannot be read or written.
        """
        self.metrics: dict[str, list[np.ndarray]] = defaultdict(list)
        self.evaluations: dict[str, list[Any]] = defaultdict(list)
        self._file: BufferedIOBase | None = None
        if directory is None:
            return
        path = directory / FILE_NAME
        try:
            lines, damaged = read_lines(path)
            lines = [line for line in lines if _belongs(line, first_step, last_evaluation)]
            self._restore_metrics(lines, first_step, previous_format)
            self._restore_evaluations(lines, previous_format)
            if writes_file:
                _warn_of_losses(path, lines, damaged, first_step, last_evaluation)
                self._file = replace_lines(path, lines)
        except ValueError as error:
            raise ValueError(f"checkpoint_dir: {error}") from error
        except MemoryError as error:
            raise ValueError(
                f"checkpoint_dir: the metrics of {first_step} steps, which {directory} says to contain, do not fit in memory."
            ) from error

    def _restore_metrics(self, lines: list[dict[str, Any]], steps: int, previous_format: HistoryFormat) -> None:
        for name, (dtype, shape) in previous_format.metrics.items():
            rows = np.full((steps, *shape), np.nan)
            for line in lines:
                if _is_of_step(line) and name in line:
                    rows[line["step"]] = _as_float64(line[name], shape, name, line["step"])
            stays_float = np.issubdtype(np.dtype(dtype), np.integer) and np.isnan(rows).any()  # NaN is not an integer
            self.metrics[name].append(rows if stays_float else rows.astype(dtype))

    def _restore_evaluations(self, lines: list[dict[str, Any]], previous_format: HistoryFormat) -> None:
        for line in lines:
            if "evaluation" in line:
                values = {
                    name: _as_float64(value, None, name, line["step"]).astype(previous_format.evaluations.get(name, "float64"))
                    for name, value in line["evaluation"].items()
                }
                self.add_evaluation(line["step"], values)

    def add_steps(self, first_step: int, metrics: dict[str, np.ndarray]) -> None:
        """Records the metrics of consecutive steps, each an array of shape `(steps, …)`."""
        for name, values in metrics.items():
            self.metrics[name].append(values)
        if self._file is not None:
            columns = {name: values.tolist() for name, values in metrics.items()}
            for i in range(len(next(iter(metrics.values())))):
                self._write({"step": first_step + i} | {name: values[i] for name, values in columns.items()})
            self._file.flush()

    def add_evaluation(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Records the metrics of an evaluation after `step` steps."""
        self.evaluations["step"].append(step)
        for name, value in metrics.items():
            self.evaluations[name].append(np.asarray(value))
        if self._file is not None:
            self._write({"step": step, "evaluation": metrics})
            self._file.flush()

    def add_changes(self, step: int, changes: dict[str, str]) -> None:
        """Records what differs from the run that was resumed after `step` steps."""
        if self._file is not None:
            self._write({"step": step, "changes": changes})
            self._file.flush()

    def sync(self) -> None:
        """Writes the file to the disk, and waits until it is there."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def metric_arrays(self) -> dict[str, np.ndarray]:
        """Returns each metric as an array over all steps."""
        return {name: np.concatenate(parts) for name, parts in self.metrics.items()}

    def evaluation_arrays(self) -> dict[str, np.ndarray]:
        """Returns each evaluation metric as an array over all evaluations."""
        return {name: np.asarray(values) for name, values in self.evaluations.items()}

    def format(self) -> HistoryFormat:
        """Returns the dtypes and shapes, which are needed to read the file again."""
        metrics = {name: (str(parts[-1].dtype), list(parts[-1].shape[1:])) for name, parts in self.metrics.items()}
        return HistoryFormat(metrics, {name: str(np.asarray(values[-1]).dtype) for name, values in self.evaluations.items()})

    def _write(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(as_line(line))


def _as_float64(value: Any, shape: list[int] | None, name: str, step: int) -> np.ndarray:
    """Converts nested lists to an array, with NaN for null.

    Raises:
        ValueError: If `value` is not made of numbers, or has another shape than `shape`.
    """
    try:
        array = np.asarray(value, object).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{FILE_NAME}, {name} of step {step}: got something else than numbers. ({error})") from error
    if shape is not None and list(array.shape) != shape:
        raise ValueError(f"{FILE_NAME}, {name} of step {step}: got shape {list(array.shape)}, expected {shape}.")
    return array


def _is_of_step(line: dict[str, Any]) -> bool:
    return "evaluation" not in line and "changes" not in line


def _belongs(line: dict[str, Any], first_step: int, last_evaluation: int) -> bool:
    """Tells whether a line is from before the checkpoint. The run takes later steps again."""
    if "evaluation" in line:
        return 0 <= line["step"] <= last_evaluation
    if not _is_of_step(line):
        return 0 <= line["step"] <= first_step
    return 0 <= line["step"] < first_step


def _warn_of_losses(
    path: Path, lines: list[dict[str, Any]], damaged: list[DamagedLine], first_step: int, last_evaluation: int
) -> None:
    """Warns if steps or evaluations before the checkpoint are missing from the file."""
    found = {line["step"] for line in lines if _is_of_step(line)}
    evaluated = {line["step"] for line in lines if "evaluation" in line}
    lost = ranges(step for step in range(first_step) if step not in found)
    # a damaged line after the last one that belongs is from after the checkpoint
    before = [line for line in damaged if lines and line.after_step < lines[-1]["step"]]
    parts = [f"the metrics of these steps are lost, and are NaN in the history: {lost}"] if lost else []
    if last_evaluation >= 0 and last_evaluation not in evaluated:
        parts.append(f"the evaluation after step {last_evaluation} is lost")
    if before:
        where = [f"{line.number} (after step {line.after_step})" for line in before]
        parts.append(f"damaged lines were dropped: {_listed(where)}; evaluations that they held are lost")
    if parts:
        warnings.warn(f"checkpoint_dir: {path}: {'; '.join(parts)}.", stacklevel=2)


def ranges(numbers: Iterable[int]) -> str:
    """Writes increasing numbers as ranges, for example "3, 5 to 9".

    Example:
        >>> ranges([3, 5, 6, 7, 9])
        '3, 5 to 7, 9'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return _listed([str(first) if first == last else f"{first} to {last}" for first, last in parts])


def _listed(parts: list[str], most: int = 8) -> str:
    return ", ".join(parts[:most]) + ", …" * (len(parts) > most)

"""Records the history of a run in memory, and in a file of JSON lines that can be read at any time.

    {"step": 17, "loss": 0.25, "accuracy": 0.9}    computed at step 17, before its update
    {"step": 20, "evaluation": {"nats": 0.3}}      the evaluation of the parameters after 20 steps

NaN and infinite numbers are written as null.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TextIO

import numpy as np

from gru_jax.train.json_values import to_json_value

FILE_NAME = "history.jsonl"


class HistoryFormat(NamedTuple):
    """The dtypes and shapes of recorded values, which the JSON lines do not contain."""

    metrics: Mapping[str, tuple[str, list[int]]] = MappingProxyType({})  # name: (dtype, shape at one step)
    evaluations: Mapping[str, str] = MappingProxyType({})  # name: dtype


_EMPTY_FORMAT = HistoryFormat()


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
        """
        self.metrics: dict[str, list[np.ndarray]] = defaultdict(list)
        self.evaluations: dict[str, list[Any]] = defaultdict(list)
        self._file: TextIO | None = None
        if directory is None:
            return
        path, temporary = directory / FILE_NAME, directory / f".{FILE_NAME}"
        lines = _read_lines(path, first_step, last_evaluation)
        self._restore_metrics(lines, first_step, previous_format)
        self._restore_evaluations(lines, previous_format)
        if writes_file:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
            os.replace(temporary, path)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (close closes it)

    def _restore_metrics(self, lines: list[dict[str, Any]], steps: int, previous_format: HistoryFormat) -> None:
        by_step = {line["step"]: line for line in lines if "evaluation" not in line}
        for name, (dtype, shape) in previous_format.metrics.items():
            missing = np.full(shape, np.nan).tolist()
            rows = _as_float64([by_step.get(i, {}).get(name, missing) for i in range(steps)]).reshape(steps, *shape)
            stays_float = np.issubdtype(np.dtype(dtype), np.integer) and np.isnan(rows).any()  # NaN is not an integer
            self.metrics[name].append(rows if stays_float else rows.astype(dtype))

    def _restore_evaluations(self, lines: list[dict[str, Any]], previous_format: HistoryFormat) -> None:
        for line in lines:
            if "evaluation" in line:
                values = {
                    name: _as_float64(value).astype(previous_format.evaluations.get(name, "float64"))
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
        self._file.write(json.dumps(to_json_value(line), allow_nan=False) + "\n")


def _as_float64(value: Any) -> np.ndarray:
    """Converts nested lists to an array, with NaN for null."""
    return np.asarray(value, object).astype(np.float64)


def _read_lines(path: Path, first_step: int, last_evaluation: int) -> list[dict[str, Any]]:
    """Reads the lines before `first_step`, and ignores a line that a crash cut off."""
    if not path.exists():
        return []
    kept = []
    for text in path.read_text("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            belongs = line["step"] <= last_evaluation if "evaluation" in line else line["step"] < first_step
        except (ValueError, KeyError, TypeError):
            continue
        if belongs:
            kept.append(line)
    return kept

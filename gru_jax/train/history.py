"""What a run records: arrays in memory, and one JSON line per step in a file that can be read while it runs.

    {"step": 17, "loss": 0.25, "accuracy": 0.9}           of step 17, before its update
    {"step": 20, "evaluation": {"nats": 0.3}}             of the parameters after 20 steps

A number that is not finite is null.
"""

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np

NAME = "history.jsonl"


class History:
    """Losses, metrics and evaluations of a run, from `step` 0 on."""

    def __init__(
        self,
        folder: Path | None,
        writes: bool,
        step: int,
        last_evaluation: int,
        metrics: dict[str, tuple[str, list[int]]],
        evaluated: dict[str, str],
    ) -> None:
        """Opens the history in `folder`, with what it holds of the first `step` steps and of the evaluations up to
        `last_evaluation`, in these forms; without a folder, and in a process that does not write, it grows in memory only."""
        self.metrics: dict[str, list[np.ndarray]] = defaultdict(list)
        self.evaluations: dict[str, list[Any]] = defaultdict(list)
        self._file: TextIO | None = None
        if folder is None:
            return
        kept = _lines(folder / NAME, step, last_evaluation)
        self._remember(kept, step, metrics, evaluated)
        if writes:
            (folder / f".{NAME}").write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
            os.replace(folder / f".{NAME}", folder / NAME)
            self._file = open(folder / NAME, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def _remember(
        self, lines: list[dict[str, Any]], step: int, metrics: dict[str, tuple[str, list[int]]], evaluated: dict[str, str]
    ) -> None:
        """What was recorded before a resume; NaN where a line is gone."""
        steps = {line["step"]: line for line in lines if "evaluation" not in line}
        for name, (dtype, shape) in metrics.items():
            gone = np.full(shape, np.nan).tolist()
            rows = _numbers([steps.get(i, {}).get(name, gone) for i in range(step)]).reshape(step, *shape)
            counts = np.issubdtype(np.dtype(dtype), np.integer) and np.isnan(rows).any()  # NaN is no integer
            self.metrics[name].append(rows if counts else rows.astype(dtype))
        for line in lines:
            if "evaluation" in line:
                row = {name: _numbers(value) for name, value in line["evaluation"].items()}
                self.evaluated(
                    line["step"], {name: value.astype(evaluated.get(name, "float64")) for name, value in row.items()}
                )

    def add(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """The metrics of the steps from `step` on, each `(steps, …)`."""
        for name, values in metrics.items():
            self.metrics[name].append(values)
        if self._file is not None:
            columns = {name: values.tolist() for name, values in metrics.items()}
            for i in range(len(next(iter(metrics.values())))):
                self._write({"step": step + i} | {name: values[i] for name, values in columns.items()})
            self._file.flush()

    def evaluated(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """The metrics of an evaluation after `step` steps."""
        self.evaluations["step"].append(step)
        for name, value in metrics.items():
            self.evaluations[name].append(np.asarray(value))
        if self._file is not None:
            self._write({"step": step, "evaluation": {name: np.asarray(value).tolist() for name, value in metrics.items()}})
            self._file.flush()

    def synced(self) -> None:
        """Returns when the file is on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def arrays(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(metrics, evaluations), each an array."""
        metrics = {name: np.concatenate(parts) for name, parts in self.metrics.items()}
        return metrics, {name: np.asarray(values) for name, values in self.evaluations.items()}

    def forms(self) -> tuple[dict[str, tuple[str, list[int]]], dict[str, str]]:
        """Dtype and shape of the metrics, dtype of the evaluations: for reading them again."""
        metrics = {name: (str(parts[-1].dtype), list(parts[-1].shape[1:])) for name, parts in self.metrics.items()}
        return metrics, {name: str(np.asarray(values[-1]).dtype) for name, values in self.evaluations.items()}

    def _write(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(_plain(line), allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> np.ndarray:
    """Numbers, with NaN for null."""
    return np.asarray(value, object).astype(np.float64)


def _lines(path: Path, step: int, last_evaluation: int) -> list[dict[str, Any]]:
    """The lines that belong to a checkpoint; a line cut off by a crash is left out."""
    if not path.exists():
        return []
    found = []
    for text in path.read_text("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            before = line["step"] <= last_evaluation if "evaluation" in line else line["step"] < step
        except (ValueError, KeyError, TypeError):
            continue
        if before:
            found.append(line)
    return found

"""Saves and restores a run in its directory, which only one process may use at a time."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import numpy as np

from gru_jax.train import checkpoint
from gru_jax.train.checkpoint import Checkpoint
from gru_jax.train.early_stopping import BestEvaluation
from gru_jax.train.history import HistoryFormat
from gru_jax.train.plans import CheckpointPlan
from gru_jax.train.run_config import config_changes
from gru_jax.train.train_step import ModelState
from gru_jax.train.tree_paths import differences_of_leaves, in_structure_of, named_leaves


class RunArrays(NamedTuple):
    """The arrays of a run that a checkpoint holds."""

    model: ModelState
    best_params: Any  # None without early stopping


class RunRecord(NamedTuple):
    """The part of a run that a checkpoint holds besides arrays."""

    best: BestEvaluation = BestEvaluation()
    last_evaluation: int = -1  # the step of the last evaluation; -1 before the first
    history_format: HistoryFormat = HistoryFormat()
    position: Any = None  # of the data, if it is an iterable that can say it
    initial_params: str = ""  # a digest


class RestoredRun(NamedTuple):
    """A run that was restored from a checkpoint."""

    step: int
    arrays: RunArrays
    record: RunRecord
    changes: dict[str, str]  # what differs from the checkpoint and is allowed to


def save_run(plan: CheckpointPlan, step: int, arrays: RunArrays, record: RunRecord) -> None:
    """Saves a checkpoint of a run that has taken `step` steps."""
    named = {path: np.asarray(leaf) for path, leaf in named_leaves(arrays).items()}
    metadata = {
        "run_config": plan.run_config,
        "best": record.best._asdict(),
        "last_evaluation": record.last_evaluation,
        "history_format": record.history_format._asdict(),
        "position": record.position,
        "initial_params": record.initial_params,
    }
    checkpoint.save(plan.directory, Checkpoint(step, named, metadata), max_to_keep=plan.max_to_keep)


def restore_run(plan: CheckpointPlan, like: RunArrays) -> RestoredRun | None:
    """Restores the newest valid checkpoint of a run, in the structure of `like`.

    Returns None if there is none.

    Raises:
        ValueError: If the checkpoint has another configuration, or arrays with other names, shapes
            or dtypes. The message then lists the differences. Also if there is a checkpoint and
            `plan.resume` is False.
    """
    saved = checkpoint.load_latest(plan.directory)
    if saved is None:
        return None
    changes = config_changes(saved.metadata["run_config"], plan.run_config)
    refused = [name for name in changes if name not in plan.allow_changes]
    if refused:
        raise ValueError(
            f"checkpoint_dir: {plan.directory} contains a run with another configuration, at step {saved.step}. "
            f"{'; '.join(f'{name}: {changes[name]}' for name in refused)}. Pass the configuration of the checkpoint, or use another "
            f"directory. To continue with the change on purpose, pass allow_changes={refused}."
        )
    arrays = _in_structure_of(like, saved, plan.directory)
    if not plan.resume:
        raise ValueError(
            f"checkpoint_dir: {plan.directory} contains a run at step {saved.step}. Pass resume=True to continue it, or use another "
            "directory."
        )
    metadata = saved.metadata
    record = RunRecord(
        BestEvaluation(**metadata["best"]),
        metadata["last_evaluation"],
        HistoryFormat(**metadata["history_format"]),
        metadata["position"],
        metadata["initial_params"],
    )
    return RestoredRun(saved.step, arrays, record, changes)


def _in_structure_of(like: Any, saved: Checkpoint, directory: Path) -> Any:
    """Returns the saved arrays in the structure of `like`.

    Raises:
        ValueError: If names, shapes or dtypes differ.
    """
    different = differences_of_leaves(saved.arrays, named_leaves(like), "in the checkpoint")
    if different:
        raise ValueError(
            f"checkpoint_dir: {directory} contains a checkpoint with other arrays, at step {saved.step}. {different}. "
            "Use the model and the optimiser that the checkpoint was made with, or another directory."
        )
    return in_structure_of(like, saved.arrays)


class DirectoryLock:
    """A context manager that locks a directory against other processes.

    The operating system releases the lock when the process ends, even after a crash. Nothing is
    locked on Windows, or if the directory is None.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = None if os.name == "nt" else directory
        self._file: TextIO | None = None

    def __enter__(self) -> "DirectoryLock":
        """Locks the directory.

        Raises:
            RuntimeError: If another process has locked it.
        """
        if self.directory is None:
            return self
        import fcntl

        self._file = open(self.directory / ".lock", "w")  # stays open while the directory is locked
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise RuntimeError(
                f"checkpoint_dir: another process is training in {self.directory}. Wait for it, or use another directory."
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

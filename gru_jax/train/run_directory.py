"""Saves and restores a run in its directory, which only one process may use at a time."""

import operator
import os
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from gru_jax.train import checkpoint
from gru_jax.train.checkpoint import Checkpoint
from gru_jax.train.early_stopping import BestEvaluation
from gru_jax.train.history import HistoryFormat, parsed_format
from gru_jax.train.manifest import Manifest
from gru_jax.train.plans import CheckpointPlan
from gru_jax.train.regular_files import open_regular
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
    run_id: str


def save_run(
    plan: CheckpointPlan, step: int, arrays: RunArrays, record: RunRecord, run_id: str, sync_history: Callable[[], None]
) -> None:
    """Saves a checkpoint of a run that has taken `step` steps, after its history is on the disk."""
    sync_history()
    named = {path: np.asarray(leaf) for path, leaf in named_leaves(arrays).items()}
    metadata = {
        "run_config": plan.run_config,
        "best": record.best._asdict(),
        "last_evaluation": record.last_evaluation,
        "history_format": record.history_format._asdict(),
        "position": record.position,
        "initial_params": record.initial_params,
    }
    checkpoint.save(plan.directory, Checkpoint(step, named, metadata, run_id), max_to_keep=plan.max_to_keep)


def restore_run(plan: CheckpointPlan, like: RunArrays) -> RestoredRun | None:
    """Restores the newest valid checkpoint of a run, in the structure of `like`.

    Returns None if there is none.

    Raises:
        ValueError: If the checkpoint has another configuration, or arrays with other names, shapes
            or dtypes. The message then lists the differences. Also if there is a checkpoint and
            `plan.resume` is False, and if all checkpoints are damaged.
    """
    expected, found = named_leaves(like), []

    def check(manifest: Manifest) -> None:
        found.append(_checked_record(plan, manifest, expected))

    saved = checkpoint.load_latest(plan.directory, check=check)
    if saved is None:
        return None
    record, changes = found[-1]
    return RestoredRun(saved.step, in_structure_of(like, saved.arrays), record, changes, saved.run_id)


def _checked_record(plan: CheckpointPlan, manifest: Manifest, expected: dict[str, Any]) -> tuple[RunRecord, dict[str, str]]:
    """Returns the record of a run and the changes to it, after comparing it with what is expected.

    Raises:
        ValueError: If something differs, or if the run must not be resumed.
    """
    metadata, where = manifest.metadata, f"checkpoint_dir: {plan.directory} contains"
    try:
        changes = config_changes(metadata["run_config"], plan.run_config)
        record = RunRecord(
            BestEvaluation.parsed(metadata["best"]),
            operator.index(metadata["last_evaluation"]),
            parsed_format(metadata["history_format"]),
            metadata["position"],
            str(metadata["initial_params"]),
        )
        if not -1 <= record.last_evaluation <= manifest.step:
            raise ValueError(f"the last evaluation was after step {record.last_evaluation}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{where} a checkpoint at step {manifest.step} that `fit` did not write. Use another directory."
        ) from error
    refused = [name for name in changes if name not in plan.allow_changes]
    if refused:
        raise ValueError(
            f"{where} a run with another configuration, at step {manifest.step}. "
            f"{'; '.join(f'{name}: {changes[name]}' for name in refused)}. Pass the configuration of the checkpoint, or use another "
            f"directory. To continue with the change on purpose, pass allow_changes={refused}."
        )
    different = differences_of_leaves({spec.name: spec for spec in manifest.arrays}, expected, "in the checkpoint")
    if different:
        raise ValueError(
            f"{where} a checkpoint with other arrays, at step {manifest.step}. {different}. "
            "Use the model and the optimiser that the checkpoint was made with, or another directory."
        )
    if not plan.resume:
        raise ValueError(f"{where} a run at step {manifest.step}. Pass resume=True to continue it, or use another directory.")
    return record, changes


def make_directory(directory: Path) -> None:
    """Makes the directory of a run if it does not exist.

    Raises:
        NotADirectoryError: If it, or a directory that it is in, is something else.
        OSError: If it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"checkpoint_dir: got {directory}, which is or lies in something else than a directory. Use another path."
        ) from error
    except OSError as error:
        raise type(error)(error.errno, f"checkpoint_dir: {str(directory)[:300]} cannot be made. ({error.strerror})") from error


class DirectoryLock:
    """A context manager that locks a directory against other processes.

    The operating system releases the lock when the process ends, even after a crash. Nothing is
    locked on Windows, or if the directory is None.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = None if os.name == "nt" else directory
        self._file: BufferedIOBase | None = None

    def __enter__(self) -> "DirectoryLock":
        """Locks the directory.

        Raises:
            RuntimeError: If another process has locked it.
            ValueError: If its file `.lock` is a link, or something else than a regular file.
        """
        if self.directory is None:
            return self
        import fcntl

        try:
            # stays open while the directory is locked
            self._file = open_regular(self.directory / ".lock", os.O_RDWR | os.O_CREAT)
        except ValueError as error:
            raise ValueError(f"checkpoint_dir: {error}") from error
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

"""Writes checkpoints atomically, and verifies them when they are read.

    directory/step_000000001000_3f9a2c1b/arrays/…         written by Orbax; see `array_store`
    directory/step_000000001000_3f9a2c1b/manifest.json    digests of the files; see `manifest`

The last part of the name is the id of the run. Orbax writes into a temporary directory. Then the
manifest is added, everything is synced to the disk, and a single rename turns the temporary
directory into a checkpoint. Only then are older checkpoints of the run deleted. A checkpoint whose
files do not match its manifest is ignored. This detects even a single flipped bit.
"""

import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_jax.train.array_store import check_metadata, import_orbax, read_arrays, write_arrays
from gru_jax.train.manifest import ARRAYS, Manifest, check_digests, read_manifest, sync, write_manifest

_NAME = re.compile(r"step_(\d{12})_([0-9a-f]{8})")
_TEMPORARY, _REPLACED = ".tmp_", ".tmp_old_"
LARGEST_STEP = 10**12 - 1  # of names


class Checkpoint(NamedTuple):
    """The content of a checkpoint: its arrays by name, and everything else as JSON values."""

    step: int
    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]
    run_id: str  # of `new_run_id`; the checkpoints of a run share it


def new_run_id() -> str:
    """Returns an id for a new run, of 8 hexadecimal digits."""
    return secrets.token_hex(4)


def save(directory: Path, checkpoint: Checkpoint, *, max_to_keep: int) -> None:
    """Writes a checkpoint atomically, then deletes all but the run's newest `max_to_keep`.

    Raises:
        OSError: If the disk is full or the directory cannot be written to. Earlier checkpoints are
            unchanged.
        ImportError: If Orbax is not installed.
    """
    path = directory / f"step_{checkpoint.step:012d}_{checkpoint.run_id}"
    temporary = directory / f"{_TEMPORARY}{path.name}"
    import_orbax()
    try:
        _remove_directory(temporary)  # left by a crash
        temporary.mkdir(parents=True)
        write_arrays(temporary / ARRAYS, checkpoint.arrays)
        write_manifest(temporary, checkpoint.step, checkpoint.arrays, checkpoint.metadata)
        publish(temporary, path)
    except Exception as error:
        _remove_directory(temporary)
        number = error.errno if isinstance(error, OSError) else None
        text = (
            f"checkpoint_dir: the checkpoint of step {checkpoint.step} could not be written to {directory}; earlier checkpoints are "
            f"unchanged. Check the free space and the permissions of the directory. ({error})"
        )
        raise (OSError(number, text) if number else OSError(text)) from error
    prune(directory, checkpoint, max_to_keep)


def load_latest(
    directory: Path,
    *,
    check: Callable[[Manifest], None] = lambda manifest: None,
    wanted: Callable[[str], bool] = lambda name: True,
) -> Checkpoint | None:
    """Reads the newest valid checkpoint, and warns about each damaged one that is newer.

    Args:
        directory: The directory of a run.
        check: A function that raises if the content of a checkpoint is not what the caller expects.
            It is called before a file of the arrays is opened.
        wanted: Tells by its name whether an array is read.

    Returns:
        The checkpoint, or None if the directory contains none.

    Raises:
        ValueError: If all checkpoints are damaged, or `check` raises it.
        ImportError: If Orbax is not installed.
    """
    damaged = []
    for path in reversed(checkpoint_paths(directory)):
        try:
            manifest = read_manifest(path)
            step, run_id = _step_and_id(path)
            if manifest.step != step:
                raise ValueError(f"the manifest is that of step {manifest.step}")
        except Exception as error:  # a damaged file may raise anything
            damaged.append((path, str(error)[:200]))
            continue
        check(manifest)
        try:
            check_digests(path, manifest)
            check_metadata(path / ARRAYS, manifest.arrays)
            arrays = read_arrays(path / ARRAYS, manifest.arrays, wanted)
        except ImportError:
            raise
        except Exception as error:
            damaged.append((path, str(error)[:200]))
            continue
        for other, reason in damaged:
            warnings.warn(
                f"checkpoint_dir: {other} is damaged and ignored: {reason}. The newest intact checkpoint before it is used: "
                f"{path.name}.",
                stacklevel=2,
            )
        return Checkpoint(step, arrays, manifest.metadata, run_id)
    if damaged:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged[:4]) + "; …" * (len(damaged) > 4)
        raise ValueError(
            f"checkpoint_dir: {directory} contains {len(damaged)} checkpoints, and none is intact. {reasons}. Restore one from a "
            "copy. To start again from step 0, use another directory, or move the damaged checkpoints away."
        )
    return None


def checkpoint_paths(directory: Path) -> list[Path]:
    """Returns the paths of all checkpoints, damaged ones included, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def newest_step_and_id(directory: Path) -> tuple[int, str] | None:
    """Returns the step and the run id of the newest checkpoint, or None if there is none."""
    paths = checkpoint_paths(directory)
    return _step_and_id(paths[-1]) if paths else None


def newest_metadata(directory: Path) -> dict[str, Any]:
    """Returns the metadata of the newest checkpoint with an intact manifest, or nothing."""
    for path in checkpoint_paths(directory)[::-1]:
        try:
            return read_manifest(path).metadata
        except Exception:  # a damaged file may raise anything
            continue
    return {}


def publish(temporary: Path, path: Path) -> None:
    """Turns a temporary directory into the checkpoint `path`, in one rename."""
    if os.path.lexists(path):  # for example a damaged checkpoint of the same step
        aside = path.with_name(f"{_REPLACED}{path.name}")
        _remove_directory(aside)
        os.rename(path, aside)
    os.rename(temporary, path)
    sync(path.parent)


def prune(directory: Path, newest: Checkpoint, max_to_keep: int) -> None:
    """Deletes all but the newest `max_to_keep` checkpoints of a run, and what its crashes left.

    Damaged checkpoints of steps after `newest`, which the run takes again, are deleted too. Nothing
    else in the directory is touched, and no link is followed.
    """
    of_run = [path for path in checkpoint_paths(directory) if _step_and_id(path)[1] == newest.run_id and _is_directory(path)]
    kept = [path for path in of_run if _step_and_id(path)[0] <= newest.step][-max_to_keep:]
    for path in of_run:
        if path not in kept:
            temporary = path.with_name(f"{_TEMPORARY}{path.name}")
            _remove_directory(temporary)
            os.rename(path, temporary)
    remove_leftovers(directory, newest.run_id)


def remove_leftovers(directory: Path, run_id: str | None = None) -> None:
    """Deletes the temporary directories that a crash left, of one run or of all runs."""
    for path in directory.glob(f"{_TEMPORARY}*"):
        found = _NAME.fullmatch(path.name.removeprefix(_REPLACED).removeprefix(_TEMPORARY))
        if found and run_id in (None, found[2]):
            _remove_directory(path)


def _remove_directory(path: Path) -> None:
    """Deletes a directory. Leaves anything else: a link, and a pipe, which `rmtree` would open and wait for."""
    if _is_directory(path):
        shutil.rmtree(path, ignore_errors=True)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _step_and_id(path: Path) -> tuple[int, str]:
    found = _NAME.fullmatch(path.name)
    assert found
    return int(found[1]), found[2]

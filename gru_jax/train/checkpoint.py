"""Writes checkpoint files atomically, and verifies them when they are read.

    directory/step_000000001000/arrays/…         written by Orbax
    directory/step_000000001000/manifest.json    size and SHA-256 of every file, names of the arrays

Orbax writes into a temporary directory. Then the manifest is added, everything is synced to the
disk, and a single rename turns the temporary directory into a checkpoint. Only then are older
checkpoints deleted. A checkpoint whose files do not match its manifest is ignored. This detects
even a single flipped bit.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT, MANIFEST, ARRAYS = 2, "manifest.json", "arrays"
PREFIX, TEMPORARY_PREFIX = "step_", ".tmp_"


class Checkpoint(NamedTuple):
    """The content of a checkpoint: its arrays by name, and everything else as JSON values."""

    step: int
    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]


def save(directory: Path, checkpoint: Checkpoint, *, max_to_keep: int) -> None:
    """Writes a checkpoint atomically, then deletes all but the newest `max_to_keep`.

    Raises:
        OSError: If the disk is full or the directory cannot be written to. Earlier checkpoints are
            unchanged.
        ImportError: If Orbax is not installed.
    """
    temporary = directory / f"{TEMPORARY_PREFIX}{checkpoint.step:012d}_{os.getpid()}"
    import_orbax()
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_arrays(temporary / ARRAYS, checkpoint.arrays)
        write_manifest(temporary, checkpoint)
        publish(temporary, directory / f"{PREFIX}{checkpoint.step:012d}")
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        number = error.errno if isinstance(error, OSError) else None
        text = (
            f"checkpoint_dir: the checkpoint of step {checkpoint.step} could not be written to {directory}; earlier checkpoints are "
            f"unchanged. Check the free space and the permissions of the directory. ({error})"
        )
        raise (OSError(number, text) if number else OSError(text)) from error
    prune(directory, max_to_keep)


def load_latest(directory: Path) -> Checkpoint | None:
    """Reads the newest valid checkpoint, and warns about each damaged one.

    Returns None if there is none.

    Raises:
        ImportError: If Orbax is not installed.
    """
    for path in reversed(checkpoint_paths(directory)):
        try:
            return load(path)
        except ImportError:
            raise
        except Exception as error:  # a damaged file may raise anything
            warnings.warn(
                f"checkpoint_dir: {path} is damaged and ignored: {error}. The newest intact checkpoint before it is used, if any.",
                stacklevel=2,
            )
    return None


def checkpoint_paths(directory: Path) -> list[Path]:
    """Returns the paths of all checkpoints, damaged ones included, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit())


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint, after comparing every file with the manifest.

    Raises:
        ValueError: If a file was changed, added or removed.
        OSError: If a file cannot be read.
    """
    manifest = json.loads((path / MANIFEST).read_text("utf-8"))
    if manifest.pop("digest", None) != _digest(json.dumps(manifest, sort_keys=True).encode()):
        raise ValueError("the manifest has changed since it was written")
    if manifest["format"] != FORMAT:
        raise ValueError(f"its format version is {manifest['format']}, expected {FORMAT}")
    found, written = _file_table(path), manifest["files"]
    if found != written:
        changed = sorted(name for name in found.keys() | written.keys() if found.get(name) != written.get(name))
        raise ValueError(f"these files have changed since it was written: {', '.join(changed)}")
    return Checkpoint(manifest["step"], _read_arrays(path / ARRAYS, manifest["arrays"]), manifest["metadata"])


def write_manifest(path: Path, checkpoint: Checkpoint) -> None:
    """Adds the manifest to a temporary directory, and syncs the whole directory to the disk."""
    content = {
        "format": FORMAT,
        "step": checkpoint.step,
        "files": _file_table(path),
        "arrays": [[name, list(array.shape), str(array.dtype)] for name, array in checkpoint.arrays.items()],
        "metadata": checkpoint.metadata,
    }
    digest = _digest(json.dumps(content, sort_keys=True).encode())
    (path / MANIFEST).write_text(json.dumps(content | {"digest": digest}, sort_keys=True), "utf-8")
    for each in [*path.rglob("*"), path]:
        _sync(each)


def publish(temporary: Path, path: Path) -> None:
    """Turns a temporary directory into the checkpoint `path`, in one rename."""
    if path.exists():  # for example a damaged checkpoint of the same step
        aside = path.with_name(f"{TEMPORARY_PREFIX}{path.name}_{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
    os.rename(temporary, path)
    _sync(path.parent)


def prune(directory: Path, max_to_keep: int) -> None:
    """Deletes all but the newest `max_to_keep` checkpoints, and the leftovers of crashes."""
    for path in checkpoint_paths(directory)[:-max_to_keep]:
        os.rename(path, path.with_name(f"{TEMPORARY_PREFIX}{path.name}"))
    for path in directory.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def _file_table(path: Path) -> dict[str, list[Any]]:
    """Maps the relative path of every file except the manifest to its size and SHA-256."""
    return {name: [len(content), _digest(content)] for name, content in _files(path)}


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(path.rglob("*")):
        if file.is_file() and file != path / MANIFEST:
            yield file.relative_to(path).as_posix(), file.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def import_orbax() -> Any:
    """Returns the package `orbax.checkpoint`.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(
            'checkpoint_dir: checkpoints need Orbax, which is not installed. Run: pip install "gru_jax[train]"'
        ) from error
    return ocp


def _checkpointer(ocp: Any) -> Any:
    """Returns an Orbax checkpointer that does not wait for other processes."""
    import jax

    process = jax.process_index()
    this_process = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"gru_jax_{process}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=this_process)
    return ocp.Checkpointer(handler, multiprocessing_options=this_process)


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    # The names in the files are numbers, because a parameter's name may contain any character.
    # Empty arrays are left out, because Orbax cannot write them.
    with _checkpointer(import_orbax()) as checkpointer:
        checkpointer.save(path.absolute(), {str(i): array for i, array in enumerate(arrays.values()) if array.size})


def _read_arrays(path: Path, table: list[Any]) -> dict[str, np.ndarray]:
    """Reads the arrays that the manifest lists as `[name, shape, dtype]`."""
    ocp = import_orbax()
    wanted = {str(i): ocp.RestoreArgs(restore_type=np.ndarray) for i, (_, shape, _) in enumerate(table) if np.prod(shape)}
    with _checkpointer(ocp) as checkpointer:
        found = checkpointer.restore(path.absolute(), args=ocp.args.PyTreeRestore(restore_args=wanted))
    arrays = {}
    for i, (name, shape, dtype) in enumerate(table):
        array = np.asarray(found[str(i)]) if str(i) in found else np.zeros(shape, np.dtype(dtype))
        if list(array.shape) != shape or str(array.dtype) != dtype:
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, expected {dtype}{shape}")
        arrays[name] = array
    return arrays

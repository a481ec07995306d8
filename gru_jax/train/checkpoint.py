"""Checkpoints that survive: whole or not there, checked when read, the newest valid one found.

    folder/step_000000001000/arrays/…          written by Orbax
    folder/step_000000001000/manifest.json     size and SHA-256 of every file, what the arrays are, and the manifest's own digest

Orbax writes into a temporary folder; the manifest is added, everything is synced to the disk, and one rename makes it a checkpoint;
older ones are deleted only then. A folder without a matching manifest is no checkpoint: a bit flipped anywhere is seen.
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

FORMAT, MANIFEST, ARRAYS = 1, "manifest.json", "arrays"
PREFIX, TEMPORARY = "step_", ".tmp_"


class Saved(NamedTuple):
    """A checkpoint: arrays by name, and what is not an array, as JSON."""

    step: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def save(folder: Path, saved: Saved, keep: int) -> None:
    """Writes a checkpoint, whole or not at all, then deletes all but the newest `keep`.

    Raises:
        OSError: the disk is full, the folder cannot be written to; names the folder. Checkpoints that were there still are.
        ImportError: Orbax is not installed.
    """
    temporary = folder / f"{TEMPORARY}{saved.step:012d}_{os.getpid()}"
    orbax()
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_arrays(temporary / ARRAYS, saved.arrays)
        write_manifest(temporary, saved)
        publish(temporary, folder / f"{PREFIX}{saved.step:012d}")
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        number = error.errno if isinstance(error, OSError) else None
        text = f"folder: the checkpoint of step {saved.step} could not be written to {folder}; earlier ones are as they were. ({error})"
        raise (OSError(number, text) if number else OSError(text)) from error
    prune(folder, keep)


def newest(folder: Path) -> Saved | None:
    """The newest valid checkpoint, None where there is none; warns of each that is damaged."""
    for path in sorted(checkpoints(folder), reverse=True):
        try:
            return read(path)
        except ImportError:
            raise
        except Exception as error:  # whatever damage does to a reader
            warnings.warn(f"{path} is damaged and left out: {error}. The checkpoint before it is used.", stacklevel=2)
    return None


def checkpoints(folder: Path) -> list[Path]:
    """What may be a checkpoint, oldest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()] if folder.is_dir() else []
    return sorted(found)


def read(path: Path) -> Saved:
    """A checkpoint, after every byte of it was compared with its digest.

    Raises:
        ValueError: it is not what was written.
        OSError: it cannot be read.
    """
    manifest = json.loads((path / MANIFEST).read_text("utf-8"))
    told = manifest.pop("digest", None)
    if told != _digest(json.dumps(manifest, sort_keys=True).encode()):
        raise ValueError("its manifest is not what was written")
    if manifest["format"] != FORMAT:
        raise ValueError(f"its format is {manifest['format']}, expected {FORMAT}")
    found = {name: [size, digest] for name, size, digest in _files(path)}
    if found != manifest["files"]:
        wrong = sorted(
            name for name in found.keys() | manifest["files"].keys() if found.get(name) != manifest["files"].get(name)
        )
        raise ValueError(f"{', '.join(wrong)} not as written")
    return Saved(manifest["step"], _read_arrays(path / ARRAYS, manifest["arrays"]), manifest["meta"])


def write_manifest(path: Path, saved: Saved) -> None:
    """Adds sizes and digests, and syncs everything to the disk."""
    files = {name: [size, digest] for name, size, digest in _files(path)}
    arrays = [[name, list(array.shape), str(array.dtype)] for name, array in saved.arrays.items()]
    content = {"format": FORMAT, "step": saved.step, "files": files, "arrays": arrays, "meta": saved.meta}
    digest = _digest(json.dumps(content, sort_keys=True).encode())
    (path / MANIFEST).write_text(json.dumps(content | {"digest": digest}, sort_keys=True), "utf-8")
    for each in [*path.rglob("*"), path]:
        _sync(each)


def publish(temporary: Path, path: Path) -> None:
    """Makes a temporary folder the checkpoint, in one rename."""
    if path.exists():  # damaged, or of a run that went this far before
        aside = path.with_name(f"{TEMPORARY}{path.name}_{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
    os.rename(temporary, path)
    _sync(path.parent)


def prune(folder: Path, keep: int) -> None:
    """Deletes what is older than the newest `keep`, and what crashes have left."""
    for path in checkpoints(folder)[:-keep]:
        os.rename(path, path.with_name(f"{TEMPORARY}{path.name}"))
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _files(path: Path) -> Iterator[tuple[str, int, str]]:
    """(name, size, SHA-256) of every file but the manifest."""
    for file in sorted(path.rglob("*")):
        if file.is_file() and file != path / MANIFEST:
            content = file.read_bytes()
            yield file.relative_to(path).as_posix(), len(content), _digest(content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def orbax() -> Any:
    """The package `orbax.checkpoint`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError('folder: checkpoints need Orbax, which is not installed. pip install "gru_jax[train]".') from error
    return ocp


def _checkpointer(ocp: Any) -> Any:
    """Orbax' checkpointer for this process alone: one process writes and reads for all."""
    import jax

    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"gru_jax_{process}"
    )
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Under numbers: names of parameters may hold anything. An array without entries is its shape alone."""
    with _checkpointer(orbax()) as checkpointer:
        checkpointer.save(path.absolute(), {str(i): array for i, array in enumerate(arrays.values()) if array.size})


def _read_arrays(path: Path, told: list[Any]) -> dict[str, np.ndarray]:
    ocp = orbax()
    wanted = {str(i): ocp.RestoreArgs(restore_type=np.ndarray) for i, (_, shape, _) in enumerate(told) if np.prod(shape)}
    with _checkpointer(ocp) as checkpointer:
        found = checkpointer.restore(path.absolute(), args=ocp.args.PyTreeRestore(restore_args=wanted))
    arrays = {}
    for i, (name, shape, dtype) in enumerate(told):
        array = np.asarray(found[str(i)]) if str(i) in found else np.zeros(shape, np.dtype(dtype))
        if list(array.shape) != shape or str(array.dtype) != dtype:
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, expected {dtype}{shape}")
        arrays[name] = array
    return arrays

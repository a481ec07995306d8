"""Writes the manifest of a checkpoint, and compares the files of a checkpoint with it.

The manifest, `manifest.json`, has the size and SHA-256 of every file of the arrays, the name, shape
and dtype of every array, and a digest of itself.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_jax.train.array_store import ArraySpec, check_files, check_metadata
from gru_jax.train.regular_files import open_regular

FORMAT, FILE_NAME, ARRAYS = 3, "manifest.json", "arrays"
_MOST_BYTES = 1 << 24


class Manifest(NamedTuple):
    """What a checkpoint holds, according to its manifest."""

    step: int
    arrays: list[ArraySpec]
    files: dict[str, tuple[int, str]]  # size and SHA-256, by the path in the checkpoint
    metadata: dict[str, Any]


def write_manifest(path: Path, step: int, arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Adds the manifest to a directory, and syncs the whole directory to the disk.

    Raises:
        ValueError: If the store wrote other files than `read_manifest` expects.
        OSError: If a file cannot be read or written.
    """
    sizes = _sizes(path)
    specs = [ArraySpec(name, array.shape, array.dtype) for name, array in arrays.items()]
    _check_files(sizes, specs)
    check_metadata(path / ARRAYS, specs)
    files = {name: [size, _digest_of(path / name)] for name, size in sizes.items()}
    content = {
        "format": FORMAT,
        "step": step,
        "files": files,
        "arrays": [[spec.name, list(spec.shape), str(spec.dtype)] for spec in specs],
        "metadata": metadata,
    }
    (path / FILE_NAME).write_text(json.dumps(content | {"digest": _digest(content)}, sort_keys=True), "utf-8")
    for each in [*path.rglob("*"), path]:
        sync(each)


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest of the checkpoint `path`, and compares the kinds and sizes of its files.

    Reads no other file, and follows no link.

    Raises:
        ValueError: If the manifest is damaged, or a file is missing, added, of another size, or no
            regular file.
        OSError: If a file cannot be read.
    """
    if path.is_symlink() or not path.is_dir():
        raise ValueError("it is no directory")
    with open_regular(path / FILE_NAME) as file:
        text = file.read(_MOST_BYTES)
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop("digest", None) != _digest(content):
        raise ValueError("the manifest has changed since it was written")
    if content.get("format") != FORMAT:
        raise ValueError(f"its format version is {content.get('format')!r}, expected {FORMAT}")
    manifest = _parsed(content)
    found, written = _sizes(path), {name: size for name, (size, _) in manifest.files.items()}
    _raise_if_changed([name for name in found.keys() | written.keys() if found.get(name) != written.get(name)])
    _check_files(found, manifest.arrays)
    return manifest


def check_digests(path: Path, manifest: Manifest) -> None:
    """Compares the content of every file with the manifest.

    Raises:
        ValueError: If a file has changed.
    """
    _raise_if_changed([name for name, (_, digest) in manifest.files.items() if _digest_of(path / name) != digest])


def sync(path: Path) -> None:
    """Waits until a file or directory is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _parsed(content: dict[str, Any]) -> Manifest:
    """Parses a manifest, whose digest is right. It may still have been written by another program."""
    try:
        arrays = [_array_spec(*entry) for entry in content["arrays"]]
        files = {str(name): (_count(size), str(digest)) for name, (size, digest) in content["files"].items()}
        manifest = Manifest(_count(content["step"]), arrays, files, dict(content["metadata"]))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"the manifest is not that of a checkpoint ({type(error).__name__}: {error})") from error
    if len({spec.name for spec in arrays}) < len(arrays):
        raise ValueError("the manifest names an array twice")
    return manifest


def _array_spec(name: Any, shape: Any, dtype: Any) -> ArraySpec:
    found = np.dtype(str(dtype))
    # a subarray or a record could be of any size
    if not isinstance(name, str) or len(shape) > 32 or str(found) != dtype or found.itemsize > 16 or found.names:
        raise ValueError(f"the manifest lists {str(name)[:80]!r} as {str(dtype)[:80]}, expected an array of numbers")
    return ArraySpec(name, tuple(map(_count, shape)), found)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the manifest holds {str(value)[:80]}, expected a number of bytes, steps or elements")
    return value


def _sizes(path: Path) -> dict[str, int]:
    """Maps the path of every file below `path / ARRAYS` to its size.

    Raises:
        ValueError: If there is anything else than regular files and directories.
    """
    sizes: dict[str, int] = {}
    directories = [path / ARRAYS]
    if directories[0].is_symlink():
        raise ValueError(f"{ARRAYS} is a symbolic link")
    while directories:
        with os.scandir(directories.pop()) as entries:
            for entry in entries:
                name = Path(entry.path).relative_to(path).as_posix()
                if entry.is_dir(follow_symlinks=False):
                    directories.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    sizes[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    raise ValueError(f"{name} is no regular file")
    return sizes


def _check_files(sizes: dict[str, int], specs: list[ArraySpec]) -> None:
    check_files({name.removeprefix(f"{ARRAYS}/"): size for name, size in sizes.items()}, specs)


def _raise_if_changed(names: list[str]) -> None:
    if names:
        raise ValueError(f"these files have changed since it was written: {', '.join(sorted(names)[:8])}")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

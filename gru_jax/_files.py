"""Reads and writes safetensors files, writes files atomically, and imports optional packages."""

import importlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def read_safetensors(path: str | os.PathLike[str], *, extra: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a safetensors file by name.

    Raises:
        ImportError: If safetensors is not installed. The message names the extra `extra`.
        TypeError: If `path` is not a path.
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is truncated or is not a safetensors file.
    """
    library = import_extra("safetensors.numpy", extra=extra)
    check_file("path", path, "a safetensors file")
    try:
        return library.load_file(path)
    except (import_extra("safetensors", extra=extra).SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"path: got {os.fspath(path)}, expected a complete safetensors file with dtypes of NumPy. Download or write it again. "
            f"({error})"
        ) from error


def write_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None, *, extra: str
) -> None:
    """Writes arrays to a safetensors file atomically.

    Raises:
        ImportError: If safetensors is not installed. The message names the extra `extra`.
        OSError: If the directory is missing or not writable, or the disk is full.
    """
    library = import_extra("safetensors.numpy", extra=extra)
    # safetensors ignores strides when it writes memory, so a transposed view must be copied first
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_atomically(path, lambda file: library.save_file(ordered, file, metadata=None if metadata is None else dict(metadata)))


def check_file(argument: str, path: Any, expected: str) -> None:
    """Checks that `path` is a file, or a link to one.

    Opening a pipe could wait forever, and reading a device could fill the memory.

    Raises:
        TypeError: If `path` is not a path.
        FileNotFoundError: If it does not exist.
        ValueError: If it is a directory, a pipe or a device.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{argument}: got {type(path).__name__}, expected the path of {expected}.")
    if not os.path.exists(path):
        raise FileNotFoundError(f"{argument}: got {os.fspath(path)}, which does not exist, expected {expected}.")
    if not os.path.isfile(path):
        what = "a directory" if os.path.isdir(path) else "a pipe or a device"
        raise ValueError(f"{argument}: got {os.fspath(path)}, {what}, expected {expected}.")


def import_extra(module: str, *, extra: str = "convert") -> Any:
    """Imports a module of an extra of this package.

    Raises:
        ImportError: If the package is not installed. The message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f'{package} is not installed, but it is needed to read and write its files. Run: pip install "gru_jax[{extra}]".'
        ) from error


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary file next to `path`, and then renames that file to `path`.

    After a crash, `path` holds either its old content or all of the new content.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: If `path` is empty or contains a null character.
        OSError: If the directory is missing or not writable, `path` is a directory, or the disk is
            full.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: got {type(path).__name__}, expected the path of a file.")
    if not os.fspath(path) or "\0" in str(path):
        raise ValueError(f"path: got {str(path)!r}, expected the path of a file.")
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"path: got {target}, a directory, expected the path of a file.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: got {target}, expected a file in a directory that exists. Make {target.parent} first.")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp creates files that only their owner may read
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """Returns the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Imports the optional packages that read and write model files, and writes files atomically."""

import importlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def import_extra(module: str) -> Any:
    """Imports a module of the extra `convert`.

    Raises:
        ImportError: If the package is not installed. The message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f'{package} is not installed, but it is needed to read and write its files. Run: pip install "gru_jax[convert]".'
        ) from error


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary file next to `path`, and then renames that file to `path`.

    After a crash, `path` holds either its old content or all of the new content.

    Raises:
        OSError: If the directory is missing or not writable, or the disk is full.
    """
    target = Path(path)
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

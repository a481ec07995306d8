"""Reading and writing files: what an extra is for, whole or not at all."""

import importlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def extra(module: str) -> Any:
    """A module of the extra `convert`.

    Raises:
        ImportError: says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f'{package} is not installed, and its files need it. pip install "gru_jax[convert]".') from error


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Lets `write` fill a file beside `path`, then gives it that name: a crash leaves what was there before.

    Raises:
        OSError: of the folder or the disk; names the path.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

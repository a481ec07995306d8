"""Opens the files of a run's directory, and refuses links, directories, pipes and devices.

Another program may have put anything into the directory. Following a link could empty or overwrite
a file elsewhere, and opening a pipe could wait forever.
"""

import os
import stat
from io import BufferedIOBase
from pathlib import Path

_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def check_regular(path: Path, *, missing_ok: bool = False) -> bool:
    """Checks that `path` is a regular file, and tells whether it exists.

    Raises:
        ValueError: If it is a link, a directory, a pipe, a socket or a device.
        FileNotFoundError: If it does not exist and `missing_ok` is False.
    """
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except FileNotFoundError:
        if missing_ok:
            return False
        raise
    if kind != stat.S_IFREG:
        raise ValueError(f"{path} is {_KINDS.get(kind, 'no regular file')}, expected a regular file. Move it away.")
    return True


def open_regular(path: Path, flags: int = os.O_RDONLY) -> BufferedIOBase:
    """Opens a regular file with the flags of `os.open`, without following a link.

    Raises:
        ValueError: If `path` is something else than a regular file.
        OSError: If it cannot be opened.
    """
    check_regular(path, missing_ok=bool(flags & os.O_CREAT))
    handle = os.open(path, flags | _SAFE, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # replaced since it was checked
        os.close(handle)
        raise ValueError(f"{path} is no regular file. Move it away.")
    mode = {os.O_RDONLY: "rb", os.O_WRONLY: "ab" if flags & os.O_APPEND else "wb", os.O_RDWR: "r+b"}
    return os.fdopen(handle, mode[flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)])  # type: ignore[return-value]


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

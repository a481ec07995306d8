"""Reads and writes the lines of a history file. Each line ends with a checksum.

    {"step": 17, "loss": 0.25, "crc32": "b3f1c7a5"}

The checksum is the CRC-32 of the line without it: of `{"step": 17, "loss": 0.25}`. It detects any
changed byte.
"""

import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from gru_jax.train.json_values import to_json_value
from gru_jax.train.regular_files import check_regular, open_regular

_LINE = re.compile(rb'(\{.*), "crc32": "([0-9a-f]{8})"\}\n?')
_LONGEST_LINE = 1 << 26  # bytes


class DamagedLine(NamedTuple):
    """A line whose checksum is wrong."""

    number: int  # counted from 1
    after_step: int  # the step of the last intact line before it; -1 if there is none


def as_line(values: dict[str, Any]) -> bytes:
    """Returns a line of the file, with its checksum."""
    text = json.dumps(to_json_value(values), allow_nan=False).encode()
    return text[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(text)


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[DamagedLine]]:
    """Returns the intact lines, without their checksums, and the damaged ones.

    A last line without an end was cut off by a crash, and is left out.

    Raises:
        ValueError: If the file is something else than a history.
    """
    intact: list[dict[str, Any]] = []
    damaged: list[DamagedLine] = []
    if not check_regular(path, missing_ok=True):
        return intact, damaged
    number, text = 0, b""
    for number, text in _numbered_lines(path):
        found = _LINE.fullmatch(text)
        if found and zlib.crc32(found[1] + b"}") == int(found[2], 16):
            intact.append(_parsed(found[1] + b"}", f"{path}, line {number}"))
        elif text.endswith(b"\n"):
            damaged.append(DamagedLine(number, intact[-1]["step"] if intact else -1))
    only_a_cut_off_line = number == 1 and text.startswith(b'{"step": '[: len(text)])
    if number and not intact and not only_a_cut_off_line:
        raise ValueError(f"{path} contains no intact line of a history. Move it away, or restore it from a copy.")
    return intact, damaged


def replace_lines(path: Path, lines: Iterable[dict[str, Any]]) -> BufferedIOBase:
    """Replaces the content of the file atomically, and returns it opened for further lines."""
    temporary = path.with_name(f".{path.name}")
    if check_regular(temporary, missing_ok=True):  # left by a crash
        temporary.unlink()
    with open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
        file.writelines(map(as_line, lines))
        file.flush()
        os.fsync(file.fileno())  # otherwise a power failure could leave an empty file
    os.replace(temporary, path)
    return open_regular(path, os.O_WRONLY | os.O_APPEND)


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with open_regular(path) as file:
        number = 0
        while text := file.readline(_LONGEST_LINE):
            number += 1
            if len(text) == _LONGEST_LINE:
                raise ValueError(f"{path}, line {number}: more than {_LONGEST_LINE} bytes, expected a line of a history.")
            yield number, text


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """Parses a line whose checksum is right. It may still have been written by another program."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: a valid checksum, but not the JSON of a history. ({error})") from error
    if type(line.get("step")) is not int or not isinstance(line.get("evaluation", {}), dict):
        raise ValueError(
            f"{where}: a valid checksum, but not a line of a history: no integer as its step, or no dict of metrics."
        )
    return line

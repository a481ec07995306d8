"""Planted faults, and how they are planted in a copy of the checkout.

The files of `tests/mutation/faults` hold the faults by the file of the package. Each is a tuple:

- what is wrong, as a behaviour;
- the text to replace, which occurs exactly once in the file;
- the text to put in its place;
- the test modules that are most likely to notice, separated by spaces, without `tests/` and `.py`.

Every fault changes what the package does: its values, gradients, files or messages, or what it
accepts. Faults that only make it slower are left out.
"""

import importlib
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
GROUPS = tuple(sorted(path.stem for path in (Path(__file__).parent / "faults").glob("*.py")))

_seconds = itertools.count(int(time.time()))


class Fault(NamedTuple):
    """A wrong piece of code."""

    group: str
    file: str  # relative to gru_jax
    what: str
    old: str
    new: str
    likely: tuple[str, ...]  # paths of test modules


def all_faults() -> list[Fault]:
    """Returns every fault, by group and file."""
    faults = []
    for group in GROUPS:
        for file, rows in importlib.import_module(f"tests.mutation.faults.{group}").FAULTS.items():
            for what, old, new, modules in rows:
                likely = tuple(f"tests/{module}.py" for module in modules.split())
                faults.append(Fault(group, file, what, old, new, likely))
    return faults


def with_fault(fault: Fault, text: str) -> str:
    """Returns the text of the file with the fault. Raises if the old text is not there exactly once."""
    found = text.count(fault.old)
    if found != 1:
        raise ValueError(f"gru_jax/{fault.file}: got {found} times {fault.old!r}, expected it once. Correct the fault's text.")
    return text.replace(fault.old, fault.new)


@contextmanager
def planted(fault: Fault, checkout: Path) -> Iterator[None]:
    """Plants a fault in a checkout, and removes it afterwards."""
    path = checkout / "gru_jax" / fault.file
    right = path.read_text("utf-8")
    _write(path, with_fault(fault, right))
    try:
        yield
    finally:
        _write(path, right)


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    # Python compares the seconds of a file's time with those of its compiled form, so that each
    # version gets seconds of its own.
    seconds = next(_seconds)
    os.utime(path, (seconds, seconds))

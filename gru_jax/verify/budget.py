"""The time that a verification may take.

`spend(seconds)` starts the clock. Inside it, every run of a program calls `check`, and every
program is compiled in `compiling`. Both raise `OutOfTime` once the time is over. `compiling` also
raises it if the longest compilation so far took more time than is left. What has started is not
interrupted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


class OutOfTime(BaseException):
    """Raised when the time is over. Not an `Exception`, so that no check takes it for a fault."""


@dataclass
class _Clock:
    deadline: float = float("inf")
    longest_compilation: float = 0.0


_clock: ContextVar[_Clock] = ContextVar("clock")


@contextmanager
def spend(seconds: float | None) -> Iterator[None]:
    """Limits the time that everything inside may take. None means no limit."""
    token = _clock.set(_Clock() if seconds is None else _Clock(time.monotonic() + seconds))
    try:
        yield
    finally:
        _clock.reset(token)


def check() -> None:
    """Raises `OutOfTime` if the time is over."""
    if time.monotonic() > _clock.get(_Clock()).deadline:
        raise OutOfTime


@contextmanager
def compiling() -> Iterator[None]:
    """Times a compilation. Raises `OutOfTime` before it if it is not expected to end in time."""
    clock, began = _clock.get(_Clock()), time.monotonic()
    if began + clock.longest_compilation > clock.deadline:
        raise OutOfTime
    yield
    clock.longest_compilation = max(clock.longest_compilation, time.monotonic() - began)

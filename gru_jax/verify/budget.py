"""The time that a verification may take.

`spend(seconds)` starts the clock. Every program that runs or compiles inside calls `check`, which
raises `OutOfTime` once the time is over. A single compilation or run is not interrupted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


class OutOfTime(BaseException):
    """Raised when the time is over. Not an `Exception`, so that no check takes it for a fault."""


@contextmanager
def spend(seconds: float | None) -> Iterator[None]:
    """Limits the time that everything inside may take. None means no limit."""
    token = _deadline.set(float("inf") if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def check() -> None:
    """Raises `OutOfTime` if the time is over."""
    if time.monotonic() > _deadline.get():
        raise OutOfTime

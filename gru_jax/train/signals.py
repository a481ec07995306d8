"""SIGTERM and SIGINT ask a run to stop: it finishes its dispatch, saves, and exits with 143 or 130. A second one exits at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Signals:
    """While it is entered, `received` is the number of the first SIGTERM or SIGINT, else None.

    The handler only sets that number: it may run between any two instructions. Outside the main thread, where Python allows no
    handlers, nothing is caught.
    """

    CAUGHT = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if self.active:
            self._before = {number: signal.signal(number, self._note) for number in self.CAUGHT}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise SystemExit(128 + number)
        self.received = number

"""Ends a run cleanly on SIGTERM and SIGINT.

The current execution finishes, a checkpoint is saved, and the process exits.

The exit status is 143 after SIGTERM and 130 after SIGINT. A second signal exits at once, without
saving.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Records the first SIGTERM or SIGINT while it is entered.

    `received` is then its number, and the process goes on. The handler does nothing else, because
    it may run between any two instructions. Outside the main thread, where Python allows no signal
    handlers, signals keep their usual effect.
    """

    CAUGHT = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, *, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.received: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if self.active:
            self._previous_handlers = {number: signal.signal(number, self._record) for number in self.CAUGHT}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise SystemExit(128 + number)
        self.received = number

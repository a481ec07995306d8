"""Lets a run end cleanly on SIGTERM and SIGINT.

The current execution of the compiled program finishes, a checkpoint is saved, and the process
exits. The exit status is 143 after SIGTERM and 130 after SIGINT. A second signal exits without
another save.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """A context manager that records the first SIGTERM or SIGINT, and lets the process continue.

    The handler only records the signal, because it may run between any two instructions. The host
    loop saves and exits later. Outside the main thread, where Python allows no signal handlers,
    signals keep their usual effect.

    Attributes:
        received: The number of the first signal. None if there was none.
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

"""Saves checkpoints in a thread while training continues."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class BackgroundSaves:
    """A context manager that runs one save at a time in a thread. At its end, it waits for the last."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "gru_jax checkpoints")
        self._pending: Future[None] | None = None

    def start(self, save: Callable[[], None]) -> None:
        """Starts a save. Call `wait` before, so that there is never a second one.

        The save must not use memory that training changes meanwhile.
        """
        assert self._pending is None
        self._pending = self._executor.submit(save)

    def wait(self) -> None:
        """Waits for the save that is running, and raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def raise_if_failed(self) -> None:
        """Raises what the last save raised, if it has ended. Does not wait for it."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def __enter__(self) -> "BackgroundSaves":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"The last checkpoint failed too: {failure}")
        finally:
            self._executor.shutdown()

"""Ends the processes of a run when one of them fails.

Without this, the others would wait for the failed process in a collective operation.
"""

import itertools
import os
import sys
import threading
from types import TracebackType
from typing import Any

import jax

SECONDS_BETWEEN_LOOKS, SECONDS_TO_END, SECONDS_TO_SIGN_OFF = 1.0, 10.0, 5.0
_runs = itertools.count()  # every process starts the same runs in the same order


class FailureWatch:
    """A context manager that tells the other processes if this one fails, and watches for theirs.

    The processes share a key-value store, which the first process serves. A process that fails
    writes its error there. The others look once a second. Their next call of `raise_if_failed`
    raises. If a process does not get there within ten seconds, because it waits in a collective
    operation, it prints the error and exits with status 1.
    """

    def __init__(self) -> None:
        self._failure: str | None = None
        self._is_over = threading.Event()
        self._directory = f"gru_jax/failures/{next(_runs)}/"
        self._thread = threading.Thread(target=self._look, name="gru_jax failures", daemon=True)

    def raise_if_failed(self) -> None:
        """Checks that no other process has failed.

        Raises:
            RuntimeError: If one has. The message says which, and its error.
        """
        if self._failure is not None:
            raise RuntimeError(self._failure)

    def __enter__(self) -> "FailureWatch":
        if jax.process_count() > 1:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        if jax.process_count() > 1 and isinstance(error, Exception | KeyboardInterrupt) and self._failure is None:
            text = f"{type(error).__name__}: {error}"[:300]
            _client().key_value_set(f"{self._directory}{jax.process_index()}", text)

    def _look(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_LOOKS):
            failures = _client().key_value_dir_get(self._directory)
            if failures:
                key, text = failures[0]
                process = key.rpartition("/")[2]
                self._failure = (
                    f"Process {process} of {jax.process_count()} failed, which ends the run in all processes. {text}"
                )
                print(self._failure, file=sys.stderr, flush=True)
                if not self._is_over.wait(SECONDS_TO_END):
                    sys.stdout.flush()
                    # the failed process can exit only after all have signed off
                    signing_off = threading.Thread(target=_client().shutdown, daemon=True)
                    signing_off.start()
                    signing_off.join(SECONDS_TO_SIGN_OFF)
                    os._exit(1)  # nothing else ends a collective operation
                return


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client

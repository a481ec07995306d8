"""Runs trials in a process that may crash, and says how each ended.

    python -m experiments.fault_injection.trials KIND SEED QUICK FIRST

runs the trials of one kind, starting with number FIRST, and prints one line of JSON for each.
"""

import json
import resource
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

_MOST_SECONDS, _MOST_MEMORY = 60.0, 12 << 30
NOTICED, UNCHANGED, WRONG, UNCLEAR, CRASHED = "noticed", "unchanged", "silently wrong", "unclear error", "crash"


class Trial(NamedTuple):
    """A fault that is tried.

    Attributes:
        group: The row of the table that counts it.
        name: What is done, in words.
        run: A function that makes the fault in an empty directory, uses what it finds there, and
            returns an `Ended`.
    """

    group: str
    name: str
    run: Callable[[Path], Any]


class Ended(NamedTuple):
    """How a trial ended.

    Attributes:
        outcome: One of the constants of this file.
        text: The error, the warning or the difference.
    """

    outcome: str
    text: str


def outcome_of_error(error: BaseException, argument: str, longest: int) -> Ended:
    """Judges an error: clear ones name the argument, are short, and have a type that callers expect."""
    is_clear = (
        isinstance(error, ValueError | TypeError | OSError) and str(error).startswith(argument) and len(str(error)) <= longest
    )
    where = "" if is_clear else " at " + traceback.format_tb(error.__traceback__)[-1].strip()[:200]
    return Ended(NOTICED if is_clear else UNCLEAR, f"{type(error).__name__}: {str(error)[:300]}{where}")


def make_trials(kind: str, seed: int, quick: bool) -> list[Trial]:
    """Returns the trials of a kind, always the same ones for the same seed."""
    if kind == "runs":
        from experiments.fault_injection.run_files import trials
    else:
        from experiments.fault_injection.onnx_files import trials
    return trials(seed, quick)


class TrialProcess:
    """Runs trials in a process, and starts another one after a crash."""

    def __init__(self, kind: str, seed: int, quick: bool, errors: TextIO) -> None:
        """Prepares the process.

        Args:
            kind: The kind of the trials: "runs" or "onnx".
            seed: The seed of the trials.
            quick: Whether to run a few of them only.
            errors: An empty file for what the process prints. A pipe that nobody reads would fill.
        """
        self._arguments = [kind, str(seed), str(int(quick))]
        self._child: subprocess.Popen[str] | None = None
        self._errors = errors

    def run(self, number: int) -> Ended:
        """Runs a trial. They must be run in their order."""
        if self._child is None:
            command = [sys.executable, "-m", "experiments.fault_injection.trials", *self._arguments, str(number)]
            self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        assert self._child.stdout is not None
        timer = threading.Timer(_MOST_SECONDS, self._child.kill)
        timer.start()
        line = self._child.stdout.readline()
        timer.cancel()
        if line:
            return Ended(*json.loads(line))
        child, self._child = self._child, None
        child.communicate()
        self._errors.seek(0)
        return Ended(CRASHED, f"exit status {child.returncode}: {self._errors.read()[-500:]}")

    def close(self) -> None:
        """Ends the process."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()


def _results(kind: str, seed: int, quick: bool, first: int) -> Iterator[Ended]:
    """Runs the trials from number `first` on."""
    with tempfile.TemporaryDirectory() as directory:
        for number, trial in enumerate(make_trials(kind, seed, quick)):
            if number >= first:
                path = Path(directory) / str(number)
                path.mkdir()
                try:
                    ended = trial.run(path)
                except Exception as error:
                    ended = Ended(UNCLEAR, f"{type(error).__name__}: {str(error)[:300]} {traceback.format_exc()[-300:]}")
                yield ended._replace(text=ended.text.replace(str(path), "…"))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))  # so that no fault fills the memory of the machine
    of_kind, of_seed, is_quick, from_number = sys.argv[1:]
    printed: Any = sys.stdout
    sys.stdout = sys.stderr  # of what the trials print
    for ended in _results(of_kind, int(of_seed), bool(int(is_quick)), int(from_number)):
        print(json.dumps(ended), file=printed, flush=True)

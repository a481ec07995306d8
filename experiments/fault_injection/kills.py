"""Kills training processes at random moments, and compares the end of the run with an uninterrupted one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

_MOST_SECONDS = 120.0


class Kill(NamedTuple):
    """A process that was killed.

    Attributes:
        step: The last step that it reported; -1 before the first.
        was_saving: Whether it left an incomplete checkpoint.
        lost: Whether the newest checkpoint afterwards is older than the newest one before.
    """

    step: int
    was_saving: bool
    lost: bool


def start(directory: Path | None, steps: int, compiled: Path) -> subprocess.Popen[str]:
    """Starts a process that trains. Processes share their compiled programs in `compiled`."""
    command = [sys.executable, "-m", "experiments.fault_injection.problem", str(directory or "none"), str(steps)]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(compiled), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(command, env=os.environ | cache, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digest_of_run(directory: Path | None, steps: int, compiled: Path) -> str:
    """Trains to the end, and returns the digest of the result.

    Raises:
        RuntimeError: If the process fails.
    """
    out, err = start(directory, steps, compiled).communicate(timeout=_MOST_SECONDS)
    try:
        return json.loads(out.splitlines()[-1])["digest"]
    except (IndexError, ValueError, TypeError) as error:
        raise RuntimeError(f"a training process failed:\n{err[-2000:]}") from error


def newest_step(directory: Path) -> int:
    """Returns the step of the newest checkpoint by its name, or -1."""
    return max((int(path.name[5:17]) for path in directory.glob("step_*")), default=-1)


def kills(directory: Path, count: int, compiled: Path, rng: np.random.Generator) -> Iterator[Kill]:
    """Starts processes that go on with a run, and kills each at a random moment.

    A sixth of the processes are killed while they start, the others within a second after their
    first steps. They save after every fifth step, so that they save for most of the time.
    """
    for number in range(count):
        before, step = newest_step(directory), -1
        child = start(directory, 10**6, compiled)
        assert child.stdout is not None
        if number % 6 == 5:
            time.sleep(rng.uniform(0.2, 3.0))
        else:
            while step < 0:
                line = child.stdout.readline()
                if not line:
                    raise RuntimeError(f"a training process failed:\n{child.communicate()[1][-2000:]}")
                step = int(line) if line.strip().isdigit() else step
            time.sleep(rng.uniform(0, 1.0))
        child.kill()
        lines = [line for line in child.communicate()[0].splitlines() if line.isdigit()]
        was_saving = any(directory.glob(".tmp_step_*"))
        yield Kill(int(lines[-1]) if lines else step, was_saving, newest_step(directory) < before)


def ends_like_an_uninterrupted_run(directory: Path, compiled: Path) -> bool:
    """Finishes a run that was killed, and compares all bits of its result."""
    steps = max(newest_step(directory), 0) + 20
    return digest_of_run(directory, steps, compiled) == digest_of_run(None, steps, compiled)

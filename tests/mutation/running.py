"""Runs the tests against a fault, in a copy of the checkout."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.mutation.planting import ROOT, Fault, planted

LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", "build", "dist", "runs")
# The suites in the order in which they are tried.
SUITES = ("likely", "default", "all")
STAGES = ("likely", "default", "slow")
NO_TEST = (4, 5)  # how pytest ends if its arguments are wrong, or choose no test


class Result(NamedTuple):
    """What noticed a fault."""

    fault: Fault
    stage: str | None  # one of STAGES; None if the fault survived
    killed_by: str | None  # the test that failed first, or what else happened
    seconds: float


class Outcome(NamedTuple):
    """How a run of pytest ended."""

    passed: bool
    text: str  # the test that failed first


def copy_checkout(directory: Path) -> Path:
    """Copies the checkout, with its uncommitted changes, into a directory."""
    return Path(shutil.copytree(ROOT, directory / "checkout", ignore=LEFT_OUT))


def try_fault(fault: Fault, checkout: Path, suite: str, first: str | None = None, *, timeout: float = 900) -> Result:
    """Plants a fault and runs the tests, until one fails.

    The test `first` comes first, then the likely modules, then all others, then the slow tests, those
    of the likely modules before the others.

    Args:
        fault: The fault.
        checkout: A copy of the checkout, which no other run uses.
        suite: The last tests to run: "likely", "default" or "all".
        first: A test that is expected to fail, such as the one that failed in an earlier run. If it
            is not in the default suite any more, the likely modules follow.
        timeout: The seconds that the likely modules may take; the other stages may take four times
            as long. A fault that exceeds them hangs, and counts as noticed.
    """
    start = time.monotonic()
    with planted(fault, checkout):
        if first and first.startswith(fault.likely) and "::" in first:
            outcome = run_pytest(checkout, ["-n", "0", first], timeout=timeout, may_be_missing=True)
            if not outcome.passed:
                return Result(fault, "likely", outcome.text, time.monotonic() - start)
        for stage in STAGES[: SUITES.index(suite) + 1]:
            limit = timeout if stage == "likely" else 4 * timeout
            for arguments in arguments_of(stage, fault.likely):
                outcome = run_pytest(checkout, arguments, timeout=limit, may_be_missing=stage == "slow")
                if not outcome.passed:
                    return Result(fault, stage, outcome.text, time.monotonic() - start)
    return Result(fault, None, None, time.monotonic() - start)


def arguments_of(stage: str, likely: tuple[str, ...]) -> list[list[str]]:
    """Returns the arguments of each run of pytest in a stage."""
    of_likely = ["-n", "0", *likely]
    others = ["-n", "2", "--dist", "loadfile", "--ignore", "tests/mutation", *(f"--ignore={module}" for module in likely)]
    if stage == "likely":
        return [of_likely]
    return [others] if stage == "default" else [["-m", "slow", *of_likely], ["-m", "slow", *others]]


def run_pytest(checkout: Path, arguments: list[str], *, timeout: float, may_be_missing: bool = False) -> Outcome:
    """Runs pytest in a checkout until the first failure.

    With `may_be_missing`, a test that does not exist, or is slow, passes.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    process = subprocess.Popen(
        command,
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that tests started
        process.communicate()
        return Outcome(False, f"hangs: no end after {timeout:g} s")
    if may_be_missing and process.returncode in NO_TEST:
        return Outcome(True, "")
    return outcome_of(process.returncode, output)


def outcome_of(status: int, output: str) -> Outcome:
    """Reads how pytest ended. Raises if it could not run the tests."""
    if status == 0:
        return Outcome(True, "")
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.*?)(?: - .*)?$", output, re.MULTILINE)
    if failed:
        return Outcome(False, failed[1])
    if status in NO_TEST:
        raise RuntimeError(f"pytest ended with status {status}:\n{output[-2000:]}")
    return Outcome(False, f"crashes: pytest ended with status {status}")

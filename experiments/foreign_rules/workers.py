"""Judges cases in worker processes, so that a case that does not end can be stopped."""

import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

import jax

import gru_jax as gj
from experiments import foreign_rules
from experiments.foreign_rules import published
from experiments.foreign_rules.case import Case
from experiments.foreign_rules.truth import by_check_grads
from experiments.foreign_rules.verdicts import arguments_of, judgement_of, truth_of
from gru_jax.verify import programs
from gru_jax.verify.errors import short_message


class Judged(NamedTuple):
    """What came of one case.

    Attributes:
        name: Name of the case.
        label: What the rule is: "right", "no rule", "intended", "wrong" or "invisible".
        judgement: "good", or what is wrong with the verdict, as by `judgement_of`.
        verdict: The verdict of `verify_vjp`.
        seconds: CPU seconds of `verify_vjp`, of all threads. Other work hardly changes them.
        truth: "confirmed" if differences in float64, or mpmath, agree with the label; "by intention"
            if the label says what is intended; otherwise what they found. Empty if the case raised
            or was stopped.
        check_grads: What `check_grads` says: "accepted", "rejected" or "raised".
        report: The first line of the report.
    """

    name: str
    label: str
    judgement: str
    verdict: str
    seconds: float
    truth: str
    check_grads: str
    report: str


def all_names() -> tuple[list[str], dict[str, str]]:
    """Returns the names of all cases, and why packages could not be imported.

    The packages are imported in a process of their own, because some change JAX's settings.
    """
    worker = _Worker()
    worker.ask("")
    try:
        return worker.pipe.recv()
    finally:
        worker.stop()


def judged(names: Sequence[str], *, processes: int, seconds: float) -> Iterator[Judged]:
    """Yields what came of each case, in the order in which they end.

    Args:
        names: Names of cases.
        processes: How many cases to judge at a time.
        seconds: Time after which the process of a case is ended.
    """
    waiting = list(reversed(names))
    idle = [_Worker() for _ in range(min(processes, len(names)))]
    busy: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and idle:
                busy.append(idle.pop())
                busy[-1].ask(waiting.pop())
            wait([worker.pipe for worker in busy], timeout=1.0)
            for worker in list(busy):
                result = worker.answer(seconds)
                if result is None:
                    continue
                busy.remove(worker)
                idle.append(worker if worker.process.is_alive() else _Worker())
                yield result
    finally:
        for worker in (*idle, *busy):
            worker.stop()


class _Worker:
    """A process that judges cases, one at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # JAX must not be forked
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, name: str) -> None:
        self.name, self.began = name, time.monotonic()
        self.pipe.send(name)

    def answer(self, seconds: float) -> Judged | None:
        """Returns what came of the case, or None if it goes on. Stops it after `seconds`."""
        elapsed = time.monotonic() - self.began
        if self.pipe.poll():
            try:
                return self.pipe.recv()
            except EOFError:
                self.stop()
                return Judged(self.name, "", "crashed", "", elapsed, "", "", f"the process ended with {self.process.exitcode}")
        if elapsed < seconds:
            return None
        self.stop()
        return Judged(self.name, "", "out of time", "", elapsed, "", "", f"stopped after {seconds:.0f} s")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection) -> None:
    """Answers questions until the other end is closed: a name of a case, or "" for all names."""
    warnings.simplefilter("ignore")  # NumPy warns outside the domain of a callback, packages of what is old
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # solvers raise in callbacks
    try:
        while True:
            name = pipe.recv()
            pipe.send(_judge(name) if name else _all_names())
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # the other end is closed


def _all_names() -> tuple[list[str], dict[str, str]]:
    of_packages, missing = published.collect()
    return [*foreign_rules.cases(), *of_packages], missing


def _judge(name: str) -> Judged:
    case = published.find(name) if name.startswith(published.PREFIX) else foreign_rules.cases()[name]
    # Each case takes the time that it takes alone.
    jax.clear_caches()
    programs.clear()
    began = time.process_time()
    try:
        report = gj.verify_vjp(case.fun, *arguments_of(case), **{"seconds": None, **case.options})
    except Exception as error:
        seconds = time.process_time() - began
        return Judged(name, case.label, "raised", "", seconds, "", "", short_message(error))
    seconds = time.process_time() - began
    first_line = str(report).split("\n")[0]
    judgement, baseline = judgement_of(case, report), by_check_grads(case)
    return Judged(name, case.label, judgement, report.verdict, seconds, _truth(case), baseline, first_line)


def _truth(case: Case) -> str:
    try:
        return truth_of(case)
    except Exception as error:
        return f"differences raise {short_message(error)}"


PROCESSES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Does training survive kills, damaged files and hostile files?

Faults, and what counts as survived:
- Processes that train are killed at random moments, most of them while they save. No checkpoint may
  be lost, and the run must end bit for bit like one that was not killed.
- Bits of checkpoints and of the history are flipped, and files are cut short. `fit` must warn or
  raise, or the fault must have no effect. Numbers of damaged lines may be NaN if a warning says so.
- Something else takes the place of a file: links, pipes, directories, sparse files of a tebibyte,
  nested bombs. Nothing outside of the run's directory may be touched.
- Checkpoints are changed and signed again with valid digests, as their author could: no content may
  crash the process or allocate without limit, or change the params and the optimiser's state.
- ONNX models have other sizes, types, names, attributes and bytes. `load_onnx` must raise one error
  of at most 300 characters, or read the parameters of the model.

Each trial runs in a process that may use 12 GiB and a minute. Counted as a crash are its death, and
a minute without an end. An error is clear if its type is ValueError, TypeError or OSError and its
message begins with the name of the argument.

Expectation: nothing is silently wrong, no error is unclear, and no process crashes.
"""

import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.common import Options, Outcome, main, progress
from experiments.fault_injection import kills
from experiments.fault_injection.trials import CRASHED, NOTICED, UNCHANGED, UNCLEAR, WRONG, TrialProcess, make_trials

RUNS, KILLS = 4, 12


def run_kills(options: Options) -> dict[str, int]:
    """Kills processes of several runs, and counts how that ended."""
    found: Counter[str] = Counter()
    rng = np.random.default_rng(options.seed)
    runs, count = (1, 1) if options.quick else (RUNS, KILLS)
    with tempfile.TemporaryDirectory() as temporary:
        compiled = Path(temporary) / "compiled"
        for number in range(runs):
            directory = Path(temporary) / str(number)
            directory.mkdir()
            killed = kills.kills(directory, count, compiled, rng)
            for _, kill in zip(progress(range(count), f"kills, run {number + 1} of {runs}"), killed, strict=True):
                found["tried"] += 1
                found["while saving"] += kill.was_saving
                found["lost checkpoints"] += kill.lost
            found["runs"] += 1
            found["runs that ended differently"] += not kills.ends_like_an_uninterrupted_run(directory, compiled)
    return dict(found)


def run_trials(kind: str, options: Options) -> list[dict[str, str]]:
    """Runs all trials of a kind, and returns how each ended."""
    names = [(trial.group, trial.name) for trial in make_trials(kind, options.seed, options.quick)]
    found = []
    with tempfile.TemporaryFile("w+") as errors, closing(TrialProcess(kind, options.seed, options.quick, errors)) as process:
        for number, (group, name) in enumerate(progress(names, {"runs": "files of a run", "onnx": "ONNX models"}[kind])):
            found.append({"group": group, "name": name[:200], **process.run(number)._asdict()})
    return found


def counted(found: list[dict[str, str]]) -> dict[str, dict[str, int]]:
    """Counts the outcomes of each group of trials."""
    groups: dict[str, dict[str, int]] = {}
    for trial in found:
        outcomes = (NOTICED, UNCHANGED, WRONG, UNCLEAR, CRASHED)
        counts = groups.setdefault(trial["group"], {"tried": 0} | dict.fromkeys(outcomes, 0))
        counts["tried"] += 1
        counts[trial["outcome"]] += 1
    return dict(sorted(groups.items()))


def run(options: Options) -> Outcome:
    """Makes all faults."""
    killed = run_kills(options)
    trials = {kind: run_trials(kind, options) for kind in ("runs", "onnx")}
    groups = counted([*trials["runs"], *trials["onnx"]])
    total = {outcome: sum(counts[outcome] for counts in groups.values()) for outcome in next(iter(groups.values()))}
    bad = [trial for found in trials.values() for trial in found if trial["outcome"] not in (NOTICED, UNCHANGED)]
    results: dict[str, Any] = {"groups": groups, "not survived": bad, "examples": _examples(trials)}
    return Outcome({"kills": killed, "files": total}, results, {"outcomes.png": draw(groups)})


def _examples(trials: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    """Returns a noticed trial of each group, which shows its message."""
    noticed = [trial for found in trials.values() for trial in found if trial["outcome"] == NOTICED]
    return list({trial["group"]: trial for trial in noticed}.values())


def draw(groups: dict[str, dict[str, int]]) -> plt.Figure:
    """Plots the outcomes of each group."""
    figure, axis = plt.subplots(figsize=(8, 0.4 * len(groups) + 1.2), layout="constrained")
    left = np.zeros(len(groups))
    for outcome in (NOTICED, UNCHANGED, WRONG, UNCLEAR, CRASHED):
        counts = np.array([group[outcome] for group in groups.values()])
        axis.barh(list(groups), counts, left=left, label=outcome)
        left += counts
    axis.invert_yaxis()
    axis.set_xlabel("trials")
    axis.legend(fontsize="small")
    return figure


if __name__ == "__main__":
    main(run)

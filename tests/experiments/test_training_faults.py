"""The judgement of `experiments.faults` can fail: wrong results, unclear errors and crashes are counted as such."""

import tempfile

import numpy as np
import pytest

from experiments.fault_injection import run_files, trials
from experiments.fault_injection.kills import newest_step

PARTS = {
    "params": [np.arange(3.0)],
    "history": [np.array([3.0, 2.0, 1.0])],
    "evaluations": [np.array([0, 3]), np.array([5.0, 4.0])],
}
NAMES = tuple(PARTS)


@pytest.fixture(autouse=True)
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(run_files, "base", lambda: run_files.Base(tmp_path, PARTS))


@pytest.mark.parametrize(
    ("part", "leaves", "warned", "expected"),
    [
        ("params", [np.arange(3.0)], "", ""),
        ("params", [np.array([0.0, 1.0, 2.5])], "history.jsonl", "differs: params"),
        ("params", [], "history.jsonl", "differs: params"),
        ("history", [np.array([3.0, np.nan, 1.0])], "", "differs: history"),
        ("history", [np.array([3.0, np.nan, 1.0])], "history.jsonl: lost", ""),
        ("history", [np.array([3.0, 7.0, 1.0])], "history.jsonl: lost", "differs: history"),
        ("history", [np.array([3.0, 2.0])], "history.jsonl: lost", "differs: history"),
        ("evaluations", [np.array([3]), np.array([4.0])], "history.jsonl: lost", ""),
        ("evaluations", [np.array([3]), np.array([4.0])], "a checkpoint is damaged", "differs: evaluations"),
        ("evaluations", [np.array([3]), np.array([4.5])], "history.jsonl: lost", "differs: evaluations"),
    ],
)
def test_a_result_may_lack_only_what_a_warning_names(part, leaves, warned, expected):
    assert run_files._differences(PARTS | {part: leaves}, warned, NAMES) == expected


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("source: got 3, expected 4"), trials.NOTICED),
        (ValueError("got 3, expected 4"), trials.UNCLEAR),
        (ValueError("source: " + "x" * 300), trials.UNCLEAR),
        (RecursionError("source: too deep"), trials.UNCLEAR),
        (KeyError("source: "), trials.UNCLEAR),
        (OSError(28, "No space left"), trials.UNCLEAR),
    ],
)
def test_an_error_is_clear_if_it_is_short_and_names_the_argument(error, outcome):
    with pytest.raises(type(error)) as caught:
        raise error
    assert trials.outcome_of_error(caught.value, "source: ", 300).outcome == outcome


def test_a_process_that_ends_is_a_crash(monkeypatch):
    monkeypatch.setattr(trials.sys, "executable", "/bin/false")
    with tempfile.TemporaryFile("w+") as errors:
        process = trials.TrialProcess("onnx", 0, True, errors)
        assert process.run(0) == trials.Ended(trials.CRASHED, "exit status 1: ")
        assert process.run(1).outcome == trials.CRASHED  # another process, for the next trial
        process.close()


def test_the_newest_checkpoint_is_found_by_its_name(tmp_path):
    assert newest_step(tmp_path) == -1
    for step in (5, 10):
        (tmp_path / f"step_{step:012d}_0123abcd").mkdir()
    (tmp_path / ".tmp_step_000000000015_0123abcd").mkdir()
    assert newest_step(tmp_path) == 10

"""Tests what all experiments share: the list, the command line and the record.

The last tests check `digits` on its real data.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import common, digits, gru_by_hand
from experiments.__main__ import experiments, listing, minutes
from gru_jax.train.json_values import to_json_value

ROOT = Path(__file__).parents[2]


def run_module(*arguments):
    """Runs `python -m ARGUMENTS` and returns what it prints."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_listing_shows_every_experiment_with_its_question():
    listed = run_module("experiments")
    assert "python -m experiments.NAME" in listed
    assert {"count_ones", "digits", "gru_by_hand"} <= set(experiments())
    assert max(map(len, listed.splitlines())) <= 80  # the width of what is no terminal
    for name, question in experiments().items():
        words = " ".join(listed.split(f"  {name} ")[1].split())
        assert re.match(rf"(\d+|\?) {re.escape(question)}", words)
        assert question.endswith("?")


def call_main(run, module, monkeypatch, *arguments):
    """Runs the command line in this process, with `run` as the experiment of the module."""
    run.__module__ = module.__name__
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    common.main(run)


def test_help_shows_the_question_and_the_defaults(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        call_main(lambda options: None, gru_by_hand, monkeypatch, "--help")
    printed = capsys.readouterr().out
    words = " ".join(printed.replace("│", " ").split())
    assert experiments()["gru_by_hand"] in words
    assert "--no-quick" not in words
    assert len(printed.splitlines()) < 25
    for option, default in {"--quick": "False", "--seed": "0", "--out DIR": "runs/NAME"}.items():
        assert re.search(rf"{option}\b.*?\(default: {default}\)", words)
    assert re.search(r"--device {cpu,gpu}.*?\(default: the one that JAX picks\)", words)
    assert "None" not in words
    assert "A full run takes about 1 min on two CPU cores." in words


def test_an_experiment_without_a_committed_run_is_listed_and_described(monkeypatch):
    assert minutes("new") is None
    monkeypatch.setattr("experiments.__main__.experiments", lambda: {"new": "What is new?"})
    assert listing(80) == "  new   ?  What is new?"
    assert common._description("new", "What is new?") == "What is new?\n\nMethod, expectation and sources: experiments/new.py"


def test_to_json_converts_arrays_and_non_finite_numbers():
    record = {"a": np.float32(1.5), "b": [np.nan, np.inf], "c": jnp.arange(2), 3: (True, None)}
    converted = to_json_value(record, nonfinite=str)
    assert converted == {"a": 1.5, "b": ["nan", "inf"], "c": [0, 1], "3": [True, None]}
    json.dumps(converted, allow_nan=False)


NEEDS_A_GPU = {"gpu_speed"}  # no run is committed, because no GPU was ever at hand


@pytest.mark.parametrize("name", sorted(set(experiments()) - NEEDS_A_GPU))
def test_committed_results_come_from_a_full_run(name):
    record = json.loads((ROOT / "experiments" / "results" / name / "results.json").read_text("utf-8"))
    assert record["experiment"] == name
    assert "--quick" not in record["command"]
    assert record["summary"]


@pytest.mark.parametrize(
    ("devices", "batch", "expected"), [(1, 32, None), (2, 32, 2), (6, 32, 4), (64, 128, 16), (4, 8, None), (3, 32, 2)]
)
def test_mesh_for_divides_the_batch_and_keeps_every_device_busy(monkeypatch, devices, batch, expected):
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices() * devices)
    mesh = common.mesh_for(batch)
    assert (None if mesh is None else mesh.size) == expected


@pytest.mark.slow
def test_experiment_writes_its_record_and_prints_its_summary_last(tmp_path):
    assert_recorded(run_module("experiments.gru_by_hand", "--quick", "--seed", "3", "--out", str(tmp_path)), tmp_path)


def test_an_experiment_that_computes_nothing_is_recorded_too(tmp_path, monkeypatch, capsys):
    run = lambda options: common.Outcome({"answer": np.float32(1.5)}, {"seed": options.seed}, {"empty.png": plt.figure()})
    call_main(run, gru_by_hand, monkeypatch, "--quick", "--seed", "3", "--out", str(tmp_path))
    record = assert_recorded(capsys.readouterr().out, tmp_path)
    assert (record["summary"], record["results"]) == ({"answer": 1.5}, {"seed": 3})


def assert_recorded(printed, tmp_path):
    """Asserts that `gru_by_hand` wrote what it printed, and returns its record."""
    summary = json.loads(printed.splitlines()[-1])
    assert re.fullmatch(r"gru_by_hand: done after \d+ s\. .* has results\.json and .*\.png\.", printed.splitlines()[-2])
    record = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert summary["experiment"] == record["experiment"] == "gru_by_hand"
    assert record["command"].endswith("--quick --seed 3")
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png"}
    return record


def test_an_interrupted_experiment_says_that_it_wrote_nothing(tmp_path, monkeypatch, capsys):
    def run(options):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        call_main(run, digits, monkeypatch, "--out", str(tmp_path / "out"))
    assert stopped.value.code == 130
    assert "Nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_digits_splits_do_not_overlap_and_both_have_every_class():
    train, test = digits.load()
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert set(train.labels) == set(test.labels) == set(range(10))
    rows = {image.tobytes() for image in train.xs}
    assert not rows & {image.tobytes() for image in test.xs}
    assert train.xs.min() == 0
    assert train.xs.max() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", digits.CELLS)
def test_derived_gradient_equals_autodiff_on_a_real_batch(name):
    train, _ = digits.load()
    batch = jax.tree.map(lambda leaf: leaf[:16], train)
    params = digits.init(digits.CELLS[name], jax.random.key(0))
    assert digits.gradient_difference(digits.CELLS[name], params, batch) < 1e-5

"""What the experiments share: the list, the record, and `digits` on its real batch."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common, digits
from experiments.__main__ import experiments
from gru_jax.train.json_values import to_json_value

ROOT = Path(__file__).parents[2]


def test_the_list_names_every_experiment_with_its_question():
    listed = subprocess.run([sys.executable, "-m", "experiments"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"count_ones", "digits", "gru_by_hand"} <= set(experiments())
    for name, question in experiments().items():
        assert f"python -m experiments.{name}" in listed
        assert question.endswith("?")
        assert question in listed


def test_a_record_holds_no_number_json_cannot():
    record = {"a": np.float32(1.5), "b": [np.nan, np.inf], "c": jnp.arange(2), 3: (True, None)}
    plain = to_json_value(record, nonfinite=str)
    assert plain == {"a": 1.5, "b": ["nan", "inf"], "c": [0, 1], "3": [True, None]}
    json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize("name", sorted(experiments()))
def test_committed_results_are_those_of_a_full_run(name):
    record = json.loads((ROOT / "experiments" / "results" / name / "results.json").read_text("utf-8"))
    assert record["experiment"] == name
    assert "--quick" not in record["command"]
    assert record["summary"]


@pytest.mark.parametrize(
    ("devices", "batch", "expected"), [(1, 32, None), (2, 32, 2), (6, 32, 4), (64, 128, 16), (4, 8, None), (3, 32, 2)]
)
def test_a_mesh_has_the_devices_that_divide_a_batch_and_leaves_sequences_to_each(monkeypatch, devices, batch, expected):
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices() * devices)
    mesh = common.mesh_for(batch)
    assert (None if mesh is None else mesh.size) == expected


def test_an_experiment_writes_its_record_and_prints_its_summary_last(tmp_path):
    command = [sys.executable, "-m", "experiments.gru_by_hand", "--quick", "--seed", "3", "--out", str(tmp_path)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    summary = json.loads(printed.splitlines()[-1])
    record = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert summary["experiment"] == record["experiment"] == "gru_by_hand"
    assert record["command"].endswith("--quick --seed 3")
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png"}


def test_the_digits_are_split_without_overlap_and_every_class_is_in_both():
    train, test = digits.load()
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert set(train.labels) == set(test.labels) == set(range(10))
    rows = {image.tobytes() for image in train.xs}
    assert not rows & {image.tobytes() for image in test.xs}
    assert train.xs.min() == 0
    assert train.xs.max() == 1


@pytest.mark.parametrize("name", digits.CELLS)
def test_on_a_real_batch_the_derived_gradient_is_that_of_autodiff(name):
    train, _ = digits.load()
    batch = jax.tree.map(lambda leaf: leaf[:16], train)
    params = digits.init(digits.CELLS[name], jax.random.key(0))
    assert digits.gradient_difference(digits.CELLS[name], params, batch) < 1e-5

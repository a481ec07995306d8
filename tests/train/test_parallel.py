"""Training on several devices or processes gives the same parameters as on one device."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def start(mode, devices, process=0, processes=1, port=0, directory="none"):
    command = [sys.executable, "-m", "tests.train.distributed", mode, *map(str, (devices, process, processes, port, directory))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(child):
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(
    ("devices", "names"), [(2, "rows,buckets,stream,noise"), pytest.param(4, "all", marks=pytest.mark.slow)]
)
def test_every_batch_source_trains_the_same_parameters_on_a_mesh_as_on_one_device(devices, names):
    found = result_of(start("compare", devices, directory=names))
    assert len(found["differences"]) == (10 if names == "all" else 4)
    for name, difference in found["differences"].items():
        assert difference < 1e-12, name
    assert found["all_reduces"] == 1


def test_indivisible_batches_raise_noise_is_reproducible_and_an_evaluation_can_be_sharded():
    found = result_of(start("errors", 2))
    assert "batch_size: got 7, expected a multiple of 2, the number of devices" in found["messages"]["batch_size"]
    assert "data: got 5, expected a multiple of 2" in found["messages"]["stream"]
    assert "data: got 7, expected a multiple of 2" in found["messages"]["data"]
    assert found["repeats"]
    assert found["variance_over_devices"] > 1e-4
    assert found["evaluation_is_sharded"]
    assert found["difference_of_evaluations"] < 1e-13


@pytest.mark.slow
def test_two_processes_train_the_same_parameters_as_one_and_resume(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = [start("train", 1, process, 2, port, tmp_path / "two") for process in range(2)]
    alone = start("train", 1, directory=tmp_path / "one")
    one, first, second = result_of(alone), *map(result_of, children)
    assert (one["devices"], first["devices"], second["devices"]) == (1, 2, 2)
    for run in ("params", "windows"):
        assert first[run] == second[run]
        np.testing.assert_allclose(first[run], one[run], rtol=1e-10, atol=1e-12)
    assert sorted(path.name[:17] for path in (tmp_path / "two").glob("step_*")) == ["step_000000000009", "step_000000000018"]

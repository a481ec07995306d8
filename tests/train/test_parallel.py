"""Training on several devices or processes gives the same parameters as on one device."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gru_jax._jax import failures
from gru_jax.train import checkpoint
from tests.problems import assert_raises

ROOT = Path(__file__).parents[2]


def start(mode, devices, process=0, processes=1, port=0, directory="none"):
    command = [sys.executable, "-m", "tests.train.distributed", mode, *map(str, (devices, process, processes, port, directory))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(child):
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def assert_equal_to_one_device(found, names):
    assert len(found["differences"]) == len(names)
    for name, difference in found["differences"].items():
        assert difference < 1e-12, name
    assert found["all_reduces"] == 1


@pytest.mark.slow
def test_every_batch_source_trains_the_same_parameters_on_a_mesh_as_on_one_device():
    assert_equal_to_one_device(result_of(start("compare", 4, directory="all")), range(10))


@pytest.mark.slow
def test_two_devices_train_as_one_and_indivisible_batches_raise_and_noise_and_evaluations_are_shared():
    names = ("generated", "noise")
    found = result_of(start("compare and errors", 2, directory=",".join(names)))
    assert_equal_to_one_device(found, names)
    assert "batch_size: got 7, expected a multiple of 2, the number of devices" in found["messages"]["batch_size"]
    assert "data: got 5, expected a multiple of 2" in found["messages"]["stream"]
    assert "data: got 7, expected a multiple of 2" in found["messages"]["data"]
    assert found["repeats"]
    assert found["variance_over_devices"] > 1e-4
    assert found["evaluation_is_sharded"]
    assert found["difference_of_evaluations"] < 1e-13


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "survivor", "message", "status"),
    [
        ("callback", 0, "Process 1 of 2 failed, which ends the run in all processes. ValueError: this callback fails", 1),
        ("write", 1, "Process 0 of 2 failed.*OSError: .*the checkpoint of step 6 could not be written.*No space left", 1),
        ("kill", 0, "Task 1 heartbeat timeout", -6),
    ],
)
def test_a_failure_in_one_process_ends_the_other_which_says_why(mode, survivor, message, status, tmp_path):
    port = free_port()
    children = [start(mode, 1, process, 2, port, tmp_path / "run") for process in range(2)]
    found = {}
    for process in (survivor, 1 - survivor):
        out, err = children[process].communicate(timeout=100)
        found[process] = err, time.time() - json.loads(out.splitlines()[-1])["time"]
    assert re.search(message, found[survivor][0], re.DOTALL), found[survivor][0][-2000:]
    assert children[survivor].returncode == status
    assert max(seconds for _, seconds in found.values()) < 45  # 12 on a machine that does nothing else
    assert checkpoint.load_latest(tmp_path / "run").step >= 3


class Store:
    """Imitates the key-value store of several processes."""

    def __init__(self):
        self.values, self.signed_off = {}, 0

    def key_value_set(self, key, value):
        self.values[key] = value

    def key_value_dir_get(self, directory):
        return sorted((key, value) for key, value in self.values.items() if key.startswith(directory))

    def shutdown(self):
        self.signed_off += 1


def test_a_failure_is_told_to_the_other_processes_which_raise_or_exit(monkeypatch, capsys):
    store, exits = Store(), []
    for name, value in {"_client": lambda: store, "SECONDS_BETWEEN_LOOKS": 0.01, "SECONDS_TO_END": 0.05}.items():
        monkeypatch.setattr(failures, name, value)
    monkeypatch.setattr(failures.os, "_exit", exits.append)
    monkeypatch.setattr(failures.jax, "process_count", lambda: 2)
    monkeypatch.setattr(failures.jax, "process_index", lambda: 1)
    with pytest.raises(ValueError, match="mine"), failures.FailureWatch():
        raise ValueError("mine" * 1000)
    ((key, text),) = store.values.items()
    assert text == ("ValueError: " + "mine" * 1000)[:300]
    with pytest.raises(SystemExit), failures.FailureWatch():  # every process exits after a signal
        raise SystemExit(143)
    assert list(store.values) == [key]

    monkeypatch.setattr(failures.jax, "process_index", lambda: 0)
    watch = failures.FailureWatch()
    monkeypatch.setattr(watch, "_directory", key.rpartition("/")[0] + "/")

    def wait_in_a_collective_operation():
        with watch:
            watch.raise_if_failed()
            while not exits:
                time.sleep(0.01)
            watch.raise_if_failed()

    message = r"Process 1 of 2 failed, which ends the run in all processes\. ValueError: minemine"
    assert_raises(wait_in_a_collective_operation, RuntimeError, message)
    assert exits == [1]
    assert store.signed_off == 1
    assert list(store.values) == [key]
    assert "Process 1 of 2 failed" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_the_same_parameters_as_one_and_resume(tmp_path):
    port = free_port()
    children = [start("train", 1, process, 2, port, tmp_path / "two") for process in range(2)]
    alone = start("train", 1, directory=tmp_path / "one")
    one, first, second = result_of(alone), *map(result_of, children)
    assert (one["devices"], first["devices"], second["devices"]) == (1, 2, 2)
    for run in ("params", "windows", "stream"):
        assert first[run] == second[run]
        np.testing.assert_allclose(first[run], one[run], rtol=1e-10, atol=1e-12)
    assert sorted(path.name[:17] for path in (tmp_path / "two").glob("step_*")) == ["step_000000000009", "step_000000000018"]

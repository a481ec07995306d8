"""No crash, full disk or signal loses a checkpoint, and the run resumes from the newest one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import gru_jax as gj
from gru_jax.train import checkpoint, manifest
from tests.problems import assert_raises
from tests.train.checkpoints import saved

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Simulates a killed process: `except Exception` does not catch it, so nothing is cleaned up."""


def is_intact(found):
    """Tells whether a checkpoint equals the one that `saved` makes for its step."""
    return (
        found.metadata == {"at": found.step} and (found.arrays["W"] == found.step).all() and found.arrays["count"] == found.step
    )


CALLS = [(checkpoint, "write_arrays"), (checkpoint, "write_manifest"), (manifest, "sync"), (checkpoint, "sync"), (os, "rename"), (checkpoint, "publish"), (checkpoint, "prune"), (checkpoint.shutil, "rmtree")]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "name", "after"),
    [
        # A save syncs each file, so that after one call is before the next.
        pytest.param(
            module,
            name,
            after,
            id=f"{module.__name__}.{name}-{'after' if after else 'before'}",
            marks=pytest.mark.slow if module is manifest and after else (),
        )
        for module, name in CALLS
        for after in (False, True)
    ],
)
def test_a_crash_at_any_point_of_a_save_leaves_the_newest_valid_checkpoint(module, name, after, tmp_path, monkeypatch):
    """Crashes before or after each call of each function that a save calls, one after another."""
    for nth in range(1, 30):
        directory = tmp_path / str(nth)
        for step in (1, 2, 3):
            checkpoint.save(directory, saved(step), max_to_keep=2)
        calls, original = [], getattr(module, name)

        def crash(*args, nth=nth, calls=calls, original=original, **options):
            calls.append(1)
            if len(calls) == nth and not after:
                raise Killed
            result = original(*args, **options)
            if len(calls) == nth:
                raise Killed
            return result

        with monkeypatch.context() as patch:
            patch.setattr(module, name, crash)
            try:
                checkpoint.save(directory, saved(4), max_to_keep=2)
                break  # a save makes fewer than nth calls
            except Killed:
                pass
        found = checkpoint.load_latest(directory)
        assert found.step in (3, 4)
        assert is_intact(found)
        checkpoint.save(directory, saved(5), max_to_keep=2)  # the next run cleans up
        assert is_intact(checkpoint.load_latest(directory))
        assert not list(directory.glob(".tmp_*"))
    else:
        pytest.fail("a save makes more than 29 calls")
    assert nth > 1


@pytest.mark.parametrize("nth", range(1, 4))
def test_a_crash_while_replacing_a_damaged_checkpoint_leaves_a_valid_one(nth, tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint.save(tmp_path, saved(step), max_to_keep=2)
    (tmp_path / "step_000000000002_0123abcd" / "manifest.json").write_text("")
    # Orbax renames first, then the damaged checkpoint moves aside, then the new one takes its place
    renames, original = [], os.rename

    def crash(*args):
        renames.append(args)
        if len(renames) == nth:
            raise Killed
        original(*args)

    monkeypatch.setattr(os, "rename", crash)
    with pytest.raises(Killed):
        checkpoint.save(tmp_path, saved(2), max_to_keep=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the damaged checkpoint may still be there
        found = checkpoint.load_latest(tmp_path)
    assert found.step == 1
    assert is_intact(found)


@pytest.mark.parametrize(("module", "name"), [(checkpoint, "write_arrays"), (manifest, "sync"), (os, "rename")])
@pytest.mark.parametrize("number", [28, 13, 30], ids=["disk full", "permission denied", "read only"])
def test_a_failed_write_raises_and_no_checkpoint_is_lost(module, name, number, tmp_path, monkeypatch):
    checkpoint.save(tmp_path, saved(1), max_to_keep=2)

    def fails(*args):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fails)
        assert_raises(
            lambda: checkpoint.save(tmp_path, saved(2), max_to_keep=2),
            OSError,
            f"{tmp_path}; earlier checkpoints are unchanged.*{os.strerror(number)}",
        )
    assert checkpoint.load_latest(tmp_path).step == 1
    assert not list(tmp_path.glob(".tmp_*"))


# Tests that train in a child process


def process(directory, steps=40, pause=0.0):
    command = [sys.executable, "-m", "tests.train.problem", str(directory), str(steps), str(pause)]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(directory) + "_cache",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(directory, steps=40):
    """Returns the digests of a run that is not interrupted."""
    out, err = process(directory, steps).communicate(timeout=120)
    lines = out.splitlines()
    assert lines, err
    return {name: value for name, value in json.loads(lines[-1]).items() if name != "pid"}


def until(child, line):
    """Reads the output of the child up to and including `line`."""
    for said in child.stdout:
        if said.strip() == line:
            return
    raise AssertionError(f"the child ended without {line}: {child.stderr.read()}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("uninterrupted") / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_execution_saves_and_exits(number, status, tmp_path, uninterrupted):
    child = process(tmp_path / "run", pause=0.5)
    until(child, "step 10")
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == status
    assert checkpoint.load_latest(tmp_path / "run").step in (10, 15)
    assert finished(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_a_second_signal_exits_at_once(tmp_path):
    child = process(tmp_path / "run", pause=20.0)
    until(child, "step 5")
    child.send_signal(signal.SIGTERM)
    time.sleep(1)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=10)
    assert child.returncode == 143


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_newest_checkpoint(tmp_path, uninterrupted):
    child = process(tmp_path / "run", pause=0.3)
    until(child, "step 20")
    child.kill()
    child.communicate()
    # step 15 may still be being saved, but only after step 10 has been
    assert checkpoint.load_latest(tmp_path / "run").step >= 10
    assert finished(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_result(tmp_path):
    """Kills half of the processes while they start, and half while they train."""
    began = time.monotonic()
    uninterrupted = finished(tmp_path / "uninterrupted", steps=200)
    took = time.monotonic() - began
    rng, reached, directory = np.random.default_rng(int.from_bytes(os.urandom(4), "little")), 0, tmp_path / "run"
    for kill in range(8):
        child = process(directory, steps=200, pause=0.1)
        if kill % 2:
            child.stdout.readline()
            child.stdout.readline()  # the second execution has ended, so the first is saved
            time.sleep(rng.uniform(0, 0.5))
        else:
            time.sleep(rng.uniform(0, took))
        child.kill()
        child.communicate()
        found = checkpoint.load_latest(directory)
        assert (found.step if found else 0) >= reached
        reached = found.step if found else 0
    assert reached > 0
    assert finished(directory, steps=200) == uninterrupted


SAVES_FOREVER = """
import sys; from pathlib import Path; import numpy as np; import orbax.checkpoint
from gru_jax.train import checkpoint; from tests.train.checkpoints import saved
start = checkpoint.load_latest(Path(sys.argv[1]))
print("ready", flush=True)
for step in range(start.step + 1 if start else 1, 10**6): print(checkpoint.save(Path(sys.argv[1]), saved(step), max_to_keep=2), flush=True)
"""


@pytest.mark.slow
def test_kills_during_saves_always_leave_a_valid_checkpoint(tmp_path):
    rng, reached = np.random.default_rng(int.from_bytes(os.urandom(4), "little")), 0
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVES_FOREVER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        until(child, "ready")
        for _ in range(rng.integers(2, 20)):
            child.stdout.readline()  # a save has ended
        time.sleep(rng.uniform(0, 0.05))
        child.kill()
        child.communicate()
        found = checkpoint.load_latest(tmp_path)
        if found is not None:
            assert is_intact(found)
            assert found.step >= reached
            reached = found.step
    assert reached > 5


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_although_no_checkpoint_is_due_and_the_run_resumes(number, status, tmp_path):
    from tests.train.problem import digests, fit

    if threading.current_thread() is not threading.main_thread():
        pytest.skip("Python handles signals in its main thread only")
    with pytest.raises(SystemExit) as ended:
        fit(steps=20, checkpoint_dir=tmp_path, callbacks=[lambda info: signal.raise_signal(number)])
    assert ended.value.code == status
    assert checkpoint.load_latest(tmp_path).step == 5
    assert digests(fit(steps=20, checkpoint_dir=tmp_path)) == digests(fit(steps=20))


def test_a_second_signal_exits_without_a_checkpoint(tmp_path):
    from tests.train.problem import fit

    if threading.current_thread() is not threading.main_thread():
        pytest.skip("Python handles signals in its main thread only")

    def callback(info):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the second signal has not ended the run")

    with pytest.raises(SystemExit) as ended:
        fit(steps=20, checkpoint_dir=tmp_path, callbacks=[callback])
    assert ended.value.code == 143
    assert checkpoint.load_latest(tmp_path) is None


def test_a_directory_that_cannot_be_written_to_raises(tmp_path):
    from tests.train.problem import fit

    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        fit(steps=1, checkpoint_dir=tmp_path / "file" / "run")


def test_training_goes_on_while_a_checkpoint_is_written_with_the_state_of_its_step(tmp_path, monkeypatch):
    from tests.train.problem import fit, init

    may_write, original, params = threading.Event(), checkpoint.write_arrays, {}

    def write_arrays(*args):
        assert threading.current_thread() is not threading.main_thread()
        assert may_write.wait(60)
        original(*args)

    def callback(info):
        params[info.step] = [np.array(leaf) for leaf in jax.tree.leaves(info.params)]
        if info.step == 10:  # the checkpoint of step 5 is not written yet
            assert not list(tmp_path.glob("step_*"))
            may_write.set()
            raise ValueError("stop here")

    monkeypatch.setattr(checkpoint, "write_arrays", write_arrays)
    with pytest.raises(ValueError, match="stop here"):
        fit(steps=20, checkpoint_dir=tmp_path, save_every=5, callbacks=[callback])
    assert checkpoint.load_latest(tmp_path).step == 5  # the run has waited for it
    found = jax.tree.leaves(gj.train.load_params(tmp_path, init()))
    for ours, theirs in zip(found, params[5], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_write_error_in_the_background_ends_the_run_and_no_checkpoint_is_lost(tmp_path, monkeypatch):
    from tests.train.problem import fit

    original, calls = checkpoint.write_arrays, []

    def write_arrays(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        original(*args)

    monkeypatch.setattr(checkpoint, "write_arrays", write_arrays)
    train = lambda: fit(steps=40, checkpoint_dir=tmp_path, save_every=5)
    assert_raises(train, OSError, f"the checkpoint of step 10 could not be written to {tmp_path}; earlier .*No space left")
    assert len(calls) == 2
    assert checkpoint.load_latest(tmp_path).step == 5

"""A damaged history loses the damaged lines only, and says which; anything else in its place raises."""

import json
import os
import re
import warnings
import zlib

import numpy as np
import pytest

from gru_jax.train.history import FILE_NAME, History
from gru_jax.train.history_file import as_line
from tests.problems import assert_raises

STEPS = 12


def losses(steps=STEPS):
    return (np.arange(steps) / 7 + 0.1).astype(np.float32)


@pytest.fixture
def written(tmp_path):
    """Writes a history of 12 steps with evaluations after 0, 5 and 12, and returns it with its file."""
    history = History(tmp_path, writes_file=True)
    history.add_evaluation(0, {"error": np.float32(9)})
    history.add_steps(0, {"loss": losses()[:5], "rows": np.arange(10).reshape(5, 2)})
    history.add_evaluation(5, {"error": np.float32(5)})
    history.add_steps(5, {"loss": losses()[5:], "rows": np.arange(10, 24).reshape(7, 2)})
    history.add_evaluation(12, {"error": np.float32(np.nan)})
    history.close()
    return history, tmp_path / FILE_NAME


def reopened(history, path):
    """Opens a history again, and returns it with the texts of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = History(path.parent, writes_file=True, first_step=STEPS, last_evaluation=12, previous_format=history.format())
    again.close()
    return again, " ".join(str(warning.message) for warning in caught)


def test_a_history_is_read_as_it_was_written(written):
    history, path = written
    again, warned = reopened(history, path)
    assert not warned
    for name in ("metric_arrays", "evaluation_arrays"):
        ours, theirs = getattr(again, name)(), getattr(history, name)()
        assert {name: array.dtype for name, array in ours.items()} == {name: array.dtype for name, array in theirs.items()}
        for key in theirs:
            np.testing.assert_array_equal(ours[key], theirs[key])
    line = json.loads(path.read_text().splitlines()[1])
    assert line == {"step": 0, "loss": float(losses()[0]), "rows": [0, 1], "crc32": line["crc32"]}


def test_no_flipped_byte_changes_a_number_or_goes_unnoticed(written):
    """Changes every 11th byte of the file in turn: by one bit, and to a line break."""
    history, path = written
    content, flips, lost_lines = path.read_bytes(), 0, 0
    for at in {*range(0, len(content), 11), len(content) - 1}:
        for byte in {content[at] ^ (1 << at % 8), ord("\n")} - {content[at]}:
            path.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
            again, warned = reopened(history, path)
            found = again.metric_arrays()
            lost = np.flatnonzero(np.isnan(found["loss"]))
            kept = np.setdiff1d(np.arange(STEPS), lost)
            np.testing.assert_array_equal(found["loss"][kept], losses()[kept])
            np.testing.assert_array_equal(found["rows"][kept], np.arange(24).reshape(12, 2)[kept])
            assert len(lost) <= 2  # a damaged line break joins two lines
            evaluations = again.evaluation_arrays()
            assert set(zip(evaluations["step"].tolist(), np.nan_to_num(evaluations["error"]).tolist(), strict=True)) <= {(0, 9.0), (5, 5.0), (12, 0.0)}  # fmt: skip
            if len(lost) or len(evaluations["step"]) < 3:
                assert warned, (at, byte)
                lost_lines += 1
            if len(lost):
                assert re.search(rf"these steps are lost, and are NaN in the history: {lost[0]}\b", warned)
            flips += 1
    assert flips > 150
    assert lost_lines >= flips - 1  # all but the last line break


def test_the_warning_names_steps_and_evaluations(written):
    history, path = written
    lines = path.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[6])["evaluation"]
    lines[3], lines[6] = (lines[i].replace(b"step", b"stop") for i in (3, 6))  # step 2, and the evaluation after step 5
    path.write_bytes(b"".join(lines[:9] + lines[12:]))  # without steps 7 to 9
    again, warned = reopened(history, path)
    assert np.flatnonzero(np.isnan(again.metric_arrays()["loss"])).tolist() == [2, 7, 8, 9]
    assert again.evaluation_arrays()["step"].tolist() == [0, 12]
    assert "these steps are lost, and are NaN in the history: 2, 7 to 9" in warned
    assert "damaged lines were dropped: 4 (after step 1), 7 (after step 4); evaluations" in warned
    path.write_bytes(b"".join(lines[:-1]))
    assert "the evaluation after step 12 is lost" in reopened(history, path)[1]


def test_the_file_is_on_the_disk_before_it_replaces_the_old_one(written, monkeypatch):
    history, path = written
    sizes, replace, temporary = [], os.replace, path.with_name(f".{FILE_NAME}")
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    monkeypatch.setattr(os, "replace", lambda *paths: sizes.append(temporary.stat().st_size) or replace(*paths))
    size = path.stat().st_size
    reopened(history, path)
    assert sizes == [size, size]


@pytest.mark.parametrize("size", range(1, 60, 7))
def test_a_last_line_that_was_cut_off_is_normal(size, written):
    history, path = written
    cut_off = as_line({"step": 12, "loss": 3.0, "rows": [8, 9]})[:size]
    path.write_bytes(path.read_bytes() + cut_off)
    assert not reopened(history, path)[1]
    path.write_bytes(cut_off)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        History(path.parent, writes_file=True).close()  # the run crashed before its first checkpoint
    assert path.read_bytes() == b""


def signed(text):
    return text[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(text)


OTHERS = {
    "a list": b"[1, 2, 3]\n",
    "a list without an end": b"[1, 2, 3]",
    "a nested bomb": b"[" * 100_000 + b"\n",
    "a signed nested bomb": signed(b'{"step": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a signed line without a step": signed(b'{"loss": 1.0}'),
    "a signed line with a list as its step": signed(b'{"step": [1], "loss": 1.0}'),
    "a signed line with a list of metrics": signed(b'{"step": 1, "evaluation": [1.0]}'),
    "a signed line with text as a number": signed(b'{"step": 1, "loss": "1.0x"}'),
    "a signed line with a number for a row": signed(b'{"step": 1, "loss": 1.0, "rows": 3}'),
    "a picture": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_in_the_place_of_the_history_raises_and_is_kept(name, written):
    history, path = written
    path.write_bytes(OTHERS[name])
    assert_raises(lambda: reopened(history, path), ValueError, rf"checkpoint_dir: .*{FILE_NAME}")
    assert path.read_bytes() == OTHERS[name]


def test_a_line_without_end_raises_before_it_fills_the_memory(written):
    history, path = written
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a sparse file of a tebibyte
    assert_raises(lambda: reopened(history, path), ValueError, "line 1: more than 67108864 bytes")


@pytest.mark.parametrize("name", [FILE_NAME, f".{FILE_NAME}"])
@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("a symbolic link", lambda path: path.symlink_to(path.parent / "target")),
        ("a symbolic link", lambda path: path.symlink_to(path.parent / "missing")),
        ("a directory", lambda path: path.mkdir()),
        ("a pipe", os.mkfifo),
    ],
    ids=["link", "dangling link", "directory", "pipe"],
)
def test_links_directories_and_pipes_are_refused_and_never_followed(name, what, make, written):
    history, path = written
    (path.parent / "target").write_text("precious")
    (path.parent / name).unlink(missing_ok=True)
    make(path.parent / name)
    assert_raises(lambda: reopened(history, path), ValueError, f"checkpoint_dir: .*{name} is {what}, expected a regular file")
    assert (path.parent / "target").read_text() == "precious"
    assert not (path.parent / "missing").exists()

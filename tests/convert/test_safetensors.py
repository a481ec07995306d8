"""Tests of safetensors files: round trips, damaged files, and failed writes."""

import json
import os
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.convert.parity import assert_same_bits, random_params
from tests.problems import assert_raises

CELL = gj.stack([gj.bidirectional(gj.gru(reset_after=True))] * 2)


@pytest.mark.parametrize(
    "dtype",
    [np.float32, jnp.bfloat16, pytest.param(np.float16, marks=pytest.mark.slow)],
    ids=lambda dtype: np.dtype(dtype).name,
)
def test_a_round_trip_preserves_every_bit(dtype, tmp_path):
    params = random_params(CELL, dtype)
    gj.convert.save_safetensors(tmp_path / "m.safetensors", gj.convert.to_pytorch(CELL, params), metadata={"format": "pt"})
    assert_same_bits(gj.convert.from_pytorch(CELL, gj.convert.load_safetensors(tmp_path / "m.safetensors")), params)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_transposed_view_is_written_in_its_logical_order(tmp_path):
    """safetensors itself ignores the strides of an array when it writes the memory."""
    matrix = np.arange(6.0).reshape(2, 3)
    tensors = {"T": matrix.T, "every other": matrix[:, ::2], "jax": jnp.asarray(matrix, jnp.float32).T, "number": np.float32(3)}
    gj.convert.save_safetensors(tmp_path / "m.safetensors", tensors)
    for name, array in gj.convert.load_safetensors(tmp_path / "m.safetensors").items():
        np.testing.assert_array_equal(array, tensors[name])
        assert array.shape == np.shape(tensors[name])


def rewritten(whole, **change):
    """Returns the content of a file with some header entries replaced."""
    header, data = parts(whole)
    text = json.dumps(header | change).encode()
    return struct.pack("<Q", len(text)) + text + data


def parts(whole):
    """Splits a file into (header, data)."""
    (length,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def entry(whole, **change):
    """Returns the tensor's entry in the header, changed."""
    return parts(whole)[0]["weight"] | change


DAMAGED = {
    "empty": lambda whole: b"",
    "cut in the header": lambda whole: whole[:20],
    "cut in the data": lambda whole: whole[:-3],
    "longer": lambda whole: whole + b"\0\0\0\0",
    "header beyond the file": lambda whole: struct.pack("<Q", 2**62) + whole[8:],
    "not JSON": lambda whole: whole[:8] + b"x" * (len(whole) - 8),
    "a list": lambda whole: struct.pack("<Q", 2) + b"[]",
    "a pickle": lambda whole: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "huge": lambda whole: rewritten(whole, weight=entry(whole, shape=[2**40, 2**40])),
    "offsets beyond the end": lambda whole: rewritten(whole, weight=entry(whole, data_offsets=[0, 2**40])),
    "overlap": lambda whole: rewritten(whole, again=entry(whole)),
    "unknown dtype": lambda whole: rewritten(whole, weight=entry(whole, dtype="PICKLE")),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_or_hostile_file_raises(damage, tmp_path):
    path = tmp_path / "m.safetensors"
    gj.convert.save_safetensors(path, {"weight": np.ones((3, 4), np.float32)})
    path.write_bytes(damage(path.read_bytes()))
    assert_raises(
        lambda: gj.convert.load_safetensors(path), ValueError, r"m\.safetensors, expected a complete safetensors file"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        gj.convert.save_safetensors(tmp_path / "m", {"a": np.ones(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o640


def test_a_failed_write_raises_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"before")
    save = gj.convert.save_safetensors
    assert_raises(lambda: save(path, {3: np.ones(2)}), TypeError, r"tensors\[3\]: got the name 3, expected a string")
    assert_raises(lambda: save(path, {"a": object()}), TypeError, r"tensors\['a'\]: got object")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save(tmp_path / "nowhere" / "m", {"a": np.ones(2)})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, {"a": np.ones(2)})
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    with pytest.raises(FileNotFoundError, match="absent"):
        gj.convert.load_safetensors(tmp_path / "absent")


def test_a_missing_package_raises_and_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: gj.convert.load_safetensors("m"), lambda: gj.convert.load_onnx("m")):
        assert_raises(call, ImportError, r'is not installed.*pip install "gru_jax\[convert\]"')

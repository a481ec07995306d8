"""Tests that copies of cells, made by pickle or deepcopy, convert like the originals."""

import copy
import pickle

import numpy as np
import pytest

import gru_jax as gj
from tests.convert.parity import assert_same_bits, random_params
from tests.problems import CELLS

AFTER = gj.gru(reset_after=True)
PYTORCH = (gj.convert.from_pytorch, gj.convert.to_pytorch)
KERAS = (gj.convert.from_keras, gj.convert.to_keras)
LINEN = (gj.convert.from_flax_linen, gj.convert.to_flax_linen)
NNX = (gj.convert.from_flax_nnx, gj.convert.to_flax_nnx)
HAIKU = (gj.convert.from_haiku, gj.convert.to_haiku)
EQUINOX = (gj.convert.from_equinox, gj.convert.to_equinox)
ONNX = (gj.convert.from_onnx, gj.convert.to_onnx)

CONVERTIBLE = {f"{name} by ONNX": (cell, *ONNX) for name, cell in CELLS.items() if name != "linear_rnn"} | {
    "linear_rnn by Keras": (gj.linear_rnn(), *KERAS),
    "stack by PyTorch": (gj.stack([AFTER] * 2), *PYTORCH),
    "bidirectional by PyTorch": (gj.bidirectional(gj.lstm()), *PYTORCH),
    "bidirectional stack by PyTorch": (gj.stack([gj.bidirectional(gj.elman("relu"))] * 2), *PYTORCH),
    "mixed stack by Keras": (gj.stack([gj.bidirectional(gj.lstm(), merge="sum"), gj.gru(), AFTER]), *KERAS),
    "bidirectional by ONNX": (gj.bidirectional(gj.lstm(peephole=True)), *ONNX),
    "lstm by linen": (gj.lstm(), *LINEN),
    "lstm by NNX": (gj.lstm(), *NNX),
    "gru by Haiku": (gj.gru(), *HAIKU),
    "elman_relu by Haiku": (gj.elman("relu"), *HAIKU),
    "gru_reset_after by Equinox": (AFTER, *EQUINOX),
}
copied = pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda cell: pickle.loads(pickle.dumps(cell))], ids=["copy", "deepcopy", "pickle"]
)


@copied
@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_copied_cell_converts_like_the_original(name, copied):
    cell, load, save = CONVERTIBLE[name]
    params = random_params(cell, np.float32)
    twin = copied(cell)
    assert_same_bits(save(twin, params), save(cell, params))
    assert_same_bits(load(twin, save(cell, params)), params)


@copied
def test_a_copied_cell_gets_the_hints_of_the_original(copied):
    with pytest.raises(TypeError, match=r"Use gj\.gru\(reset_after=True\)"):
        gj.convert.from_pytorch(copied(gj.gru()), {})
    with pytest.raises(ValueError, match=r"weights\[2\] \(bias\).*Use gj\.gru\(reset_after=True\)"):
        gj.convert.from_keras(copied(gj.gru()), gj.convert.to_keras(AFTER, random_params(AFTER)))


@copied
def test_a_bidirectional_layer_of_a_cell_and_its_copy_has_equal_directions(copied):
    cell = gj.bidirectional(AFTER, copied(AFTER))
    params = random_params(cell, np.float32)
    assert_same_bits(gj.convert.from_pytorch(cell, gj.convert.to_pytorch(cell, params)), params)


@copied
def test_a_stack_of_a_cell_and_its_copy_has_layers_of_one_kind(copied):
    cell = gj.stack([AFTER, copied(AFTER)])
    params = random_params(cell, np.float32)
    assert_same_bits(gj.convert.from_pytorch(cell, gj.convert.to_pytorch(cell, params)), params)


@copied
@pytest.mark.parametrize("cell", [gj.lstm(peephole=True), gj.bidirectional(gj.gru()), gj.stack([gj.gru(), gj.lstm()])])
def test_a_copied_cell_saves_as_onnx(cell, copied, tmp_path):
    gj.convert.save_onnx(tmp_path / "model.onnx", copied(cell), random_params(cell, np.float32))
    first = cell.cells[0] if hasattr(cell, "cells") else cell
    assert gj.convert.load_onnx(tmp_path / "model.onnx", 0).cell == first

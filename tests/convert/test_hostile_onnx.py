"""No ONNX file fills the memory, hangs, or floods the screen: each of these ends in one short error."""

import os
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import gru_jax as gj
from experiments.fault_injection.onnx_files import nested


def tensor(name, dims, data_type=TensorProto.FLOAT, **data):
    found = TensorProto(name=name, data_type=data_type, **data)
    found.dims.extend(dims)
    return found


def model(*, W=None, R=None, name="", nodes=(), inputs=("xs", "W", "R"), **attributes):
    """Returns a model with a GRU of input size 4 and hidden size 1, with the given parts replaced."""
    zeros = lambda name, dims: numpy_helper.from_array(np.zeros(dims, np.float32), name)
    initializers = [W or zeros("W", (1, 3, 4)), R or zeros("R", (1, 3, 1))]
    operator = helper.make_node("GRU", list(inputs), ["ys"], name=name, **attributes)
    return helper.make_model(helper.make_graph([*nodes, operator], "graph", [], [], initializers))


LONG = "W" * 2_000_000
FAR = tensor("W", [1, 3, 4], data_location=TensorProto.EXTERNAL)
FAR.external_data.add(key="location", value="../" * 1_000_000 + "weights.bin")
NUL = tensor("W", [1, 3, 4], data_location=TensorProto.EXTERNAL)
NUL.external_data.add(key="location", value="a\0b")
SOURCES = {
    "no bytes": (b"", "not an ONNX file"),
    "text": (b"this is a text", "not an ONNX file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not an ONNX file"),
    "random bytes": (np.random.default_rng(0).bytes(10_000), "not an ONNX file"),
    "graphs in graphs": (nested(60), "not an ONNX file"),
    "a name of megabytes": (model(name=LONG, hidden_size=7), "got hidden_size=7"),
    "a name of an input of megabytes": (model(inputs=("xs", LONG, "R")), "expected a constant|constant folding"),
    "an attribute of megabytes": (model(activations=[LONG, "Tanh"]), "got the activation WWW"),
    "two operators with names of megabytes": (model(name=LONG, nodes=[helper.make_node("GRU", ["xs", "W", "R"], ["a"], name=LONG + "2")]), "got 2 operators"),
    "a location of megabytes": (model(W=FAR), "got data in (the|another) file"),
    "an operator of another type, of megabytes": (model(nodes=[helper.make_node(LONG, ["xs"], ["a"])], name="n", clip=1.0), "got clip=1"),
    "an attribute of another type": (model(linear_before_reset=float("nan")), r"got linear_before_reset=nan \(float\), expected 0 or 1"),
    "another truth value": (model(linear_before_reset=2), r"got linear_before_reset=2 \(int\), expected 0 or 1"),
    "a list in the place of a number": (model(clip=[1.0, 2.0]), r"got clip=\[1.0, 2.0\] \(list\), expected a number"),
    "a number in the place of a list": (model(activation_alpha=1.0), r"got activation_alpha=1.0 \(float\), expected a list of numbers"),
    "an attribute name of megabytes": (model(**{LONG: 1}), "expected an operator without it"),
    "a thousand attributes": (model(**{f"attribute_{i}": "x" * 1000 for i in range(1000)}), "got attribute_.*expected an operator without it"),
    "a thousand operators": (model(nodes=[helper.make_node("GRU", ["xs", "W", "R"], [f"{i}"], name=f"operator {i}") for i in range(1000)]), "got 1001 operators.*Pass the name or index of one"),
    "a location that is no path": (model(W=NUL), "got data in (the|another) file"),
    "a tebibyte of elements": (model(W=tensor("W", [1, 3, 1 << 38], float_data=[0.0])), "W: got a tensor of .* expected data for dims"),
    "2**62 elements of four bits": (model(W=tensor("W", [1, 3, 1 << 62], TensorProto.INT4, int32_data=[0])), "W: got a tensor of"),
    "an overflow to twelve elements": (model(W=tensor("W", [1 << 62, 4, 12], raw_data=b"\0" * 48)), "W: got a tensor of"),
    "a negative dimension": (model(W=tensor("W", [1, -1, 4], raw_data=b"\0" * 48)), "W: got a tensor of"),
    "two negative dimensions": (model(W=tensor("W", [-1, -3, 4], raw_data=b"\0" * 48)), "W: got a tensor of"),
    "a hundred thousand dimensions": (model(W=tensor("W", [1 << 40] * 100_000, raw_data=b"\0" * 48)), "W: got a tensor of"),
    "no elements of 2**62 rows": (model(R=tensor("R", [0, 1 << 62, 1])), "R: got"),
    "an unknown type": (model(W=tensor("W", [1, 3, 4], 99, raw_data=b"\0" * 48)), "W: got a tensor that onnx cannot read"),
    "text as weights": (model(W=tensor("W", [1, 3, 4], TensorProto.STRING, string_data=[b"x"] * 12)), r"\['W'\]: got"),
    "text that is not Unicode": (model(W=tensor("W", [1, 3, 4], TensorProto.STRING, string_data=[b"\xff"] * 12)), "W: got a tensor that onnx cannot read"),
    "hidden_size of 2**62": (model(hidden_size=1 << 62), "got hidden_size=4611686018427387904, expected 1"),
    "weights from a cycle": (model(inputs=("xs", "a", "R"), nodes=[helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]), "got W .'a'. from another operator"),
    "an operator that is its own input": (model(inputs=("xs", "ys", "R")), "got W .'ys'. from another operator"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_a_hostile_model_raises_one_short_error(name, tmp_path):
    source, message = SOURCES[name]
    content = source if isinstance(source, bytes) else source.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    for source in (content, tmp_path / "model.onnx"):
        began = time.monotonic()
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            gj.convert.load_onnx(source)
        assert len(str(caught.value)) <= 300
        assert time.monotonic() - began < 10
        if " … " in str(caught.value):
            assert caught.value.__context__ is None  # or Python would print the long message too


def test_a_model_of_this_size_is_read():
    assert gj.convert.load_onnx(model()).params.W_z.shape == (4, 1)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: path.mkdir(), ValueError, "a directory, expected an ONNX model"),
        (os.mkfifo, ValueError, "a pipe or a device, expected an ONNX model"),
        (lambda path: path.symlink_to("/dev/zero"), ValueError, "a pipe or a device, expected an ONNX model"),
        (lambda path: None, FileNotFoundError, "which does not exist, expected an ONNX model"),
        (sparse, ValueError, "of 1099511627776 bytes, expected"),
    ],
    ids=["directory", "pipe", "device", "missing", "sparse"],
)
def test_a_path_that_is_not_a_file_raises(make, error, message, tmp_path):
    make(tmp_path / "model.onnx")
    with pytest.raises(error, match=f"source: got .*{message}"):
        gj.convert.load_onnx(tmp_path / "model.onnx")


def test_external_data_that_are_a_pipe_or_a_link_outside_are_refused(tmp_path):
    outside = tensor("W", [1, 3, 4], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="weights.bin")
    onnx.save(model(W=outside), tmp_path / "model.onnx")
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        make(tmp_path / "weights.bin")
        with pytest.raises(ValueError, match=r"got data in the file 'weights.bin', expected one that exists in the folder"):
            gj.convert.load_onnx(tmp_path / "model.onnx")
        (tmp_path / "weights.bin").unlink()

"""Tests of ONNX models: saving, loading those of other programs, and errors.

The recurrent operators of onnxruntime are float32. In float64, values are compared with
`onnx.reference` here, and gradients in tests/cells/test_onnx_oracle.py.
"""

import io

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import gru_jax as gj
from gru_jax.layers.bidirectional import Bidirectional
from tests.convert.parity import XS, B, D, H, T, assert_same_bits, library, random_params, random_state
from tests.problems import ACTIVATED, assert_close, assert_raises
from tests.problems import CELLS as ALL

CELLS = {name: cell for name, cell in ALL.items() if name != "linear_rnn"}
LENGTHS = np.array([T, 3, 0], np.int32)


BOTH_WAYS = ("gru", "gru_reset_after", "lstm_peephole", "elman_identity")
COMPOSED = (
    CELLS
    | {f"bidirectional {name}": gj.bidirectional(CELLS[name]) for name in BOTH_WAYS}
    | ACTIVATED
    | {
        "different activations": gj.bidirectional(ACTIVATED["elman_leaky_relu"], gj.elman("identity")),
        "different gates": gj.bidirectional(gj.gru(), ACTIVATED["gru_hard"]),
        "activations with parameters of their own": gj.elman(gj.cells.Activation("scaled_tanh", 0.3, -1.5)),
    }
    | {"layers": gj.stack([gj.bidirectional(gj.lstm()), gj.gru(), gj.elman("relu")])}
)
every_composition = pytest.mark.parametrize("cell", COMPOSED.values(), ids=COMPOSED.keys())


def by_name(cell, state, suffix=""):
    """Arranges a state as the inputs and outputs of a model: (directions, B, H) by name."""
    if hasattr(cell, "cells"):
        return {k: v for i, (c, s) in enumerate(zip(cell.cells, state, strict=True)) for k, v in by_name(c, s, f"_{i}").items()}
    directions = state if isinstance(cell, Bidirectional) else (state,)
    letters = {"h": [s.h if hasattr(s, "h") else s for s in directions]}
    if hasattr(directions[0], "c"):
        letters["c"] = [s.c for s in directions]
    return {f"{letter}{suffix}": np.stack(states) for letter, states in letters.items()}


def insert(name, word):
    """Inserts a word after the letter of a name: h_0 becomes h0_0 or h_last_0."""
    letter, _, layer = name.partition("_")
    return f"{letter}{word}" + (f"_{layer}" if layer else "")


@pytest.mark.peers
@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
@every_composition
def test_a_saved_model_computes_the_same_in_onnxruntime(cell, with_lengths, tmp_path):
    runtime = library("onnxruntime")
    params = random_params(cell, np.float32)
    xs, h0 = XS.astype(np.float32), random_state(cell, params)
    gj.convert.save_onnx(tmp_path / "model.onnx", cell, params, lengths=with_lengths, h0=True)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    feed = (
        {"xs": xs} | {insert(k, "0"): v for k, v in by_name(cell, h0).items()} | ({"lengths": LENGTHS} if with_lengths else {})
    )
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, feed), strict=True))
    h_last, ys = gj.unroll(cell, params, xs, h0, lengths=LENGTHS if with_lengths else None)
    expected = {"ys": np.asarray(ys)} | {insert(k, "_last"): v for k, v in by_name(cell, h_last).items()}
    assert_close(outputs, expected)


# onnx.reference supports neither lengths nor reverse, and only tanh for RNN
@pytest.mark.parametrize("name", ["elman_tanh", "gru", "gru_reset_after", "lstm", "lstm_peephole"])
def test_a_saved_model_computes_the_same_in_float64_by_onnx_reference(name, needs_x64, tmp_path):
    cell, params = CELLS[name], random_params(CELLS[name])
    gj.convert.save_onnx(tmp_path / "model.onnx", cell, params)
    ys, *_ = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"xs": XS})
    assert_close(ys, np.asarray(gj.unroll(cell, params, XS)[1]))


@pytest.mark.peers
@pytest.mark.parametrize("name", CELLS)
def test_a_saved_model_that_reads_in_reverse_computes_the_same_in_onnxruntime(name, tmp_path):
    runtime = library("onnxruntime")
    cell, params, xs = CELLS[name], random_params(CELLS[name], np.float32), XS.astype(np.float32)
    gj.convert.save_onnx(tmp_path / "model.onnx", cell, params, reverse=True, lengths=True)
    ys, *_ = runtime.InferenceSession(tmp_path / "model.onnx").run(None, {"xs": xs, "lengths": LENGTHS})
    assert_close(ys, np.asarray(gj.unroll(cell, params, xs, reverse=True, lengths=LENGTHS)[1]))
    assert gj.convert.load_onnx(tmp_path / "model.onnx").reverse


@every_composition
def test_saving_and_loading_preserves_every_bit(cell, tmp_path):
    params = random_params(cell, np.float32)
    gj.convert.save_onnx(tmp_path / "model.onnx", cell, params)
    layers = zip(cell.cells, params, strict=True) if hasattr(cell, "cells") else [(cell, params)]
    for i, (layer, own) in enumerate(layers):
        loaded = gj.convert.load_onnx(tmp_path / "model.onnx", i)
        assert loaded.cell == layer
        assert loaded.time_major
        assert not loaded.reverse
        assert loaded.h0 is None
        assert_same_bits(loaded.params, own)


def test_a_saved_model_holds_its_direction_and_returns_the_initial_state_of_a_sequence_of_no_steps(tmp_path):
    path = tmp_path / "model.onnx"
    gj.convert.save_onnx(path, gj.gru(), random_params(gj.gru(), np.float32), lengths=True, h0=True, reverse=True)
    assert gj.convert.load_onnx(path).reverse
    (choice,) = [node for node in onnx.load(path).graph.node if node.op_type == "Where"]
    assert list(choice.input) == ["is_empty_by_state", "h0", "h_last_raw"]  # the condition, if true, otherwise


# ---- models from other programs


def model_of(kind, tensors, inputs=("xs", "W", "R", "B"), constants=(), nodes=(), **attributes):
    """Makes a model of one operator, as another program would write it."""
    operator = helper.make_node(kind, list(inputs), ["ys", "h_last"], name="rnn", **attributes)
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()] + list(constants)
    xs = helper.make_tensor_value_info("xs", TensorProto.FLOAT, None)
    ys = helper.make_tensor_value_info("ys", TensorProto.FLOAT, None)
    graph = helper.make_graph([*nodes, operator], "others", [xs], [ys], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tensors_of(cell, **change):
    """Makes W, R, B and P from random weights, with some of them replaced."""
    return gj.convert.to_onnx(cell, random_params(cell, np.float32)) | change


def test_the_attributes_of_an_operator_determine_the_cell():
    of = gj.convert.load_onnx
    gru = tensors_of(gj.gru())
    assert of(model_of("GRU", gru, hidden_size=H)).cell == gj.gru()
    assert of(model_of("GRU", gru, linear_before_reset=1)).cell == gj.gru(reset_after=True)
    assert of(model_of("GRU", gru, direction="reverse")).reverse
    assert not of(model_of("GRU", gru, layout=1)).time_major
    assert of(model_of("GRU", gru, activations=["Sigmoid", "Tanh"])).cell == gj.gru()
    both = model_of("GRU", tensors_of(gj.bidirectional(gj.gru())), direction="bidirectional")
    assert of(both).cell == gj.bidirectional(gj.gru())
    assert of(model_of("RNN", tensors_of(gj.elman("relu")), activations=["Relu"])).cell == gj.elman("relu")
    assert of(model_of("RNN", tensors_of(gj.elman()))).cell == gj.elman("tanh")
    peepholes = tensors_of(gj.lstm(peephole=True))
    model = model_of("LSTM", peepholes, ("xs", "W", "R", "B", "", "", "", "P"), input_forget=0)
    assert of(model).cell == gj.lstm(peephole=True)
    assert of(model_of("LSTM", tensors_of(gj.lstm()))).cell == gj.lstm()
    no_bias = model_of("LSTM", {k: v for k, v in tensors_of(gj.lstm()).items() if k != "B"}, ("xs", "W", "R"))
    assert of(no_bias).params.b_i is None


def test_alpha_and_beta_are_read_in_the_order_of_the_activations_that_take_them():
    of, tensors = gj.convert.load_onnx, tensors_of(gj.gru())
    defaults = model_of("GRU", tensors, activations=["HardSigmoid", "LeakyRelu"])
    assert of(defaults).cell == gj.gru(gate_activation="hard_sigmoid_onnx", activation="leaky_relu")
    given = {"activation_alpha": [1 / 6, 0.3], "activation_beta": [0.5]}
    leaky = gj.cells.Activation("leaky_relu", alpha=0.3)
    cell = of(model_of("GRU", tensors, activations=["HardSigmoid", "LeakyRelu"], **given)).cell
    assert cell == gj.gru(gate_activation="hard_sigmoid", activation=leaky)
    last = model_of("GRU", tensors, activations=["Sigmoid", "LeakyRelu"], activation_alpha=[0.3])
    assert of(last).cell == gj.gru(activation=leaky)
    both = gj.bidirectional(gj.elman("relu"), gj.elman("tanh"))
    directions = {"activations": ["RELU", "tanh"], "direction": "bidirectional"}  # ONNX ignores case here
    assert of(model_of("RNN", tensors_of(both), **directions)).cell == both


@pytest.mark.parametrize("layout", [0, 1])
def test_constant_initial_states_and_lengths_are_loaded(layout):
    h0 = np.random.default_rng(0).normal(size=(2, B, H)).astype(np.float32)
    constant = numpy_helper.from_array(h0.swapaxes(0, 1) if layout else h0, "h0")
    cell = gj.bidirectional(gj.gru())
    tensors = tensors_of(cell)
    value = helper.make_node("Constant", [], ["h0"], value=constant)
    inputs = ("xs", "W", "R", "B", "", "h0")
    for model in (
        model_of("GRU", tensors, inputs, [constant], direction="bidirectional", layout=layout),
        model_of("GRU", tensors, inputs, nodes=[value], direction="bidirectional", layout=layout),
    ):
        loaded = gj.convert.load_onnx(model)
        np.testing.assert_array_equal(np.stack(loaded.h0), h0)
        h_last, _ = gj.unroll(loaded.cell, loaded.params, XS, loaded.h0)
        assert h_last[0].shape == (B, H)
    c0 = numpy_helper.from_array(h0[:1], "c0")
    lstm = model_of("LSTM", tensors_of(gj.lstm()), ("xs", "W", "R", "B", "", "", "c0"), [c0])
    state = gj.convert.load_onnx(lstm).h0
    np.testing.assert_array_equal(state.c, h0[0])
    assert not state.h.any()
    lengths = numpy_helper.from_array(np.array([3, 1], np.int32), "lengths")
    loaded = gj.convert.load_onnx(model_of("GRU", tensors_of(gj.gru()), ("xs", "W", "R", "B", "lengths"), [lengths]))
    assert loaded.lengths.tolist() == [3, 1]
    assert loaded.h0 is None


def unsupported():
    """Yields (name, model, error message) of unsupported operators and of damaged tensors."""
    gru = tensors_of(gj.gru())
    yield "clip", model_of("GRU", gru, clip=3.0), "GRU 'rnn': got clip=3, expected an operator without it.*differs beyond ±3"
    relu = {"activations": ["Relu"], "clip": 9999.0}
    yield "a clip of ReLU", model_of("RNN", tensors_of(gj.elman()), **relu), "clip=9999.*'relu' differs beyond ±9999"
    yield "a clip of 0", model_of("RNN", tensors_of(gj.elman()), activations=["Affine"], clip=0.0), "got clip=0, expected"
    yield "input_forget", model_of("LSTM", tensors_of(gj.lstm()), input_forget=1), "got input_forget=1"
    yield "a gate", model_of("GRU", gru, activations=["Relu", "Tanh"]), "GRU 'rnn'.*its z multiplies the old state"
    memory = ["Sigmoid", "Tanh", "Relu"]
    yield (
        "memory",
        model_of("LSTM", tensors_of(gj.lstm()), activations=memory),
        "'tanh' of the candidate and 'relu' of the memory",
    )
    yield "one activation", model_of("GRU", gru, activations=["Sigmoid"]), r"\['Sigmoid'\], expected 2 for each of 1 directions"
    cut = model_of("RNN", tensors_of(gj.elman()), activations=["ThresholdedRelu"])
    yield "activation", cut, "got the activation ThresholdedRelu, expected one of Tanh, Sigmoid"
    scaled = {"activations": ["Affine"], "activation_alpha": [2.0], "activation_beta": [0.0]}
    yield (
        "affine",
        model_of("RNN", tensors_of(gj.elman()), **scaled),
        r"Affine with alpha and beta \[2.0, 0.0\], expected 1 and 0",
    )
    negative = {"activations": ["LeakyRelu"], "activation_alpha": [-1.0]}
    yield (
        "α",
        model_of("RNN", tensors_of(gj.elman()), **negative),
        "leaky_relu: alpha: got -1.0, expected a finite number above 0",
    )
    left = {"activations": ["Sigmoid", "LeakyRelu"], "activation_alpha": [0.5, 0.3]}
    yield (
        "too many α",
        model_of("GRU", gru, **left),
        "activation_alpha=.0.5, 0.3.*expected a number only for those that take one",
    )
    yield "direction", model_of("GRU", gru, direction="sideways"), "got direction='sideways'"
    yield "missing R", model_of("GRU", gru, ("xs", "W", "")), "missing 'R'"
    yield "computed", model_of("GRU", gru, ("xs", "V", "R")), "got W .'V'. from another operator.*constant folding"
    yield (
        "shape",
        model_of("GRU", gru | {"R": gru["R"][:, :, :-1]}),
        r"tensors\['W'\]\[0\]: got shape|tensors\['R'\]\[0\]: got shape",
    )
    yield (
        "an LSTM's",
        model_of("GRU", tensors_of(gj.lstm())),
        "The shape fits an LSTM, which has 4 blocks of the hidden size where a GRU has 3",
    )
    yield (
        "directions",
        model_of("GRU", gru, direction="bidirectional"),
        r"tensors\['W'\]: got shape .*expected 2 on the first axis",
    )
    yield "hidden_size", model_of("GRU", gru, hidden_size=7), "got hidden_size=7, expected 5, the hidden size of the weights"
    h0 = numpy_helper.from_array(np.zeros((2, B, H), np.float32), "h0")
    yield (
        "state",
        model_of("GRU", gru, ("xs", "W", "R", "B", "", "h0"), [h0]),
        "initial_h: got shape .2, 3, 5., expected 1 on the axis of the directions",
    )
    flat = numpy_helper.from_array(np.zeros(H, np.float32), "h0")
    yield (
        "flat state",
        model_of("GRU", gru, ("xs", "W", "R", "B", "", "h0"), [flat]),
        "initial_h: got shape .5,., expected 1 on the axis of the directions",
    )
    yield "numbers", model_of("GRU", gru | {"W": gru["W"].astype(np.int32)}), "got int32, expected floating-point"
    short = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1, 3 * H, D], raw_data=b"\0" * 8)
    yield (
        "truncated",
        model_of("GRU", {k: v for k, v in gru.items() if k != "W"}, constants=[short]),
        "W: got a tensor that onnx cannot read, expected data for dims",
    )
    huge = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1, 2**40, 2**40], raw_data=b"\0" * 8)
    yield (
        "huge",
        model_of("GRU", {k: v for k, v in gru.items() if k != "W"}, constants=[huge]),
        "W: got a tensor of .* bytes, expected data for dims",
    )
    outside = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1, 3 * H, D], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../../etc/passwd")
    without_W = {k: v for k, v in gru.items() if k != "W"}
    yield "external", model_of("GRU", without_W, constants=[outside]), "got data in (another|the) file.*passwd"
    two = model_of("GRU", gru)
    two.graph.node.append(helper.make_node("GRU", ["xs", "W", "R"], ["other"], name="second"))
    yield "two operators", two, "got 2 operators.*0: GRU 'rnn'; 1: GRU 'second'"
    yield "none", helper.make_model(helper.make_graph([], "empty", [], [])), "got 0 operators.*The model has none"


def test_a_clip_beyond_the_limits_of_the_activations_changes_nothing():
    tensors = tensors_of(gj.gru())
    assert gj.convert.load_onnx(model_of("GRU", tensors, clip=9999.0)).cell == gj.gru()
    assert gj.convert.load_onnx(model_of("RNN", tensors_of(gj.elman()), clip=10.0)).cell == gj.elman()
    hard = model_of("GRU", tensors, activations=["HardSigmoid", "Tanh"], clip=10.0)
    assert gj.convert.load_onnx(hard).cell == gj.gru(gate_activation="hard_sigmoid_onnx")
    for clip in (10.0, 20.0):  # at 20 the sigmoid has its upper limit, and not its lower one
        model = model_of("GRU", tensors, clip=clip)
        assert_raises(lambda m=model: gj.convert.load_onnx(m), ValueError, f"'sigmoid' differs beyond ±{clip:g}")


def test_a_model_is_read_from_bytes_and_from_a_file_object(tmp_path):
    params = random_params(gj.lstm(), np.float32)
    gj.convert.save_onnx(tmp_path / "model.onnx", gj.lstm(), params)
    content = (tmp_path / "model.onnx").read_bytes()
    for source in (content, bytearray(content), memoryview(content), io.BytesIO(content), str(tmp_path / "model.onnx")):
        assert_same_bits(gj.convert.load_onnx(source).params, params)
    with open(tmp_path / "model.onnx", "rb") as file:
        assert_same_bits(gj.convert.load_onnx(file).params, params)
    assert_raises(lambda: gj.convert.load_onnx(content[:100]), ValueError, "source")
    assert_raises(lambda: gj.convert.load_onnx(b"text"), ValueError, "source: got bytes, which is not an ONNX file")
    assert_raises(lambda: gj.convert.load_onnx(3), TypeError, "source: got int, expected a path, bytes, a binary file")


# ---- weights in other files


def test_weights_beside_the_model_are_read(tmp_path):
    cell = gj.bidirectional(gj.gru())
    params = random_params(cell, np.float32)
    gj.convert.save_onnx(tmp_path / "whole.onnx", cell, params)
    (tmp_path / "model").mkdir()
    model = onnx.load(tmp_path / "whole.onnx")
    onnx.save(model, tmp_path / "model" / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert_same_bits(gj.convert.load_onnx(tmp_path / "model" / "model.onnx").params, params)
    content = (tmp_path / "model" / "model.onnx").read_bytes()
    assert_raises(lambda: gj.convert.load_onnx(content), ValueError, "got data in another file, 'weights.bin'.*Pass the path")

    weights = tmp_path / "model" / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert_raises(
        lambda: gj.convert.load_onnx(tmp_path / "model" / "model.onnx"), ValueError, "of weights.bin, which has .*expected"
    )
    (tmp_path / "outside.bin").write_bytes(whole)
    weights.unlink()
    weights.symlink_to(tmp_path / "outside.bin")
    outside = "got data in the file 'weights.bin', expected one that exists in the folder of the model"
    assert_raises(lambda: gj.convert.load_onnx(tmp_path / "model" / "model.onnx"), ValueError, outside)
    weights.unlink()
    assert_raises(lambda: gj.convert.load_onnx(tmp_path / "model" / "model.onnx"), ValueError, outside)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../weights.bin"}, "got data in the file '../weights.bin'"),
        ({"location": "/etc/passwd"}, "got data in the file '/etc/passwd'"),
        ({"location": ""}, "got data in the file ''"),
        ({"location": "weights.bin", "offset": "8"}, "got 48 bytes at 8 of weights.bin, which has 40 there, expected 48"),
        ({"location": "weights.bin", "offset": "-8"}, "got 48 bytes at -8 of weights.bin"),
        ({"location": "weights.bin", "length": "8"}, "got 8 bytes at 0 of weights.bin"),
        ({"location": "weights.bin", "length": "many"}, "got offset, length or dtype that cannot be read"),
    ],
)
def test_a_tensor_that_names_another_place_raises(entries, message, tmp_path):
    (tmp_path / "folder").mkdir()
    for folder in (tmp_path, tmp_path / "folder"):
        (folder / "weights.bin").write_bytes(b"\0" * 48)
    outside = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1, 3, 4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        outside.external_data.add(key=key, value=value)
    model = model_of("GRU", {"R": np.ones((1, 3, 1), np.float32)}, ("xs", "W", "R"), constants=[outside])
    path = tmp_path / "folder" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert_raises(lambda: gj.convert.load_onnx(path), ValueError, f"model.onnx.*W: {message}")


@pytest.mark.parametrize(("model", "message"), [pytest.param(m, message, id=name) for name, m, message in unsupported()])
def test_an_unsupported_model_raises(model, message, tmp_path):
    assert_raises(lambda: gj.convert.load_onnx(model), (TypeError, ValueError), message)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert_raises(lambda: gj.convert.load_onnx(tmp_path / "model.onnx"), (TypeError, ValueError), f"model.onnx.*{message}")


def test_node_chooses_an_operator_by_name_or_index():
    model = model_of("GRU", tensors_of(gj.gru()))
    model.graph.node.append(helper.make_node("GRU", ["xs", "W", "R"], ["other"], name="second", linear_before_reset=1))
    assert gj.convert.load_onnx(model, "second").cell == gj.gru(reset_after=True)
    assert gj.convert.load_onnx(model, 0).cell == gj.gru()
    for node in ("third", 2, -1):
        assert_raises(lambda node=node: gj.convert.load_onnx(model, node), ValueError, "got 0 operators")


def test_a_file_truncated_anywhere_raises(tmp_path):
    """Some truncated files still parse as protobuf, but lack an operator or a weight."""
    params = random_params(gj.gru(), np.float32)
    gj.convert.save_onnx(tmp_path / "whole.onnx", gj.gru(), params)
    whole = (tmp_path / "whole.onnx").read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "cut.onnx").write_bytes(whole[:end])
        with pytest.raises((ValueError, TypeError), match=r"cut\.onnx"):
            gj.convert.load_onnx(tmp_path / "cut.onnx")
    (tmp_path / "cut.onnx").write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(ValueError, match=r"cut\.onnx"):
        gj.convert.load_onnx(tmp_path / "cut.onnx")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        gj.convert.load_onnx(tmp_path / "none.onnx")


def test_a_failed_save_raises_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("before")
    save = lambda cell, params, **options: lambda: gj.convert.save_onnx(path, cell, params, **options)
    params = random_params(gj.gru(), np.float32)
    layers = gj.stack([gj.gru()] * 2, dropout=0.5)
    assert_raises(save(layers, random_params(layers)), TypeError, r"cell\.deterministic\(\)")
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert_raises(save(gj.gru(), half), TypeError, "params: got bfloat16")
    both = gj.bidirectional(gj.gru())
    assert_raises(save(both, random_params(both), reverse=True), ValueError, "reverse: got True for a bidirectional layer")
    assert_raises(save(gj.bidirectional(gj.gru(), merge="sum"), random_params(both)), TypeError, "merge='sum'")
    assert_raises(
        save(gj.linear_rnn(), random_params(gj.linear_rnn())), TypeError, r"cell: got linear_rnn\(\), which ONNX cannot"
    )
    assert_raises(save(gj.zoneout(gj.gru(), 0.1).deterministic(), params), TypeError, "cell: got zoneout")
    activated = gj.stack([gj.gru(), gj.feedforward(None, lambda params, x: jnp.tanh(x), name="tanh")])
    message = "cell: got tanh, which ONNX cannot represent"
    assert_raises(save(activated, activated.init(jax.random.key(0), 3, 4)), TypeError, message)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        gj.convert.save_onnx(tmp_path / "nowhere" / "model.onnx", gj.gru(), params)

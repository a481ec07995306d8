"""Compares outputs, final states and gradients with PyTorch's modules, in float64."""

import warnings

import jax
import numpy as np
import pytest

import gru_jax as gj
from tests.convert.parity import LENGTHS, XS, B, D, H, T, assert_close, library, normal, random_params, random_state, stacked

pytestmark = [pytest.mark.derivative, pytest.mark.peers]

CELLS = {
    "GRU": gj.gru(reset_after=True),
    "LSTM": gj.lstm(),
    "LSTM projected": gj.lstm(proj_size=2),
    "RNN tanh": gj.elman("tanh"),
    "RNN relu": gj.elman("relu"),
}


@pytest.fixture
def torch(needs_x64):
    return library("torch")


def module_of(torch, name, layers=1, two=False, bias=True):
    """Makes an `nn` module with normal random weights, which are larger than PyTorch's defaults."""
    kind, *options = name.split()
    named = {"proj_size": 2} if options == ["projected"] else {"nonlinearity": options[0]} if options else {}
    module = getattr(torch.nn, kind)(D, H, layers, bias=bias, bidirectional=two, dtype=torch.float64, **named)
    weights = normal({key: np.asarray(value) for key, value in module.state_dict().items()})
    module.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in weights.items()})
    return module


def states(cell, h):
    """Converts a state to PyTorch's (layers · directions, B, H): h, and c for an LSTM."""
    layers = h if hasattr(cell, "cells") else (h,)
    parts = cell.cells if hasattr(cell, "cells") else (cell,)
    single = [one for part, layer in zip(parts, layers, strict=True) for one in (layer if hasattr(part, "merge") else (layer,))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *single)


CELL_MODULES = [name for name in CELLS if name != "LSTM projected"]  # nn.LSTMCell has no projection


def theirs(torch, module, xs, h0, lengths, cotangents):
    """Runs PyTorch. Returns outputs and final states, weight gradients, and input gradients."""
    lstm = isinstance(h0, tuple)
    xs = torch.tensor(xs, requires_grad=True)
    h0 = tuple(torch.tensor(np.asarray(h), requires_grad=True) for h in (h0 if lstm else (h0,)))
    rnn = torch.nn.utils.rnn
    inputs = xs if lengths is None else rnn.pack_padded_sequence(xs, torch.tensor(lengths), enforce_sorted=False)
    ys, h_last = module(inputs, h0 if lstm else h0[0])
    ys = ys if lengths is None else rnn.pad_packed_sequence(ys)[0]
    outputs = [ys, *(h_last if lstm else (h_last,))]
    sum((o * torch.tensor(np.asarray(c))).sum() for o, c in zip(outputs, cotangents, strict=True)).backward()
    return (
        [np.asarray(o.detach()) for o in outputs],
        {name: np.asarray(p.grad) for name, p in module.named_parameters()},
        [np.asarray(xs.grad), *(np.asarray(h.grad) for h in h0)],
    )


SHAPES = [(1, False), (1, True), (2, True)]


@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize(("layers", "two"), SHAPES, ids=["one", "bidirectional", "two bidirectional"])
@pytest.mark.parametrize("name", CELLS)
def test_outputs_states_and_gradients_are_those_of_pytorch(torch, name, layers, two, with_lengths):
    cell = stacked(CELLS[name], two) if layers == 2 else gj.bidirectional(CELLS[name]) if two else CELLS[name]
    module = module_of(torch, name, layers, two)
    state_dict = {key: jax.numpy.asarray(np.asarray(value)) for key, value in module.state_dict().items()}
    lengths = LENGTHS if with_lengths else None
    h0 = random_state(cell, gj.convert.from_pytorch(cell, state_dict))

    def ours(state_dict, xs, h0):
        h_last, ys = gj.unroll(cell, gj.convert.from_pytorch(cell, state_dict), xs, h0, lengths=lengths)
        return ys, h_last

    (ys, h_last), pull = jax.vjp(ours, state_dict, XS, h0)
    ys_bar, h_bar = normal(ys, 3), normal(h_last, 4)
    state_dict_bar, xs_bar, h0_bar = pull((ys_bar, h_bar))

    flat = lambda state: list(s) if isinstance(s := states(cell, state), tuple) else [s]
    start = flat(h0)
    outputs, weights_bar, inputs_bar = theirs(
        torch, module, XS, tuple(start) if len(start) == 2 else start[0], lengths, [ys_bar, *flat(h_bar)]
    )
    assert_close([ys, *flat(h_last)], outputs)
    assert_close(state_dict_bar, weights_bar)
    assert_close([xs_bar, *flat(h0_bar)], inputs_bar)


@pytest.mark.parametrize("name", CELLS)
def test_converted_weights_compute_the_same_in_pytorch(torch, name):
    cell = stacked(CELLS[name], two_directions=True)
    params = cell.init(jax.random.key(0), D, H, dtype=np.float64)
    params = normal(params)
    module = module_of(torch, name, 2, two=True)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in gj.convert.to_pytorch(cell, params).items()})
    _, ys = gj.unroll(cell, params, XS)
    assert_close(np.asarray(ys), np.asarray(module(torch.tensor(XS))[0].detach()))


@pytest.mark.parametrize("name", CELL_MODULES)
def test_a_pytorch_cell_computes_one_step(torch, name):
    cell = CELLS[name]
    kind, *options = name.split()
    module = getattr(torch.nn, f"{kind}Cell")(D, H, dtype=torch.float64, **({"nonlinearity": options[0]} if options else {}))
    params = gj.convert.from_pytorch(cell, module.state_dict())
    state = random_state(cell, params)
    h, _ = cell.step(params, state, XS[0])
    as_torch = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), state)
    expected = module(torch.tensor(XS[0]), tuple(as_torch) if isinstance(state, tuple) else as_torch)
    expected = [e.detach().numpy() for e in (expected if isinstance(state, tuple) else [expected])]
    assert_close(jax.tree.leaves(h), expected)
    again = getattr(torch.nn, f"{kind}Cell")(D, H, dtype=torch.float64)
    again.load_state_dict({k: torch.from_numpy(v) for k, v in gj.convert.to_pytorch(cell, params, cell_module=True).items()})


def test_a_bfloat16_module_without_biases_converts_out_of_a_larger_model(torch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.GRU(D, H, bias=False, dtype=torch.bfloat16)
            self.head = torch.nn.Linear(H, 2)

    model = Model()
    cell = gj.gru(reset_after=True)
    params = gj.convert.from_pytorch(cell, model.state_dict(), prefix="encoder.")
    assert params.b_z is None
    assert params.W_z.dtype == jax.numpy.bfloat16
    back = gj.convert.to_pytorch(cell, params, prefix="encoder.")
    for name, array in back.items():
        assert torch.equal(torch.from_numpy(array.view("int16")).view(torch.bfloat16), model.state_dict()[name]), name
    wide = gj.convert.from_pytorch(cell, dict(model.named_parameters()), prefix="encoder.", dtype=np.float32)
    assert wide.U_h.dtype == np.float32


def test_a_model_exported_by_pytorch_to_onnx_loads(torch, tmp_path):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.GRU(D, H, 2, bidirectional=True)

        def forward(self, xs):
            return self.rnn(xs)[0]

    model, xs = Model(), torch.tensor(XS, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter emits many
        torch.onnx.export(model, (xs,), tmp_path / "model.onnx", dynamo=False)
    layers = [gj.convert.load_onnx(tmp_path / "model.onnx", i) for i in range(2)]
    cell = gj.stack([layer.cell for layer in layers])
    assert cell == stacked(gj.gru(reset_after=True), two_directions=True)
    _, ys = gj.unroll(cell, tuple(layer.params for layer in layers), xs.numpy())
    assert_close(np.asarray(ys), model(xs).detach().numpy())


def test_training_in_pytorch_does_not_change_converted_params(torch):
    module = module_of(torch, "LSTM")
    params = gj.convert.from_pytorch(gj.lstm(), module.state_dict())
    before = jax.tree.map(np.array, params)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(1.0)
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_pytorch_tensors_are_saved_as_safetensors(torch, tmp_path):
    module = torch.nn.GRU(D, H, dtype=torch.bfloat16)
    gj.convert.save_safetensors(tmp_path / "m.safetensors", module.state_dict())
    cell = gj.gru(reset_after=True)
    params = gj.convert.from_pytorch(cell, gj.convert.load_safetensors(tmp_path / "m.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, params, gj.convert.from_pytorch(cell, module.state_dict()))


def test_a_projection_needs_a_projected_lstm(torch):
    state_dict = torch.nn.LSTM(D, H, proj_size=2).state_dict()
    with pytest.raises(ValueError, match=r"unexpected 'weight_hr_l0'.*Use gj\.lstm\(proj_size=…\)"):
        gj.convert.from_pytorch(gj.lstm(), state_dict)
    with pytest.raises(ValueError, match=r"params.U_i: got shape \(2, 5\), expected \(3, 5\)"):
        gj.convert.from_pytorch(gj.lstm(proj_size=3), state_dict)


def test_a_length_of_0_gives_h0_while_pytorch_raises(torch):
    cell, params = gj.gru(reset_after=True), random_params(gj.gru(reset_after=True))
    h0 = random_state(cell, params)
    with pytest.raises(RuntimeError):
        torch.nn.utils.rnn.pack_padded_sequence(torch.zeros(T, B, D), torch.tensor([T, 3, 0]), enforce_sorted=False)
    h_last, ys = gj.unroll(cell, params, XS, h0, lengths=np.array([T, 3, 0]))
    np.testing.assert_array_equal(h_last[2], h0[2])
    assert not ys[:, 2].any()

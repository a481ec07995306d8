"""Reading the weights of Keras' files, as h5py writes them here, and hostile files."""

import io
import zipfile

import numpy as np
import pytest

import gru_jax as gj
from tests.convert.parity import assert_same_bits, library, random_params
from tests.problems import assert_raises

AFTER = gj.gru(reset_after=True)


@pytest.fixture
def h5py():
    return library("h5py")


def write(h5py, file, layers):
    """Writes {path: (name, arrays)} as Keras 3 does."""
    with h5py.File(file, "w") as opened:
        for path, (name, arrays) in layers.items():
            group = opened.create_group(f"layers/{path}/vars")
            group.attrs["name"] = name
            for i, array in enumerate(arrays):
                group.create_dataset(str(i), data=array)


def model():
    both, gru, lstm = gj.bidirectional(AFTER), gj.gru(), gj.lstm()
    params = {cell.name: random_params(cell, np.float32, seed=i) for i, cell in enumerate((both, gru, lstm))}
    of_both = gj.convert.to_keras(both, params[both.name])
    many = [np.full(2, i, np.float32) for i in range(12)]  # "10" sorts before "2"
    layers = {
        "bidirectional": ("encoder", []),
        "bidirectional/backward_layer/cell": ("gru_cell", of_both[3:]),
        "bidirectional/forward_layer/cell": ("gru_cell", of_both[:3]),
        "gru": ("mine", []),
        "gru/cell": ("gru_cell", gj.convert.to_keras(gru, params[gru.name])),
        "gru/cell/seed_generator": ("seeds", [np.zeros(2, np.uint32)]),
        "rnn/cell/cells/lstm_cell": ("lstm_cell", gj.convert.to_keras(lstm, params[lstm.name])),
        "dense": ("dense", many),
        "activation": ("activation", []),
    }
    return layers, ((both, "encoder"), (gru, "mine"), (lstm, "rnn/cell/cells/lstm_cell")), params


@pytest.mark.parametrize("archive", [False, True], ids=["weights.h5", "keras"])
def test_the_weights_of_each_layer_are_read(h5py, archive, tmp_path):
    layers, cells, params = model()
    path = tmp_path / ("model.keras" if archive else "model.weights.h5")
    file = io.BytesIO() if archive else path
    write(h5py, file, layers)
    if archive:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("config.json", "{}")
            opened.writestr("model.weights.h5", file.getvalue())
    weights = gj.convert.load_keras(path)
    assert set(weights) == {"encoder", "mine", "rnn/cell/cells/lstm_cell", "dense"}
    assert [array[0] for array in weights["dense"]] == list(range(12))
    for cell, name in cells:
        assert_same_bits(gj.convert.from_keras(cell, weights[name]), params[cell.name])


def bad_files(h5py, folder):
    """Yields (what, path, message) of damaged and hostile files."""
    layers, *_ = model()
    whole = folder / "whole.weights.h5"
    write(h5py, whole, layers)
    content = whole.read_bytes()
    for what, data in {"empty": b"", "text": b"text" * 100, "half": content[: len(content) // 2]}.items():
        (folder / what).write_bytes(data)
        yield what, folder / what, "expected a complete .keras or .weights.h5 file"
    with h5py.File(folder / "no layers", "w") as file:
        file.create_dataset("weights", data=np.ones(3))
    yield "no layers", folder / "no layers", "no group of layers with weights"

    with h5py.File(folder / "soft link", "w") as file:
        file.create_group("layers/gru/vars")["0"] = h5py.SoftLink("/elsewhere")
        file["layers/gru/vars/1"] = h5py.ExternalLink(str(whole), "/layers/dense/vars/0")
    yield "links", folder / "soft link", "no group of layers with weights"

    (folder / "raw").write_bytes(b"\0" * 12)
    with h5py.File(folder / "outside", "w") as file:
        file.create_dataset("layers/gru/vars/0", (3,), np.float32, external=[(str(folder / "raw"), 0, 12)])
    yield "external data", folder / "outside", "layers/gru/vars/0 has data outside of the file"

    layout = h5py.VirtualLayout((2,), np.float32)
    layout[:] = h5py.VirtualSource(str(whole), "layers/dense/vars/0", (2,))
    with h5py.File(folder / "virtual", "w") as file:
        file.create_virtual_dataset("layers/gru/vars/0", layout)
    yield "virtual data", folder / "virtual", "has data outside of the file"

    with h5py.File(folder / "bomb", "w") as file:
        file.create_dataset("layers/gru/vars/0", (2**40,), np.float32, chunks=(2**10,), compression="gzip")
    yield "more than the file", folder / "bomb", "or more than the file can hold"

    with zipfile.ZipFile(folder / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", b"\0" * 2**24)
    yield "a zip bomb", folder / "zip", "model.weights.h5 has 16777216 bytes from"
    with zipfile.ZipFile(folder / "other zip", "w") as archive:
        archive.writestr("../model.weights.h5", b"")
    yield "another archive", folder / "other zip", "the archive has 0 members model.weights.h5"


def test_a_damaged_or_hostile_file_raises(h5py, tmp_path):
    for what, path, message in bad_files(h5py, tmp_path):
        print(what)
        assert_raises(lambda path=path: gj.convert.load_keras(path), ValueError, f"path: got {path}.*{message}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        gj.convert.load_keras(tmp_path / "nowhere.keras")


def test_a_group_that_holds_itself_is_visited_once(h5py, tmp_path):
    layers, *_ = model()
    write(h5py, tmp_path / "cycle", layers)
    with h5py.File(tmp_path / "cycle", "a") as file:
        file["layers/gru/again"] = file["layers"]
    assert "mine" in gj.convert.load_keras(tmp_path / "cycle")


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_files_of_keras_are_read(h5py, tmp_path):
    keras = library("keras")
    layers = [
        keras.Input((7, 4)),
        keras.layers.Bidirectional(keras.layers.GRU(5, return_sequences=True), name="encoder"),
        keras.layers.LSTM(3, return_sequences=True, dropout=0.1),
        keras.layers.RNN(keras.layers.GRUCell(2), name="cell"),
    ]
    network = keras.Sequential(layers)
    network.save(tmp_path / "model.keras")
    network.save_weights(tmp_path / "model.weights.h5")
    for name in ("model.keras", "model.weights.h5"):
        weights = gj.convert.load_keras(tmp_path / name)
        for layer in network.layers:
            own = [array for array in layer.get_weights() if array.dtype.kind == "f"]
            assert_same_bits(weights[layer.name], own)

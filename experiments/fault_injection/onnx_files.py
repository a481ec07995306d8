"""Hostile ONNX files.

Each trial changes a model of this package, writes it into a file, and reads it. Reading either
raises, or gives the parameters of the model.
"""

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
from onnx import TensorProto, helper

import gru_jax as gj
from experiments.fault_injection.trials import UNCHANGED, WRONG, Ended, Trial, outcome_of_error

D, H = 3, 2
LONGEST_MESSAGE = 300
CELLS: dict[str, Any] = {
    "GRU": gj.gru(),
    "GRU, reset after": gj.gru(reset_after=True),
    "LSTM": gj.lstm(peephole=True),
    "RNN": gj.elman(),
    "GRU in both directions": gj.bidirectional(gj.gru()),
}
Change = Callable[[Any], None]  # changes a model
NAMES = {"megabytes": "W" * 2_000_000, "NUL": "a\0b", "lines": "a\n" * 1000, "empty": "", "path": "../" * 2000}
DIMS = {
    "a tebibyte": [1, 1 << 38],
    "2^63 - 1": [(1 << 63) - 1],
    "an overflow to zero": [1 << 32, 1 << 32],
    "negative": [-1, -1],
    "a hundred thousand": [1 << 40] * 100_000,
    "none": [],
    "zero rows": [0, 1 << 62],
}
ATTRIBUTES = (
    "direction", "hidden_size", "linear_before_reset", "activations", "activation_alpha", "layout", "clip", "input_forget", "x",
)  # fmt: skip
VALUES: dict[str, Any] = {
    "2^62": 1 << 62,
    "minus one": -1,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "text": "x",
    "megabytes": "x" * 2_000_000,
    "bytes that are not Unicode": b"\xff\xfe",
    "many integers": [1 << 62] * 100_000,
    "many numbers": [float("nan")] * 100_000,
    "many texts": ["x" * 100] * 10_000,
    "a tensor": TensorProto(name="t", data_type=1, dims=[1 << 40]),
    "a graph": helper.make_graph([], "g", [], []),
}
LOCATIONS = {
    "absolute": "/etc/passwd",
    "outside": "../outside",
    "a directory": ".",
    "missing": "missing",
    "NUL": "a\0b",
    "megabytes": "../" * 1_000_000,
    "a pipe": "pipe",
    "a link to a device": "link",
}
OFFSETS = ("-1", str(1 << 62), "9" * 10_000, "x", "1e9", "0")


def trials(seed: int, quick: bool) -> list[Trial]:
    """Returns the trials, in a random order, so that a short run has some of each kind."""
    found = [*_trials_of_models(), *_trials_of_bytes(seed), *_trials_of_outside_data()]
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[i] for i in order[: 40 if quick else None]]


@cache
def content(cell: str) -> bytes:
    """Returns the bytes of a model."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        gj.convert.save_onnx(path, CELLS[cell], params(cell))
        return path.read_bytes()


@cache
def params(cell: str) -> Any:
    """Returns the parameters of a model."""
    return CELLS[cell].init(jax.random.key(0), D, H)


def _read(cell: str, change: Change, where: Path) -> Ended:
    model = onnx.load_model_from_string(content(cell))
    change(model)
    return _judged(cell, model.SerializeToString(), where)


def _judged(cell: str, data: bytes, where: Path) -> Ended:
    """Reads a file, and compares what was read with the model."""
    path = where / "model.onnx"
    path.write_bytes(data)
    try:
        loaded = gj.convert.load_onnx(path)
    except Exception as error:
        return outcome_of_error(error, "source: ", LONGEST_MESSAGE + len(str(path)))
    leaves, expected = jax.tree.leaves(loaded.params), jax.tree.leaves(params(cell))
    is_equal = loaded.cell == CELLS[cell] and len(leaves) == len(expected) and all(map(np.array_equal, leaves, expected))
    return Ended(UNCHANGED if is_equal else WRONG, f"read {loaded.cell}")


def _trials_of_models() -> Iterator[Trial]:
    for cell in CELLS:
        model = onnx.load_model_from_string(content(cell))
        trial = lambda group, name, change, cell=cell: Trial(
            f"an ONNX model: {group}", f"{cell}: {name}", partial(_read, cell, change)
        )
        tensors = [tensor.name for tensor in model.graph.initializer]
        for i, tensor in enumerate(tensors):
            for name, dims in DIMS.items():
                yield trial("sizes and types", f"{tensor}, dims {name}", partial(_set_dims, i=i, dims=dims))
            for kind in (-1, 0, *range(2, 27), 99):
                yield trial("sizes and types", f"{tensor}, type {kind}", partial(_set_type, i=i, kind=kind))
        for what, text in NAMES.items():
            for place in _PLACES:
                yield trial("names", f"{place}, {what}", partial(_set_name, place=place, text=text))
        for attribute in ATTRIBUTES:
            for what, value in VALUES.items():
                yield trial("attributes", f"{attribute} is {what}", partial(_set_attribute, name=attribute, value=value))
        yield trial("attributes", "ten thousand of them", _add_attributes)
        yield trial("graphs", "ten thousand operators", _add_operators)
        yield trial("graphs", "no operator", lambda model: model.graph.ClearField("node"))
        yield trial("graphs", "no tensors", lambda model: model.graph.ClearField("initializer"))
        yield trial("graphs", "an operator that is its own input", _own_input)
        yield trial("graphs", "weights from a cycle", _cycle)


def _trials_of_bytes(seed: int) -> Iterator[Trial]:
    rng, whole = np.random.default_rng(seed), content("GRU")
    others = {
        "no bytes": b"",
        "text": b"this is a text\n" * 100,
        "HTML": b"<!DOCTYPE html><html></html>",
        "NUL": b"\0" * 10_000,
    }
    others |= {f"random bytes {i}": rng.bytes(int(rng.integers(1, 5000))) for i in range(60)}
    others |= {f"the first {at} bytes": whole[:at] for at in sorted(set(rng.integers(0, len(whole) - 1, 100).tolist()))}
    others |= {f"graphs in graphs, {depth} deep": nested(depth) for depth in (1, 10, 30, 60, 100, 1000, 5000)}
    for name, data in others.items():
        yield Trial("an ONNX model: other bytes", name, partial(_judged, "GRU", data))
    yield Trial("an ONNX model: other bytes", "an archive", _read_archive)


def _trials_of_outside_data() -> Iterator[Trial]:
    for name, location in LOCATIONS.items():
        yield Trial("an ONNX model: data in other files", name, partial(_read_outside, {"location": location}))
    for offset in OFFSETS:
        for length in OFFSETS:
            entries = {"location": "data", "offset": offset, "length": length}
            yield Trial("an ONNX model: data in other files", f"{offset[:30]}, {length[:30]}", partial(_read_outside, entries))


def _set_dims(model: Any, *, i: int, dims: list[int]) -> None:
    del model.graph.initializer[i].dims[:]
    model.graph.initializer[i].dims.extend(dims)


def _set_type(model: Any, *, i: int, kind: int) -> None:
    model.graph.initializer[i].data_type = kind


_PLACES: dict[str, Callable[[Any, str], None]] = {
    "graph": lambda model, text: setattr(model.graph, "name", text),
    "operator": lambda model, text: setattr(_operator(model), "name", text),
    "type of the operator": lambda model, text: setattr(_operator(model), "op_type", text),
    "domain": lambda model, text: setattr(_operator(model), "domain", text),
    "input": lambda model, text: _operator(model).input.__setitem__(1, text),
    "another input": lambda model, text: _operator(model).input.append(text),
    "output": lambda model, text: _operator(model).output.__setitem__(0, text),
    "tensor": lambda model, text: setattr(model.graph.initializer[0], "name", text),
    "attribute": lambda model, text: setattr(_operator(model).attribute[0], "name", text),
    "documentation": lambda model, text: setattr(_operator(model), "doc_string", text),
    "producer": lambda model, text: setattr(model, "producer_name", text),
}


def _operator(model: Any) -> Any:
    return next(node for node in model.graph.node if node.op_type in ("GRU", "LSTM", "RNN"))


def _set_name(model: Any, *, place: str, text: str) -> None:
    _PLACES[place](model, text)


def _set_attribute(model: Any, *, name: str, value: Any) -> None:
    operator = _operator(model)
    others = [attribute for attribute in operator.attribute if attribute.name != name]
    del operator.attribute[:]
    operator.attribute.extend([*others, helper.make_attribute(name, value)])


def _add_attributes(model: Any) -> None:
    _operator(model).attribute.extend(helper.make_attribute(f"attribute_{i}" * 10, i) for i in range(10_000))


def _add_operators(model: Any) -> None:
    model.graph.node.extend(
        helper.make_node("GRU", ["x", "W", "R"], [f"y{i}"], name=f"operator_{i}" * 10) for i in range(10_000)
    )


def _own_input(model: Any) -> None:
    _operator(model).input[1] = _operator(model).output[0]


def _cycle(model: Any) -> None:
    _operator(model).input[1] = "a"
    model.graph.node.extend([helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])])


def _read_archive(where: Path) -> Ended:
    with zipfile.ZipFile(where / "archive", "w") as archive:
        archive.writestr("model.onnx", content("GRU"))
    return _judged("GRU", (where / "archive").read_bytes(), where)


def _read_outside(entries: dict[str, str], where: Path) -> Ended:
    """Reads a model whose first tensor is in another file."""
    model = onnx.load_model_from_string(content("GRU"))
    tensor = model.graph.initializer[0]
    folder = where / "model"
    folder.mkdir()
    (where / "outside").write_bytes(tensor.raw_data)
    (folder / "data").write_bytes(tensor.raw_data)
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("/dev/zero")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return _judged("GRU", model.SerializeToString(), folder)


def nested(depth: int) -> bytes:
    """Returns the bytes of a model whose nodes have graphs in graphs."""

    def field(number: int, inner: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(inner)) + inner

    def varint(value: int) -> bytes:
        low, high = value & 127, value >> 7
        return bytes([low | 128]) + varint(high) if high else bytes([low])

    graph = b""
    for _ in range(depth):  # graph.node.attribute.g
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)

"""A recurrent operator and its weights from an ONNX model file, through the package `onnx` (the extra `convert`)."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gru_jax.cells.elman import elman
from gru_jax.cells.gru import gru
from gru_jax.cells.lstm import LSTMParams, LSTMState, lstm
from gru_jax.convert.arrays import read
from gru_jax.convert.files import extra
from gru_jax.convert.onnx import INPUTS, from_onnx
from gru_jax.layers.bidirectional import BidirectionalParams, bidirectional

GATE_ACTIVATIONS = {"GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
KNOWN = {"direction", "hidden_size", "linear_before_reset", "activations", "activation_alpha", "activation_beta", "layout"}


class Loaded(NamedTuple):
    """A recurrent operator of an ONNX model.

    `gj.unroll(cell, params, xs, h0, lengths=lengths, reverse=reverse, time_major=time_major)` computes what it does.
    """

    cell: Any
    params: Any
    reverse: bool
    time_major: bool
    lengths: Any  # (B,), where they are a constant of the model; else None
    h0: Any  # the initial state of B sequences, where it is a constant of the model; else None
    name: str


def load_onnx(source: Any, node: str | int | None = None, *, dtype: Any = None) -> Loaded:
    """The recurrent operator of an ONNX model, with its weights and all that its attributes say.

    Args:
        source: a path, or an `onnx.ModelProto`. Weights that stand in files of their own are not followed from a path: pass
            `onnx.load(path)`.
        node: which of several operators GRU, LSTM and RNN: its name, or its number among them. None where there is one.
        dtype: to cast to; None keeps the weights'.

    Returns:
        `Loaded(cell, params, reverse, time_major, lengths, h0, name)`. `lengths` and `h0` are those that are constants of the
        model; what the graph computes or is given is None here, and yours to pass.

    Raises:
        ImportError: onnx is not installed.
        FileNotFoundError: no such file.
        ValueError: no ONNX model (cut off, something else); no such operator, or several; weights that the graph computes; wrong
            shapes; a form that cannot be represented here: clipping, input_forget, other activations.
    """
    onnx = extra("onnx")
    graph, label = _graph(onnx, source)
    operator = _operator(graph, node, label)
    label = f"{label}, {operator.op_type} {operator.name!r}"
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in operator.attribute}
    constants = _constants(graph)
    direction = _text(attributes.get("direction", "forward"))
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"{label}: got direction={direction!r}, expected forward, reverse or bidirectional.")

    inputs = {role: name for role, name in zip(INPUTS[operator.op_type], operator.input, strict=False) if name}
    tensors: dict[str, Any] = {}
    for role in ("W", "R", "B", "P"):
        if role in inputs:
            if inputs[role] not in constants:
                raise ValueError(
                    f"{label}: got {role} ({inputs[role]!r}) from another operator or from the model's inputs, expected a constant. "
                    "Export the model again with constant folding."
                )
            tensors[role] = _array(onnx, constants[inputs[role]], f"{label}: {role}")
    cell = _cell(operator.op_type, attributes, direction, "P" in tensors, label)
    try:
        params = from_onnx(cell, tensors, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{label}: {error}") from error
    H = tensors["R"].shape[-1]
    if attributes.get("hidden_size", H) != H:
        raise ValueError(
            f"{label}: got hidden_size={attributes['hidden_size']} beside weights of {H} units, expected the same."
        )
    given = {
        role: _array(onnx, constants[inputs[role]], f"{label}: {role}")
        for role in ("sequence_lens", "initial_h", "initial_c")
        if inputs.get(role) in constants
    }
    batch_first = bool(attributes.get("layout", 0))
    return Loaded(
        cell=cell,
        params=params,
        reverse=direction == "reverse",
        time_major=not batch_first,
        lengths=given.pop("sequence_lens", None),
        h0=_initial_state(params, given, H, batch_first, dtype, label),
        name=operator.name,
    )


def _graph(onnx: Any, source: Any) -> tuple[Any, str]:
    """The graph of a model, and how messages call it."""
    if isinstance(source, onnx.ModelProto):
        return source.graph, "source"
    path = os.fspath(source)
    try:
        return onnx.load(path, load_external_data=False).graph, f"source: {path}"
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError, which has moved between its versions
        raise ValueError(f"source: {path} is not a whole ONNX model. ({error})") from error


def _operator(graph: Any, node: str | int | None, label: str) -> Any:
    """The operator that is asked for."""
    found = [operator for operator in graph.node if operator.op_type in INPUTS and operator.domain in ("", "ai.onnx")]
    there = "; ".join(f"{i}: {operator.op_type} {operator.name!r}" for i, operator in enumerate(found)) or "none"
    if isinstance(node, str):
        chosen = [operator for operator in found if operator.name == node]
    elif node is not None:
        chosen = found[node : node + 1] if node >= 0 else []
    else:
        chosen = found
    if len(chosen) != 1:
        asked = "" if node is None else f" that is {node!r}"
        raise ValueError(
            f"{label}: got {len(chosen)} operators GRU, LSTM or RNN{asked}, expected one. It has {there}. Pass node=…."
        )
    return chosen[0]


def _constants(graph: Any) -> dict[str, Any]:
    """The constant tensors of a graph by name."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for operator in graph.node:
        if operator.op_type == "Constant":
            constants.update((operator.output[0], a.t) for a in operator.attribute if a.name == "value")
    return constants


def _array(onnx: Any, tensor: Any, label: str) -> np.ndarray:
    """A constant as a NumPy array."""
    if onnx.external_data_helper.uses_external_data(tensor):
        raise ValueError(f"{label}: stands in a file of its own. Pass onnx.load(path), which reads such files, as source.")
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # what a wrong tensor raises there depends on what is wrong
        raise ValueError(
            f"{label}: cannot be read: dims {list(tensor.dims)}, data of another size or kind. ({error})"
        ) from error


def _cell(kind: str, attributes: Mapping[str, Any], direction: str, peephole: bool, label: str) -> Any:
    """The cell that the attributes describe.

    Raises:
        ValueError: something that no cell here does.
    """
    for name, value in attributes.items():
        if name not in KNOWN and not (name == "input_forget" and not value):
            raise ValueError(f"{label}: got {name}={value}, which no cell here does.")
    directions = 2 if direction == "bidirectional" else 1
    default = GATE_ACTIVATIONS.get(kind, ["tanh"])
    activations = [_text(a).lower() for a in attributes.get("activations", default * directions)]
    first = activations[: len(default)]
    if activations != first * directions or len(first) != len(default):
        raise ValueError(f"{label}: got the activations {activations}, expected {len(default)}, the same in every direction.")
    one: Any
    if kind == "RNN":
        scaled = (list(attributes.get("activation_alpha", [])), list(attributes.get("activation_beta", [])))
        identity = first == ["affine"] and scaled == ([1.0] * directions, [0.0] * directions)
        if not identity and first[0] not in ("tanh", "relu", "sigmoid"):
            raise ValueError(
                f"{label}: got the activation {first[0]} {scaled}, expected tanh, relu, sigmoid, or affine with 1 and 0."
            )
        one = elman("identity" if identity else first[0])  # type: ignore[arg-type]
    elif first != default:
        raise ValueError(f"{label}: got the activations {first}, expected {default}, those of the cells here.")
    else:
        one = lstm(peephole=peephole) if kind == "LSTM" else gru(reset_after=bool(attributes.get("linear_before_reset", 0)))
    return bidirectional(one) if directions == 2 else one


def _initial_state(params: Any, given: Mapping[str, np.ndarray], H: int, batch_first: bool, dtype: Any, label: str) -> Any:
    """A constant initial state in the structure of the cell's; None where there is none."""
    if not given:
        return None
    directions = params if isinstance(params, BidirectionalParams) else (params,)
    states = read(given, dtype, lambda role: f"{label}: {role}")
    for role, state in states.items():
        if batch_first and state.ndim == 3:
            states[role] = state = state.swapaxes(0, 1)
        if state.ndim != 3 or state.shape[::2] != (len(directions), H):
            raise ValueError(
                f"{label}: {role}: got shape {given[role].shape}, expected {len(directions)} directions and {H} units."
            )
    zeros = jnp.zeros_like(next(iter(states.values())))
    h, c = states.get("initial_h", zeros), states.get("initial_c", zeros)
    found = tuple(LSTMState(h[d], c[d]) if isinstance(one, LSTMParams) else h[d] for d, one in enumerate(directions))
    return found if len(found) > 1 else found[0]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

"""Reads a recurrent operator from an ONNX model, through the package `onnx`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gru_jax._files import import_extra
from gru_jax.cells.lstm import LSTMParams, LSTMState
from gru_jax.convert.arrays import to_jax_arrays
from gru_jax.convert.onnx import INPUTS, from_onnx
from gru_jax.convert.onnx_attributes import cell_from_attributes, check_attributes, direction_from_attributes
from gru_jax.convert.onnx_source import Model, read_model, shortened, to_numpy
from gru_jax.layers.bidirectional import BidirectionalParams


class LoadedOperator(NamedTuple):
    """A recurrent operator that was read from an ONNX model.

    The operator computes
    `gj.unroll(cell, params, xs, h0, lengths=lengths, reverse=reverse, time_major=time_major)`.

    Attributes:
        cell: The cell, or `gj.bidirectional` of one.
        params: Its parameters.
        reverse: Whether the operator reads the sequence from its end.
        time_major: Whether the inputs have shape (T, B, D) rather than (B, T, D).
        lengths: The lengths of the sequences, of shape (B,), if the model stores them as a
            constant, and None otherwise.
        h0: The initial state, if the model stores it as a constant, and None otherwise.
        name: The name of the operator.
    """

    cell: Any
    params: Any
    reverse: bool
    time_major: bool
    lengths: Any
    h0: Any
    name: str


def load_onnx(source: Any, node: str | int | None = None, *, dtype: Any = None) -> LoadedOperator:
    """Reads a recurrent operator of an ONNX model, and finds its cell and parameters.

        cell, params, *_ = gj.convert.load_onnx("model.onnx")

    Args:
        source: The path of the model, its bytes, a binary file object, or an `onnx.ModelProto`.
            Weights in other files are read if `source` is a path and they are in its folder.
        node: Which operator to read if the model has several: its name, or its index among the
            operators GRU, LSTM and RNN. Defaults to the only one.
        dtype: The dtype to cast to. Defaults to the dtype of the weights.

    Returns:
        A `LoadedOperator` with the cell, its parameters, and the arguments of `gj.unroll` that the
        model fixes.

    Raises:
        ImportError: If onnx is not installed.
        TypeError: If `source` or `node` is none of these.
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is truncated, a directory, a pipe, or not an ONNX model; if it has
            no such operator, or several and `node` is None; if the model computes the weights
            instead of storing them; if a tensor has the wrong shape, or its data are in a file
            outside of the folder; or if no cell of this package implements the operator, for
            example because of input_forget, or a clip that pre-activations can reach. A clip at
            which every activation has reached its limit changes nothing, and is accepted.

    Example:
        >>> import jax, tempfile
        >>> import gru_jax as gj
        >>> params = gj.gru().init(jax.random.key(0), 3, 4)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     gj.convert.save_onnx(f"{directory}/model.onnx", gj.gru(), params)
        ...     loaded = gj.convert.load_onnx(f"{directory}/model.onnx")
        >>> loaded.cell == gj.gru(), loaded.params.W_z.shape
        (True, (3, 4))
    """
    onnx = import_extra("onnx")
    if isinstance(node, bool) or not isinstance(node, str | int | None):
        raise TypeError(
            f"node: got {node!r:.80} ({type(node).__name__}), expected the name or the index of an operator, or None."
        )
    try:
        return _load(onnx, source, node, dtype)
    except (TypeError, ValueError) as error:
        short = shortened(error)
        if short is error:
            raise
    raise short


def _load(onnx: Any, source: Any, node: str | int | None, dtype: Any) -> LoadedOperator:
    """Reads a recurrent operator, and raises errors whose messages may be of any length."""
    model = read_model(onnx, source)
    operator = _find_operator(model.graph, node, model.label)
    label = f"{model.label}, {operator.op_type} {operator.name!r}"
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in operator.attribute}
    constants = _constants(model.graph)
    input_names = {role: name for role, name in zip(INPUTS[operator.op_type], operator.input, strict=False) if name}
    check_attributes(attributes, label)
    direction = direction_from_attributes(attributes, label)

    tensors = _weights(onnx, model, constants, input_names, label)
    cell = cell_from_attributes(operator.op_type, attributes, direction, peephole="P" in tensors, label=label)
    try:
        params = from_onnx(cell, tensors, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{label}: {error}") from error
    H = tensors["R"].shape[-1]
    if attributes.get("hidden_size", H) != H:
        raise ValueError(f"{label}: got hidden_size={attributes['hidden_size']}, expected {H}, the hidden size of the weights.")

    fixed = {
        role: to_numpy(onnx, constants[input_names[role]], model.folder, f"{label}: {role}")
        for role in ("sequence_lens", "initial_h", "initial_c")
        if input_names.get(role) in constants
    }
    lengths = fixed.pop("sequence_lens", None)
    batch_first = bool(attributes.get("layout", 0))
    states = to_jax_arrays(fixed, dtype, lambda role: f"{label}: {role}")
    return LoadedOperator(
        cell=cell,
        params=params,
        reverse=direction == "reverse",
        time_major=not batch_first,
        lengths=lengths,
        h0=_initial_state(params, states, H, batch_first=batch_first, label=label),
        name=operator.name,
    )


def _find_operator(graph: Any, node: str | int | None, label: str) -> Any:
    """Finds the operator that `node` names, or the only one.

    Raises:
        ValueError: If no operator or several operators match.
    """
    operators = [operator for operator in graph.node if operator.op_type in INPUTS and operator.domain in ("", "ai.onnx")]
    if isinstance(node, str):
        chosen = [operator for operator in operators if operator.name == node]
    elif node is not None:
        chosen = operators[node : node + 1] if node >= 0 else []
    else:
        chosen = operators
    if len(chosen) != 1:
        known = "; ".join(f"{i}: {operator.op_type} {operator.name!r}" for i, operator in enumerate(operators)) or "none"
        asked = "" if node is None else f" for node={node!r}"
        raise ValueError(
            f"{label}: got {len(chosen)} operators of type GRU, LSTM or RNN{asked}, expected one. The model has {known}. Pass the "
            "name or index of one as node."
        )
    return chosen[0]


def _constants(graph: Any) -> dict[str, Any]:
    """Collects the constant tensors of a graph by name."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for operator in graph.node:
        if operator.op_type == "Constant":
            constants.update((operator.output[0], a.t) for a in operator.attribute if a.name == "value")
    return constants


def _weights(
    onnx: Any, model: Model, constants: Mapping[str, Any], input_names: Mapping[str, str], label: str
) -> dict[str, np.ndarray]:
    """Reads W, R, B and P, as far as the operator has them.

    Raises:
        ValueError: If one of them is not a constant of the model.
    """
    tensors = {}
    for role in ("W", "R", "B", "P"):
        if role in input_names:
            if input_names[role] not in constants:
                raise ValueError(
                    f"{label}: got {role} ({input_names[role]!r}) from another operator or from the inputs of the model, expected "
                    "a constant. Export the model again with constant folding."
                )
            tensors[role] = to_numpy(onnx, constants[input_names[role]], model.folder, f"{label}: {role}")
    return tensors


def _initial_state(params: Any, states: Mapping[str, Any], H: int, *, batch_first: bool, label: str) -> Any:
    """Converts initial_h and initial_c to the state of the cell, or returns None without them."""
    if not states:
        return None
    directions = params if isinstance(params, BidirectionalParams) else (params,)
    arranged = {}
    for role, state in states.items():
        by_direction = state.swapaxes(0, 1) if batch_first and state.ndim == 3 else state
        if by_direction.ndim != 3 or by_direction.shape[::2] != (len(directions), H):
            raise ValueError(
                f"{label}: {role}: got shape {state.shape}, expected {len(directions)} on the axis of the directions and {H} on the "
                "axis of the units."
            )
        arranged[role] = by_direction
    zeros = jnp.zeros_like(next(iter(arranged.values())))
    h, c = arranged.get("initial_h", zeros), arranged.get("initial_c", zeros)
    by_direction = tuple(LSTMState(h[i], c[i]) if isinstance(own, LSTMParams) else h[i] for i, own in enumerate(directions))
    return by_direction if len(by_direction) > 1 else by_direction[0]

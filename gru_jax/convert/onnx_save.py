"""A cell, a stack or two directions as an ONNX model file, through the package `onnx` (the extra `convert`); onnxruntime runs it.

Each layer is one operator. Its outputs (T, directions, B, H) become the next one's inputs (T, B, directions·H) by a transpose and a
reshape. ONNX leaves the state after a sequence of length 0 open (onnxruntime gives zeros): here it is h0, by a `Where`.
"""

import os
from typing import Any

import numpy as np

from gru_jax.convert.files import extra, write_whole
from gru_jax.convert.library import check_composition
from gru_jax.convert.onnx import INPUTS, ONNX, OPERATORS, cells_of_operator, to_onnx
from gru_jax.layers.stack import Stack

OPSET, IR_VERSION = 17, 8  # the GRU of opset 14; what runtimes since 2022 read


def save_onnx(
    path: str | os.PathLike[str], cell: Any, params: Any, *, lengths: bool = False, h0: bool = False, reverse: bool = False
) -> None:
    """Writes the ONNX model of `h_last, ys = gj.unroll(cell, params, xs, h0, lengths=lengths, reverse=reverse)`.

    Inputs of the model: `xs` (T, B, D); with `lengths=True` `lengths` (B,) int32; with `h0=True` `h0` (directions, B, H), for an
    LSTM `c0` too, zeros otherwise. Outputs: `ys` (T, B, directions·H) and `h_last` (directions, B, H), for an LSTM `c_last` too. In a
    stack each layer i has its own: `h0_i`, `h_last_i`. T and B are open. Lengths mean what they mean here: outputs beyond are
    0, a sequence of length 0 keeps its h0.

    Args:
        path: of the file; one that is there is replaced, whole or not at all.
        cell: what the parameters belong to: a cell, `gj.bidirectional` of one, a `gj.stack` of these.
        params: the parameters. onnxruntime computes in float32 only; float64 and float16 are written as they are.
        lengths: whether the model takes lengths.
        h0: whether it takes initial states.
        reverse: whether it reads from the last step to the first; not for two directions.

    Raises:
        ImportError: onnx is not installed.
        TypeError: a cell that ONNX does not have, with the reason; noise (export `cell.deterministic()`); bfloat16.
        ValueError: some biases None and others not; `reverse` for two directions.
        OSError: the folder is missing or cannot be written to, or the disk is full.
    """
    onnx = extra("onnx")
    check_composition(cell, ONNX.name)
    if cell.needs_key:
        raise TypeError(f"cell: got {cell.name}, which draws noise, expected the form for evaluation: cell.deterministic().")
    cell.check(params)
    layers = list(zip(cell.cells, params, strict=True)) if isinstance(cell, Stack) else [(cell, params)]
    if reverse and any(len(cells_of_operator(part)) > 1 for part, _ in layers):
        raise ValueError("reverse: got True with two directions, expected False: they read both ways.")
    built = Model(onnx, lengths, h0, "reverse" if reverse else "forward", np.dtype(to_onnx(*layers[0])["W"].dtype))
    x = "xs"
    for i, (part, own) in enumerate(layers):
        x = built.layer(part, own, x, f"_{i}" if isinstance(cell, Stack) else "", "ys" if i == len(layers) - 1 else f"ys_{i}")
    model = built.finished(input_size=cell.check(params), output_size=cell.output_size(params))
    write_whole(path, lambda file: onnx.save(model, file))


class Model:
    """A model that grows layer by layer."""

    def __init__(self, onnx: Any, lengths: bool, h0: bool, direction: str, dtype: np.dtype) -> None:
        if dtype.name not in ("float64", "float32", "float16"):
            raise TypeError(f"params: got {dtype}, which ONNX' recurrent operators lack. Cast them: p.astype(jnp.float32).")
        self.onnx, self.lengths, self.h0, self.direction, self.dtype = onnx, lengths, h0, direction, dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.holds_empty = lengths and h0
        if self.holds_empty:
            self.constant("zero", np.array(0, np.int32))
            self.constant("around", np.array([0, 2], np.int64))
            self.node("Equal", ["lengths", "zero"], ["is_empty"])
            self.node("Unsqueeze", ["is_empty", "around"], ["is_empty_state"])

    def node(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Adds an operator."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, name=f"{kind}_{len(self.nodes)}", **attributes))

    def constant(self, name: str, value: np.ndarray) -> None:
        """Adds a constant."""
        self.constants.append(self.onnx.numpy_helper.from_array(value, name))

    def value(self, name: str, shape: list[Any], dtype: Any = None) -> Any:
        """An input or output of the model."""
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)

    def layer(self, cell: Any, params: Any, x: str, suffix: str, y: str) -> str:
        """Adds the operator of one layer; the name of its outputs."""
        cells = cells_of_operator(cell)
        operator = OPERATORS[cells[0][1]]
        attributes = {name: a * len(cells) if isinstance(a, list) else a for name, a in operator.attributes.items()}
        states = ("h", "c") if operator.kind == "LSTM" else ("h",)
        tensors = to_onnx(cell, params)
        directions, _, H = tensors["R"].shape
        roles = {"X": x}
        for role, tensor in tensors.items():
            roles[role] = f"{role}{suffix}"
            self.constant(roles[role], tensor)
        if self.lengths:
            roles["sequence_lens"] = "lengths"
        lasts = []
        for letter in states:
            if self.h0:
                roles[f"initial_{letter}"] = f"{letter}0{suffix}"
                self.inputs.append(self.value(f"{letter}0{suffix}", [directions, "B", H]))
            lasts.append(f"{letter}_last{suffix}")
            self.outputs.append(self.value(lasts[-1], [directions, "B", H]))
        names = INPUTS[operator.kind]
        raw = [f"{name}_raw" if self.holds_empty else name for name in lasts]
        self.node(
            operator.kind,
            [roles.get(role, "") for role in names],
            [f"{y}_by_direction", *raw],
            hidden_size=H,
            direction="bidirectional" if directions == 2 else self.direction,
            **attributes,
        )
        if self.holds_empty:
            for letter, held, last in zip(states, raw, lasts, strict=True):
                self.node("Where", ["is_empty_state", f"{letter}0{suffix}", held], [last])
        self.constant(f"shape{suffix}", np.array([0, 0, directions * H], np.int64))
        self.node("Transpose", [f"{y}_by_direction"], [f"{y}_side_by_side"], perm=[0, 2, 1, 3])
        self.node("Reshape", [f"{y}_side_by_side", f"shape{suffix}"], [y])
        return y

    def finished(self, input_size: int, output_size: int) -> Any:
        """The model, checked."""
        lengths = [self.value("lengths", ["B"], np.int32)] if self.lengths else []
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes,
            "gru_jax",
            [self.value("xs", ["T", "B", input_size]), *lengths, *self.inputs],
            [self.value("ys", ["T", "B", output_size]), *self.outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="gru_jax")
        self.onnx.checker.check_model(model, full_check=True)
        return model

"""Writes a cell, a stack or a bidirectional layer as an ONNX model, through the package `onnx`.

Each layer becomes one operator. Its outputs have shape (T, directions, B, H); a transpose and a
reshape turn them into the inputs (T, B, directions·H) of the next layer. ONNX does not define the
final state of a sequence of length 0, and onnxruntime returns zeros. A `Where` operator therefore
selects the initial state for such sequences, as `gj.unroll` does.
"""

import os
from typing import Any

import numpy as np

from gru_jax._engine.arguments import check_flag
from gru_jax._files import import_extra, write_atomically
from gru_jax.convert.composition import check_composition, single_cells
from gru_jax.convert.onnx import INPUTS, ONNX, cells_of_operator, operator_of, to_onnx
from gru_jax.layers.stack import Stack

OPSET, IR_VERSION = 17, 8  # opset 14 defined this GRU operator; runtimes have read these versions since 2022


def save_onnx(
    path: str | os.PathLike[str], cell: Any, params: Any, *, lengths: bool = False, h0: bool = False, reverse: bool = False
) -> None:
    """Writes an ONNX model that computes `gj.unroll` of the cell with these parameters.

        gj.convert.save_onnx("model.onnx", cell, params)
        ys, h_last = onnxruntime.InferenceSession("model.onnx").run(None, {"xs": xs})

    The model has these inputs and outputs, with any number of steps T and sequences B:

    | name           | shape                |                                      |
    |----------------|----------------------|--------------------------------------|
    | xs             | (T, B, D)            | input                                |
    | lengths        | (B,), int32          | input, with lengths=True             |
    | h0, c0         | (directions, B, H)   | inputs, with h0=True; c0 for an LSTM |
    | ys             | (T, B, directions·H) | output                               |
    | h_last, c_last | (directions, B, H)   | outputs; c_last for an LSTM          |

    In a stack, the states of layer i are called `h0_i` and `h_last_i`. Lengths work as in
    `gj.unroll`: outputs at padded steps are 0, and the final state of a sequence of length 0 is its
    initial state.

    Args:
        path: The path of the file. An existing file is replaced atomically.
        cell: The cell to which the parameters belong: a cell, `gj.bidirectional` of one, or a
            `gj.stack` of these.
        params: The parameters, which are written without a cast in float64, float32 or float16.
            onnxruntime runs only float32.
        lengths: Whether the model takes the lengths of the sequences. Defaults to False.
        h0: Whether the model takes initial states. Defaults to False, which starts from zeros.
        reverse: Whether the model reads the sequence from its end. Defaults to False, which
            bidirectional layers require.

    Raises:
        ImportError: If onnx is not installed.
        TypeError: If ONNX has no such cell; if the cell draws noise (save `cell.deterministic()`
            instead); or if the parameters are bfloat16.
        ValueError: If only some biases are None, or `reverse` is True for a bidirectional layer.
        OSError: If the directory is missing or not writable, or the disk is full.

    Example:
        >>> import jax, os, tempfile
        >>> import gru_jax as gj
        >>> cell = gj.stack([gj.lstm(), gj.gru()])
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     gj.convert.save_onnx(f"{directory}/model.onnx", cell, params, lengths=True)
        ...     print(os.listdir(directory))
        ['model.onnx']
    """
    onnx = import_extra("onnx")
    lengths, h0, reverse = check_flag("lengths", lengths), check_flag("h0", h0), check_flag("reverse", reverse)
    check_composition(cell, ONNX.name, other_activations=True)
    if cell.needs_key:
        raise TypeError(f"cell: got {cell.name}, which draws noise, expected its form for evaluation: cell.deterministic().")
    for single_cell in single_cells(cell).values():
        ONNX.table_for(single_cell)  # raises if ONNX has no such cell
    params, input_size = cell._validated_params(params)
    layers = list(zip(cell.cells, params, strict=True)) if isinstance(cell, Stack) else [(cell, params)]
    if reverse and any(len(cells_of_operator(layer)) > 1 for layer, _ in layers):
        raise ValueError(
            "reverse: got True for a bidirectional layer, expected False, because it already reads the sequence in both directions."
        )
    dtype = np.dtype(to_onnx(*layers[0])["W"].dtype)
    builder = _ModelBuilder(onnx, dtype, has_lengths=lengths, has_h0=h0, direction="reverse" if reverse else "forward")
    inputs = "xs"
    for i, (layer, own) in enumerate(layers):
        outputs = "ys" if i == len(layers) - 1 else f"ys_{i}"
        suffix = f"_{i}" if isinstance(cell, Stack) else ""
        builder.add_layer(layer, own, inputs=inputs, outputs=outputs, suffix=suffix)
        inputs = outputs
    model = builder.finish(input_size=input_size, output_size=cell.output_size(params))
    write_atomically(path, lambda file: onnx.save(model, file))


class _ModelBuilder:
    """Builds an ONNX model layer by layer."""

    def __init__(self, onnx: Any, dtype: np.dtype, *, has_lengths: bool, has_h0: bool, direction: str) -> None:
        if dtype.name not in ("float64", "float32", "float16"):
            raise TypeError(
                f"params: got {dtype}, expected float64, float32 or float16, which ONNX's recurrent operators take. Cast them: "
                "jax.tree.map(lambda p: p.astype(jnp.float32), params)."
            )
        self.onnx, self.dtype, self.direction = onnx, dtype, direction
        self.has_lengths, self.has_h0 = has_lengths, has_h0
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.state_inputs: list[Any] = []
        self.state_outputs: list[Any] = []
        # without h0 the initial state is zero, so what onnxruntime returns for a sequence of length
        # 0 is right
        self.must_hold_states = has_lengths and has_h0
        if self.must_hold_states:
            self.add_constant("zero", np.array(0, np.int32))
            self.add_constant("outer_axes", np.array([0, 2], np.int64))
            self.add_node("Equal", ["lengths", "zero"], ["is_empty"])
            self.add_node("Unsqueeze", ["is_empty", "outer_axes"], ["is_empty_by_state"])

    def add_node(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Adds an operator."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, name=f"{kind}_{len(self.nodes)}", **attributes))

    def add_constant(self, name: str, value: np.ndarray) -> None:
        """Adds a constant tensor."""
        self.constants.append(self.onnx.numpy_helper.from_array(value, name))

    def tensor_info(self, name: str, shape: list[Any], dtype: Any = None) -> Any:
        """Describes an input or output of the model. Defaults to the dtype of the parameters."""
        onnx_dtype = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        return self.onnx.helper.make_tensor_value_info(name, onnx_dtype, shape)

    def add_layer(self, cell: Any, params: Any, *, inputs: str, outputs: str, suffix: str) -> None:
        """Adds the operator of one layer.

        Args:
            cell: The layer.
            params: Its parameters.
            inputs: The name of the tensor that the layer reads.
            outputs: The name of the tensor that the layer writes.
            suffix: What to append to the names of the layer's weights and states.
        """
        operator = operator_of(cells_of_operator(cell))
        tensors = to_onnx(cell, params)
        directions, _, H = tensors["R"].shape
        name_by_role = {"X": inputs} | {role: f"{role}{suffix}" for role in tensors}
        for role, tensor in tensors.items():
            self.add_constant(name_by_role[role], tensor)
        if self.has_lengths:
            name_by_role["sequence_lens"] = "lengths"
        letters = ("h", "c") if operator.kind == "LSTM" else ("h",)
        final_states = [f"{letter}_last{suffix}" for letter in letters]
        self.state_outputs += [self.tensor_info(name, [directions, "B", H]) for name in final_states]
        if self.has_h0:
            initial_states = [f"{letter}0{suffix}" for letter in letters]
            self.state_inputs += [self.tensor_info(name, [directions, "B", H]) for name in initial_states]
            name_by_role |= {f"initial_{letter}": name for letter, name in zip(letters, initial_states, strict=True)}
        self.add_node(
            operator.kind,
            [name_by_role.get(role, "") for role in INPUTS[operator.kind]],
            [f"{outputs}_by_direction", *(f"{name}_raw" if self.must_hold_states else name for name in final_states)],
            hidden_size=H,
            direction="bidirectional" if directions == 2 else self.direction,
            **operator.attributes,
        )
        if self.must_hold_states:
            for initial, final in zip(initial_states, final_states, strict=True):
                self.add_node("Where", ["is_empty_by_state", initial, f"{final}_raw"], [final])
        self.add_constant(f"shape{suffix}", np.array([0, 0, directions * H], np.int64))
        self.add_node("Transpose", [f"{outputs}_by_direction"], [f"{outputs}_transposed"], perm=[0, 2, 1, 3])
        self.add_node("Reshape", [f"{outputs}_transposed", f"shape{suffix}"], [outputs])

    def finish(self, input_size: int, output_size: int) -> Any:
        """Returns the model, after ONNX's own check."""
        helper = self.onnx.helper
        lengths = [self.tensor_info("lengths", ["B"], np.int32)] if self.has_lengths else []
        graph = helper.make_graph(
            self.nodes,
            "gru_jax",
            [self.tensor_info("xs", ["T", "B", input_size]), *lengths, *self.state_inputs],
            [self.tensor_info("ys", ["T", "B", output_size]), *self.state_outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="gru_jax")
        self.onnx.checker.check_model(model, full_check=True)
        return model

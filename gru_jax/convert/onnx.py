"""Converts the weights of the ONNX operators `GRU`, `LSTM` and `RNN`.

Each tensor has a leading axis for the directions. `onnx_load` and `onnx_save` read and write whole
model files.

| operator | gate order | differences from our cells                                      |
|----------|------------|-----------------------------------------------------------------|
| GRU      | z, r, h    | z multiplies the old state; six biases                          |
| LSTM     | i, o, f, c | eight biases, added up in pairs; peepholes in the order i, o, f |
| RNN      |            | two biases, added up                                            |
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp

from gru_jax.cells.elman import ElmanParams, elman
from gru_jax.cells.gru import GRUParams, gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.lstm import LSTMParams
from gru_jax.cells.make_lstm import lstm
from gru_jax.convert.arrays import to_jax_arrays, to_numpy_arrays
from gru_jax.convert.composition import Position, build_params, check_composition, pack_cells, single_cells
from gru_jax.convert.library import Library, activations_of, plain_form
from gru_jax.convert.names import check_names
from gru_jax.convert.packing import unpack
from gru_jax.convert.table import Table
from gru_jax.layers.stack import Stack

_GRU = {"W": "-W_z W_r W_h", "R": "-U_z U_r U_h"}
_LSTM = {"W": "W_i W_o W_f W_g", "R": "U_i U_o U_f U_g", "B": "b_i b_o b_f b_g b_i b_o b_f b_g"}
_RNN = Table(ElmanParams, {"W": "W", "R": "U", "B": "b b"}, optional=("B",), transposed=True)
ONNX = Library(
    "ONNX",
    {
        gru(): Table(GRUParams, _GRU | {"B": "-b_z b_r b_h -b_z b_r b_h"}, optional=("B",), transposed=True),
        gru(reset_after=True): Table(
            GRUResetAfterParams, _GRU | {"B": "-b_z b_r b_h -b_z b_r c_h"}, optional=("B",), transposed=True
        ),
        lstm(): Table(LSTMParams, _LSTM, optional=("B",), transposed=True),
        lstm(peephole=True): Table(LSTMParams, _LSTM | {"P": "p_i p_o p_f"}, optional=("B",), transposed=True),
        elman(): _RNN,
    },
    any_activation=True,
)


class Operator(NamedTuple):
    """The ONNX operator that runs a cell.

    Attributes:
        kind: "GRU", "LSTM" or "RNN".
        attributes: The attributes that distinguish the cell from others of the same kind.
    """

    kind: str
    attributes: Mapping[str, Any] = MappingProxyType({})


_OPERATORS = {
    gru(): Operator("GRU", {"linear_before_reset": 0}),
    gru(reset_after=True): Operator("GRU", {"linear_before_reset": 1}),
    lstm(): Operator("LSTM"),
    lstm(peephole=True): Operator("LSTM"),
    elman(): Operator("RNN"),
}
# the activations by ONNX' names, and their α and β where the operator is not told
ACTIVATIONS = {
    "Tanh": ("tanh", ()),
    "Sigmoid": ("sigmoid", ()),
    "Relu": ("relu", ()),
    "Affine": ("identity", (1.0, 0.0)),
    "Softsign": ("softsign", ()),
    "Softplus": ("softplus", ()),
    "Elu": ("elu", (1.0,)),
    "LeakyRelu": ("leaky_relu", (0.01,)),
    "HardSigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "ScaledTanh": ("scaled_tanh", (1.0, 1.0)),
}


def operator_of(cells: Sequence[Any]) -> Operator:
    """Returns the operator that runs cells of one kind, one for each direction."""
    operator = _OPERATORS[plain_form(cells[0])]
    if all(cell in _OPERATORS for cell in cells):
        return operator
    name_of = {name: theirs for theirs, (name, _) in ACTIVATIONS.items()}
    names, parameters = [], []
    for cell in cells:
        own = activations_of(cell)
        for activation in own + own[1:] if operator.kind == "LSTM" else own:  # φ twice: of the candidate and the memory
            names.append(name_of[activation.name])
            parameters.append((1.0, 0.0) if activation.name == "identity" else activation.parameters)
    alpha, beta = ([own[i] for own in parameters if i < len(own)] for i in range(2))
    lists = {"activations": names, "activation_alpha": alpha, "activation_beta": beta}
    return Operator(operator.kind, {**operator.attributes, **{name: values for name, values in lists.items() if values}})


# the inputs of each operator, in order
INPUTS = {
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
}


def from_onnx(cell: Any, tensors: Mapping[str, Any], *, dtype: Any = None) -> Any:
    """Converts the inputs W, R, B and P of an ONNX operator to the parameters of `cell`.

        params = gj.convert.from_onnx(gj.gru(), {"W": W, "R": R, "B": B})

    | cell                     | operator                                              |
    |--------------------------|-------------------------------------------------------|
    | gj.gru()                 | GRU with linear_before_reset=0, the default           |
    | gj.gru(reset_after=True) | GRU with linear_before_reset=1, which PyTorch exports |
    | gj.lstm(peephole=True)   | LSTM with the input P                                 |
    | gj.bidirectional(cell)   | any of these with direction="bidirectional"           |

    The tensors do not say which activations the operator has. Its directions may have different
    ones: `gj.bidirectional(gj.elman("relu"), gj.elman("tanh"))`.

    For direction="reverse", run the cell with `gj.unroll(…, reverse=True)`. To read a model file,
    including which cell it holds, use `gj.convert.load_onnx`.

    Biases that ONNX adds up fold into one. Converting to gru_jax and back to ONNX therefore
    preserves the function, and every bit except those of the biases. The conversion is
    differentiable.

    Args:
        cell: The cell to which the weights belong, or `gj.bidirectional` of one.
        tensors: "W" of shape (directions, gates·H, D), "R" of shape (directions, gates·H, H), and,
            if the operator has them, "B" of shape (directions, 2·gates·H) and "P" of shape
            (directions, 3H).
        dtype: The dtype to cast to. Defaults to the dtype of the tensors.

    Returns:
        The parameters of `cell`, as `cell.init` makes them.

    Raises:
        TypeError: If `cell` is a stack (each layer is an operator of its own), if ONNX has no such
            cell, or if the tensors have mixed or non-floating dtypes.
        ValueError: If a name is missing or unexpected, or a tensor has the wrong shape.

    Example:
        >>> import numpy as np
        >>> import gru_jax as gj
        >>> shapes = {"W": (1, 12, 3), "R": (1, 12, 4), "B": (1, 24)}
        >>> tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        >>> gj.convert.from_onnx(gj.gru(), tensors).W_z.shape
        (3, 4)
    """
    cells = cells_of_operator(cell)
    table, *_ = [ONNX.table_for(one) for one in cells]
    if not isinstance(tensors, Mapping):
        raise TypeError(
            f'tensors: got {type(tensors).__name__}, expected a mapping. Pass {{"W": …, "R": …}}, with "B" and "P" if the operator '
            "has them."
        )
    check_names(tensors, required=table.names(with_optional=False), optional=table.optional, label="tensors")
    label_of = lambda name: f"tensors[{name!r}]"
    arrays = to_jax_arrays(tensors, dtype, label_of)
    for name, array in arrays.items():
        if array.ndim < 2 or array.shape[0] != len(cells):
            raise ValueError(
                f"{label_of(name)}: got shape {array.shape}, expected {len(cells)} on the first axis, the number of directions."
            )

    def params_at(position: Position) -> Any:
        own = {name: arrays[name][position.direction] for name in table.tensors if name in arrays}
        return unpack(table, own, lambda name: f"{label_of(name)}[{position.direction}]")

    return build_params(cell, params_at)


def to_onnx(cell: Any, params: Any) -> dict[str, Any]:
    """Converts parameters to the inputs of the ONNX operator that computes the same function.

        tensors = gj.convert.to_onnx(cell, params)

    `from_onnx` lists the operators, and converts back to the same bits. To write a model file, use
    `gj.convert.save_onnx`.

    Args:
        cell: The cell to which the parameters belong, or `gj.bidirectional` of one.
        params: The parameters.

    Returns:
        NumPy arrays by name. The first axis is the direction.

    Raises:
        TypeError: If `cell` is a stack, or ONNX has no such cell.
        ValueError: If only some biases are None.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> params = gj.lstm(peephole=True).init(jax.random.key(0), 3, 4)
        >>> tensors = gj.convert.to_onnx(gj.lstm(peephole=True), params)
        >>> {name: tensor.shape for name, tensor in tensors.items()}
        {'W': (1, 16, 3), 'R': (1, 16, 4), 'B': (1, 32), 'P': (1, 12)}
    """
    cells_of_operator(cell)
    directions = list(pack_cells(ONNX, cell, params).values())
    return to_numpy_arrays({name: jnp.stack([tensors[name] for tensors in directions]) for name in directions[0]})


def cells_of_operator(cell: Any) -> list[Any]:
    """Returns the cells of one operator: one for each direction.

    Raises:
        TypeError: If `cell` is not a cell, is a stack, or is a bidirectional layer that no operator
            can represent.
    """
    if isinstance(cell, Stack):
        raise TypeError(
            f"cell: got {cell.name}, expected a single layer: each layer is an ONNX operator of its own. Convert the layers one by "
            "one."
        )
    check_composition(cell, ONNX.name, other_activations=True)
    return list(single_cells(cell).values())

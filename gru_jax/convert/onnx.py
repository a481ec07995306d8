"""ONNX: the weights of the operators `GRU`, `LSTM` and `RNN`, one array each with a leading axis for the directions.

    GRU     z, r, h on each other; z on the old state: W_z, U_z, b_z change sign. linear_before_reset=0 resets before the matmul,
            1 after it; six biases
    LSTM    i, o, f, c on each other; eight biases that are added up in pairs; peepholes i, o, f
    RNN     with any activation of `gj.elman`; two biases that are added up

`onnx_load` and `onnx_save` read and write whole model files.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp

from gru_jax.cells.elman import ElmanParams, elman
from gru_jax.cells.gru import GRUParams, gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.lstm import LSTMParams, lstm
from gru_jax.convert.arrays import check_names, read, write
from gru_jax.convert.library import ELMANS, Library, Place, build, cells, check_composition, packed
from gru_jax.convert.table import Table, unpack
from gru_jax.layers.stack import Stack

# what stands where among an operator's inputs
INPUTS = {
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
}
_GRU = {"W": "-W_z W_r W_h", "R": "-U_z U_r U_h"}
_LSTM = {"W": "W_i W_o W_f W_g", "R": "U_i U_o U_f U_g", "B": "b_i b_o b_f b_g b_i b_o b_f b_g"}
_RNN = Table(ElmanParams, {"W": "W", "R": "U", "B": "b b"}, ("B",), rows=True)
ONNX = Library(
    "ONNX",
    {
        gru(): Table(GRUParams, _GRU | {"B": "-b_z b_r b_h -b_z b_r b_h"}, ("B",), rows=True),
        gru(reset_after=True): Table(GRUResetAfterParams, _GRU | {"B": "-b_z b_r b_h -b_z b_r c_h"}, ("B",), rows=True),
        lstm(): Table(LSTMParams, _LSTM, ("B",), rows=True),
        lstm(peephole=True): Table(LSTMParams, _LSTM | {"P": "p_i p_o p_f"}, ("B",), rows=True),
        **dict.fromkeys(ELMANS, _RNN),
    },
)


class Operator(NamedTuple):
    """The operator of a cell; a list attribute holds the entries of one direction."""

    kind: str
    attributes: Mapping[str, Any] = MappingProxyType({})


OPERATORS = {
    gru(): Operator("GRU", {"linear_before_reset": 0}),
    gru(reset_after=True): Operator("GRU", {"linear_before_reset": 1}),
    lstm(): Operator("LSTM"),
    lstm(peephole=True): Operator("LSTM"),
    elman("tanh"): Operator("RNN", {"activations": ["Tanh"]}),
    elman("relu"): Operator("RNN", {"activations": ["Relu"]}),
    elman("sigmoid"): Operator("RNN", {"activations": ["Sigmoid"]}),
    elman("identity"): Operator("RNN", {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}),
}


def from_onnx(cell: Any, tensors: Mapping[str, Any], *, dtype: Any = None) -> Any:
    """Our parameters from the inputs W, R, B and P of an ONNX operator.

        gj.gru()                              GRU with linear_before_reset=0, ONNX' default
        gj.gru(reset_after=True)              GRU with linear_before_reset=1, what PyTorch exports
        gj.lstm(peephole=True)                LSTM with P
        gj.bidirectional(cell)                direction="bidirectional"; direction="reverse" is `gj.unroll(…, reverse=True)`

    Biases that ONNX adds up fold into one, so ONNX → here → ONNX keeps the function, and every bit but theirs. Differentiable.
    `gj.convert.load_onnx` reads them, and which cell it is, from a model file.

    Args:
        cell: what the weights belong to; the arrays do not say which GRU it is: the attribute does.
        tensors: "W" (directions, gates·H, D), "R" (directions, gates·H, H) and where there are "B" (directions, 2·gates·H) and
            "P" (directions, 3H).
        dtype: to cast to; None keeps theirs.

    Raises:
        TypeError: a stack (each layer is an operator of its own), a custom cell, wrong dtypes.
        ValueError: missing or surplus names, wrong shapes.
    """
    places = cells_of_operator(cell)
    table = ONNX.table(places[0][1])
    if not isinstance(tensors, Mapping):
        raise TypeError(
            f'tensors: got {type(tensors).__name__}, expected a mapping of "W", "R" and, where there are, "B" and "P".'
        )
    check_names(tensors, [name for name in table.tensors if name not in table.optional], table.optional, "tensors")
    say = lambda name: f"tensors[{name!r}]"
    arrays = read(tensors, dtype, say)
    for name, array in arrays.items():
        if array.ndim < 2 or array.shape[0] != len(places):
            raise ValueError(f"{say(name)}: got shape {array.shape}, expected {len(places)} on its first axis, the directions.")

    def make(place: Place, _: Any) -> Any:
        own = {name: arrays[name][place.direction] for name in table.tensors if name in arrays}
        return unpack(table, own, lambda name: f"{say(name)}[{place.direction}]")

    return build(cell, make)


def to_onnx(cell: Any, params: Any) -> dict[str, Any]:
    """The inputs W, R, B and P of the ONNX operator that computes the same, as NumPy arrays; see `from_onnx`.

    Back again by `from_onnx` every bit is the same. `gj.convert.save_onnx` writes a model file.

    Raises:
        TypeError: a stack or a cell that ONNX does not have.
        ValueError: some biases None and others not.
    """
    cells_of_operator(cell)
    directions = [tensors for _, tensors in packed(ONNX, cell, params)]
    return write({name: jnp.stack([tensors[name] for tensors in directions]) for name in directions[0]})


def cells_of_operator(cell: Any) -> list[tuple[Place, Any]]:
    """The one or two cells of an operator.

    Raises:
        TypeError: no cell, a stack, two directions that ONNX does not have.
    """
    if isinstance(cell, Stack):
        raise TypeError(f"cell: got {cell.name}, expected one layer: each is an operator of its own. Convert them one by one.")
    check_composition(cell, ONNX.name)
    return cells(cell)

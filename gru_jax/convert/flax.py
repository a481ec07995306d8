"""Flax: linen's and NNX' `GRUCell`, `LSTMCell`, `OptimizedLSTMCell` and `SimpleCell`, as trees of parameters.

GRUCell      r, z, n; z on the old state: W_z, U_z, b_z change sign; reset after the matmul. NNX' has no bias c_h
LSTMCell     i, f, g, o; one bias, which stands with the recurrent weights. Its carry is (c, h), our state (h, c)
SimpleCell   with the activation of `gj.elman`, which the tree does not say: the cell does
"""

from collections.abc import Mapping
from typing import Any

from gru_jax.cells.elman import ElmanParams
from gru_jax.cells.gru import gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.lstm import LSTMParams, lstm
from gru_jax.convert.arrays import check_names, flatten, read, unflatten
from gru_jax.convert.library import ELMANS, Library
from gru_jax.convert.table import Table, pack, unpack


def _gates(of_input: dict[str, str], of_state: dict[str, str]) -> dict[str, str]:
    """The kernels of a linen cell, gate by gate."""
    kernels = {name: f"W_{gate}" for name, gate in of_input.items()} | {name: f"U_{gate}" for name, gate in of_state.items()}
    return {f"{name}/kernel": entry for name, entry in kernels.items()}


_LSTM_BIASES = {"hi/bias": "b_i", "hf/bias": "b_f", "hg/bias": "b_g", "ho/bias": "b_o"}
_LSTM_STATE = {"hi": "i", "hf": "f", "hg": "g", "ho": "o"}
_SIMPLE = Table(ElmanParams, {"i/kernel": "W", "h/kernel": "U", "i/bias": "b"})
_NNX_SIMPLE = Table(ElmanParams, {"dense_i/kernel": "W", "dense_h/kernel": "U", "dense_i/bias": "b"})

LINEN = Library(
    "Flax linen",
    {
        gru(reset_after=True): Table(
            GRUResetAfterParams,
            {
                "ir/kernel": "W_r", "iz/kernel": "-W_z", "in/kernel": "W_h", "ir/bias": "b_r", "iz/bias": "-b_z", "in/bias": "b_h",
                "hr/kernel": "U_r", "hz/kernel": "-U_z", "hn/kernel": "U_h", "hn/bias": "c_h",
            },
        ),
        lstm(): Table(LSTMParams, _gates({"ii": "i", "if": "f", "ig": "g", "io": "o"}, _LSTM_STATE) | _LSTM_BIASES),
        **dict.fromkeys(ELMANS, _SIMPLE),
    },
)  # fmt: skip

NNX = Library(
    "Flax NNX",
    {
        gru(reset_after=True): Table(
            GRUResetAfterParams,
            {"dense_i/kernel": "W_r -W_z W_h", "dense_h/kernel": "U_r -U_z U_h", "dense_i/bias": "b_r -b_z b_h"},
        ),
        lstm(): Table(LSTMParams, _gates({"ii": "i", "if_": "f", "ig": "g", "io": "o"}, _LSTM_STATE) | _LSTM_BIASES),
        **dict.fromkeys(ELMANS, _NNX_SIMPLE),
    },
)
NNX_OPTIMIZED = Table(
    LSTMParams,
    {"dense_i/kernel": "W_i W_f W_g W_o", "dense_h/kernel": "U_i U_f U_g U_o", "dense_h/bias": "b_i b_f b_g b_o"},
)


def from_flax_linen(cell: Any, tree: Mapping[str, Any], *, dtype: Any = None) -> Any:
    """Our parameters from those of a linen cell: `variables["params"]`, or the part of it that is the cell's.

        gj.gru(reset_after=True)      nn.GRUCell(H)
        gj.lstm()                     nn.LSTMCell(H), nn.OptimizedLSTMCell(H)
        gj.elman("tanh")              nn.SimpleCell(H)

    `nn.RNN(cell)` keeps them under "cell", `nn.Bidirectional` under "forward_rnn" and "backward_rnn". Bit for bit both
    ways, and differentiable: gradients come back in Flax' tree.

    Args:
        cell: what the parameters belong to.
        tree: a mapping of "ir", "iz", …, each of "kernel" and, where the cell has one, "bias".
        dtype: to cast to; None keeps theirs.

    Raises:
        TypeError: a cell that linen does not have (reset before the matmul, peepholes), a stack, wrong dtypes.
        ValueError: missing or surplus names, wrong shapes.
    """
    return _from_tree(LINEN.table(cell), tree, dtype, "Is it the cell's part of the tree, as in variables['params']['cell']?")


def to_flax_linen(cell: Any, params: Any) -> dict[str, Any]:
    """The tree of the linen cell that computes the same, of JAX arrays; see `from_flax_linen`.

    Raises:
        TypeError: a cell that linen does not have.
        ValueError: a bias that is None: linen's cells have all of theirs.
    """
    return _to_tree(LINEN.table(cell), cell, params, LINEN.name)


def from_flax_nnx(cell: Any, state: Mapping[str, Any], *, dtype: Any = None) -> Any:
    """Our parameters from those of an NNX cell: `nnx.state(module, nnx.Param)`, or a plain nested mapping.

        gj.gru(reset_after=True)      nnx.GRUCell(D, H, …): c_h, which it lacks, is None
        gj.lstm()                     nnx.LSTMCell(D, H, …), nnx.OptimizedLSTMCell(D, H, …)
        gj.elman("tanh")              nnx.SimpleCell(D, H, …)

    Bit for bit both ways, and differentiable.

    Args:
        cell: what the parameters belong to.
        state: a mapping of the cell's layers, each of "kernel" and "bias".
        dtype: to cast to; None keeps theirs.

    Raises:
        TypeError: a cell that NNX does not have, a stack, wrong dtypes.
        ValueError: missing or surplus names, wrong shapes.
    """
    table = NNX.table(cell)
    if cell == lstm() and isinstance(state, Mapping) and "dense_i" in state:
        table = NNX_OPTIMIZED
    return _from_tree(table, state, dtype, "Is it the cell's part of the state, and only its nnx.Param?")


def to_flax_nnx(cell: Any, params: Any, *, optimized: bool = False) -> dict[str, Any]:
    """The tree of the NNX cell that computes the same, of JAX arrays, for `nnx.update(module, tree)`; see `from_flax_nnx`.

    Args:
        cell: what the parameters belong to.
        params: the parameters. For a GRU `c_h` must be None: `nnx.GRUCell` has no such bias.
        optimized: for `nnx.OptimizedLSTMCell` rather than `nnx.LSTMCell`.

    Raises:
        TypeError: a cell that NNX does not have.
        ValueError: a bias that is None but the GRU's c_h, which must be.
    """
    table = NNX.table(cell)
    if optimized and cell != lstm():
        raise ValueError(f"optimized: got True for {cell.name}, expected gj.lstm(): only the LSTM has two forms.")
    return _to_tree(NNX_OPTIMIZED if optimized else table, cell, params, NNX.name)


def _from_tree(table: Table, tree: Any, dtype: Any, hint: str) -> Any:
    flat = flatten(tree, "tree")
    check_names(flat, table.tensors, (), "tree", hint)
    say = lambda name: "tree" + "".join(f"[{key!r}]" for key in name.split("/"))
    return unpack(table, read(flat, dtype, say), say)


def _to_tree(table: Table, cell: Any, params: Any, library: str) -> dict[str, Any]:
    cell.check(params)
    return unflatten(pack(table, params, library))

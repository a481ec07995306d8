"""Converts the parameter trees of the recurrent cells of Flax, both linen and NNX.

| cell       | gate order | differences from our cells                                         |
|------------|------------|--------------------------------------------------------------------|
| GRUCell    | r, z, n    | z multiplies the old state; reset after the matmul; NNX has no c_h |
| LSTMCell   | i, f, g, o | the bias is in the recurrent layer; the carry is (c, h)            |
| SimpleCell |            |                                                                    |

The trees name no activation. `gate_fn` is our `gate_activation`, and `activation_fn` our `activation`.
"""

from collections.abc import Mapping
from typing import Any

from gru_jax.cells.elman import ElmanParams, elman
from gru_jax.cells.gru import gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.lstm import LSTMParams
from gru_jax.cells.make_lstm import lstm
from gru_jax.convert.arrays import to_jax_arrays
from gru_jax.convert.library import Library, plain_form
from gru_jax.convert.names import check_names, flatten, unflatten
from gru_jax.convert.packing import pack, unpack
from gru_jax.convert.table import Table

_LSTM_STATE = {
    "hi/kernel": "U_i", "hf/kernel": "U_f", "hg/kernel": "U_g", "ho/kernel": "U_o",
    "hi/bias": "b_i", "hf/bias": "b_f", "hg/bias": "b_g", "ho/bias": "b_o",
}  # fmt: skip
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
        lstm(): Table(
            LSTMParams, {"ii/kernel": "W_i", "if/kernel": "W_f", "ig/kernel": "W_g", "io/kernel": "W_o"} | _LSTM_STATE
        ),
        elman(): Table(ElmanParams, {"i/kernel": "W", "h/kernel": "U", "i/bias": "b"}),
    },
    any_activation=True,
)  # fmt: skip

NNX = Library(
    "Flax NNX",
    {
        gru(reset_after=True): Table(
            GRUResetAfterParams,
            {"dense_i/kernel": "W_r -W_z W_h", "dense_h/kernel": "U_r -U_z U_h", "dense_i/bias": "b_r -b_z b_h"},
        ),
        lstm(): Table(
            LSTMParams, {"ii/kernel": "W_i", "if_/kernel": "W_f", "ig/kernel": "W_g", "io/kernel": "W_o"} | _LSTM_STATE
        ),
        elman(): Table(ElmanParams, {"dense_i/kernel": "W", "dense_h/kernel": "U", "dense_i/bias": "b"}),
    },
    any_activation=True,
)
NNX_OPTIMIZED_LSTM = Table(
    LSTMParams,
    {"dense_i/kernel": "W_i W_f W_g W_o", "dense_h/kernel": "U_i U_f U_g U_o", "dense_h/bias": "b_i b_f b_g b_o"},
)


def from_flax_linen(cell: Any, tree: Mapping[str, Any], *, dtype: Any = None) -> Any:
    """Converts the parameters of a linen cell to the parameters of `cell`.

        params = gj.convert.from_flax_linen(gj.gru(reset_after=True), variables["params"])

    | cell                     | linen cell                              |
    |--------------------------|-----------------------------------------|
    | gj.gru(reset_after=True) | nn.GRUCell(H)                           |
    | gj.lstm()                | nn.LSTMCell(H), nn.OptimizedLSTMCell(H) |
    | gj.elman("tanh")         | nn.SimpleCell(H)                        |

    A cell with other activations belongs to the module with the same `gate_fn` and `activation_fn`.

    Preserves every bit, and is differentiable: gradients with respect to `tree` have Flax's
    structure.

    Args:
        cell: The cell to which the parameters belong.
        tree: The part of `variables["params"]` that belongs to the cell. `nn.RNN` keeps it under
            "cell", and `nn.Bidirectional` under "forward_rnn" and "backward_rnn".
        dtype: The dtype to cast to. Defaults to the dtype of the arrays.

    Returns:
        The parameters of `cell`, as `cell.init` makes them.

    Raises:
        TypeError: If linen has no such cell (for example reset before the matmul, or peepholes), if
            `cell` is a stack or bidirectional, or if the arrays have mixed or non-floating dtypes.
        ValueError: If a name is missing or unexpected, or an array has the wrong shape.

    Example:
        >>> import numpy as np
        >>> import gru_jax as gj
        >>> i = {"kernel": np.ones((3, 4), np.float32), "bias": np.zeros(4, np.float32)}
        >>> h = {"kernel": np.ones((4, 4), np.float32)}
        >>> params = gj.convert.from_flax_linen(gj.elman("tanh"), {"i": i, "h": h})  # the tree of nn.SimpleCell(4)
        >>> params.W.shape
        (3, 4)
    """
    hint = "Pass only the cell's part of the tree, for example variables['params']['cell']."
    return _from_tree(LINEN.table_for(cell), tree, dtype, hint)


def to_flax_linen(cell: Any, params: Any) -> dict[str, Any]:
    """Converts parameters to the tree of the linen cell that computes the same function.

        variables = {"params": gj.convert.to_flax_linen(cell, params)}

    `from_flax_linen` lists the cells, and converts back to the same bits.

    Args:
        cell: The cell to which the parameters belong.
        params: The parameters.

    Returns:
        A nested dictionary of JAX arrays.

    Raises:
        TypeError: If linen has no such cell.
        ValueError: If a bias is None, because linen's cells always have biases.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> cell = gj.gru(reset_after=True)
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> tree = gj.convert.to_flax_linen(cell, params)
        >>> tree["ir"]["kernel"].shape
        (3, 4)
    """
    return _to_tree(LINEN.table_for(cell), cell, params, LINEN.name)


def from_flax_nnx(cell: Any, state: Mapping[str, Any], *, dtype: Any = None) -> Any:
    """Converts the parameters of an NNX cell to the parameters of `cell`.

        params = gj.convert.from_flax_nnx(gj.lstm(), nnx.state(module, nnx.Param))

    | cell                     | NNX cell                                                   |
    |--------------------------|------------------------------------------------------------|
    | gj.gru(reset_after=True) | nnx.GRUCell(D, H, …); it lacks c_h, which becomes None     |
    | gj.lstm()                | nnx.LSTMCell(D, H, …), nnx.OptimizedLSTMCell(D, H, …)      |
    | gj.elman("tanh")         | nnx.SimpleCell(D, H, …)                                    |

    A cell with other activations belongs to the module with the same `gate_fn` and `activation_fn`.

    Preserves every bit, and is differentiable.

    Args:
        cell: The cell to which the parameters belong.
        state: The `nnx.State` of the cell, filtered by `nnx.Param`, or a nested mapping of arrays.
        dtype: The dtype to cast to. Defaults to the dtype of the arrays.

    Returns:
        The parameters of `cell`, as `cell.init` makes them.

    Raises:
        TypeError: If NNX has no such cell (for example reset before the matmul, or peepholes), if
            `cell` is a stack or bidirectional, or if the arrays have mixed or non-floating dtypes.
        ValueError: If a name is missing or unexpected, or an array has the wrong shape.

    Example:
        >>> import numpy as np
        >>> import gru_jax as gj
        >>> dense_i = {"kernel": np.ones((3, 12), np.float32), "bias": np.zeros(12, np.float32)}
        >>> dense_h = {"kernel": np.ones((4, 12), np.float32)}
        >>> state = {"dense_i": dense_i, "dense_h": dense_h}  # like nnx.GRUCell(3, 4, …)
        >>> gj.convert.from_flax_nnx(gj.gru(reset_after=True), state).W_z.shape
        (3, 4)
    """
    table = NNX.table_for(cell)
    if plain_form(cell) == lstm() and isinstance(state, Mapping) and "dense_i" in state:
        table = NNX_OPTIMIZED_LSTM
    return _from_tree(table, state, dtype, "Pass only the cell's part of the state, filtered by nnx.Param.")


def to_flax_nnx(cell: Any, params: Any, *, optimized: bool = False) -> dict[str, Any]:
    """Converts parameters to the state of the NNX cell that computes the same function.

        nnx.update(module, gj.convert.to_flax_nnx(cell, params))

    `from_flax_nnx` lists the cells, and converts back to the same bits.

    Args:
        cell: The cell to which the parameters belong.
        params: The parameters. For a GRU, `c_h` must be None, because `nnx.GRUCell` lacks this
            bias.
        optimized: Whether to convert for `nnx.OptimizedLSTMCell` instead of `nnx.LSTMCell`.
            Defaults to False.

    Returns:
        A nested dictionary of JAX arrays.

    Raises:
        TypeError: If NNX has no such cell.
        ValueError: If a bias other than c_h is None, if c_h is not None, or if `optimized` is True
            for a cell other than the LSTM.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> cell = gj.elman("tanh")
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> tree = gj.convert.to_flax_nnx(cell, params)
        >>> tree["dense_i"]["kernel"].shape
        (3, 4)
    """
    table = NNX.table_for(cell)
    if optimized and plain_form(cell) != lstm():
        raise ValueError(f"optimized: got True for {cell.name}, expected False: only gj.lstm() has an optimized form in NNX.")
    return _to_tree(NNX_OPTIMIZED_LSTM if optimized else table, cell, params, NNX.name)


def _from_tree(table: Table, tree: Any, dtype: Any, hint: str) -> Any:
    """Converts a nested mapping to our parameters."""
    flat = flatten(tree, "tree")
    check_names(flat, required=list(table.tensors), label="tree", hint=hint)
    label_of = lambda path: "tree" + "".join(f"[{key!r}]" for key in path.split("/"))
    return unpack(table, to_jax_arrays(flat, dtype, label_of), label_of)


def _to_tree(table: Table, cell: Any, params: Any, library: str) -> dict[str, Any]:
    """Converts our parameters to a nested dictionary."""
    params, _ = cell._validated_params(params)
    return unflatten(pack(table, params, library))

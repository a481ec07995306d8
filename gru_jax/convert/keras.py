"""Converts the weights of the recurrent layers of Keras 3.

| layer                     | gate order | differences from our cells                          |
|---------------------------|------------|-----------------------------------------------------|
| GRU                       | z, r, h    | z multiplies the old state; biases of shape (2, 3H) |
| GRU(…, reset_after=False) | z, r, h    | z multiplies the old state; biases of shape (3H,)   |
| LSTM                      | i, f, c, o |                                                     |
| SimpleRNN                 |            |                                                     |

The weights name no activation. `recurrent_activation` is our `gate_activation`.
"""

from collections.abc import Sequence
from typing import Any, get_args

from gru_jax._engine.arguments import check_flag
from gru_jax.cells.elman import ElmanParams, elman
from gru_jax.cells.gru import GRUParams, gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.linear import LinearParams, linear_rnn
from gru_jax.cells.lstm import LSTMParams
from gru_jax.cells.make_lstm import lstm
from gru_jax.convert.arrays import LabelOf, to_jax_arrays, to_numpy_arrays
from gru_jax.convert.composition import Position, build_params, check_composition, pack_cells, single_cells
from gru_jax.convert.library import Library, plain_form
from gru_jax.convert.packing import unpack
from gru_jax.convert.table import Table
from gru_jax.layers.bidirectional import Merge

_GRU = {"kernel": "-W_z W_r W_h", "recurrent_kernel": "-U_z U_r U_h"}
_SIMPLE = {"kernel": "W", "recurrent_kernel": "U", "bias": "b"}
_GRUS = (gru(), gru(reset_after=True))
_NAMES = tuple(_SIMPLE)  # the order of get_weights() for every layer
KERAS = Library(
    "Keras",
    {
        gru(): Table(GRUParams, _GRU | {"bias": "-b_z b_r b_h"}, ("bias",)),
        gru(reset_after=True): Table(GRUResetAfterParams, _GRU | {"bias": "-b_z b_r b_h / -b_z b_r c_h"}, ("bias",)),
        lstm(): Table(
            LSTMParams,
            {"kernel": "W_i W_f W_g W_o", "recurrent_kernel": "U_i U_f U_g U_o", "bias": "b_i b_f b_g b_o"},
            ("bias",),
        ),
        elman(): Table(ElmanParams, _SIMPLE, ("bias",)),
        linear_rnn(): Table(LinearParams, _SIMPLE, ("bias",)),
    },
    any_activation=True,
)


def from_keras(cell: Any, weights: Sequence[Any], *, reset_after: bool | None = None, dtype: Any = None) -> Any:
    """Converts the weights of a Keras layer to the parameters of `cell`.

        params = gj.convert.from_keras(gj.gru(reset_after=True), layer.get_weights())

    | cell                        | layer                                                   |
    |-----------------------------|---------------------------------------------------------|
    | gj.gru(reset_after=True)    | GRU(H), Keras' default                                  |
    | gj.gru()                    | GRU(H, reset_after=False)                               |
    | gj.lstm()                   | LSTM(H)                                                 |
    | gj.elman("identity"), …     | SimpleRNN(H, activation="linear"), …                    |
    | gj.lstm(activation="relu")  | LSTM(H, activation="relu")                              |
    | gj.bidirectional(gj.lstm()) | Bidirectional(LSTM(H, …)); "mean" is merge_mode="ave"   |
    | gj.stack([gj.lstm()] * 2)   | Sequential([LSTM(H, …), LSTM(H, …)])                    |

    The two rows of biases of a GRU fold into one, except for the bias c_h. Converting to gru_jax
    and back to Keras therefore preserves the function, and every bit except those of the biases.
    The conversion is differentiable.

    The weights do not say which activations the layer has. `gate_activation` of `gj.gru` and
    `gj.lstm` is Keras' `recurrent_activation`.

    A layer with `go_backwards=True` corresponds to `gj.unroll(…, reverse=True)`, but returns its
    outputs in reverse order.

    Args:
        cell: The cell to which the weights belong.
        weights: The list `layer.get_weights()`: for each layer and direction the kernel, the
            recurrent kernel and, with `use_bias=True`, the bias. NumPy arrays, JAX arrays, the
            values of `layer.weights`, or an entry of `gj.convert.load_keras(path)`.
        reset_after: The form of a GRU with `use_bias=False`, `layer.reset_after`: its weights fit
            both forms, so it must be named. Defaults to None: the shape of the bias decides.
        dtype: The dtype to cast to. Defaults to the dtype of the arrays.

    Returns:
        The parameters of `cell`, as `cell.init` makes them.

    Raises:
        TypeError: If Keras has no such cell (for example peepholes), or if the arrays have mixed or
            non-floating dtypes.
        ValueError: If the number of arrays or a shape is wrong, if the bias or `reset_after`
            belongs to the other form of the GRU, if there is neither, or if `reset_after` is given
            for a cell without a GRU.

    Example:
        >>> import numpy as np
        >>> import gru_jax as gj
        >>> weights = [np.ones(shape, np.float32) for shape in [(3, 12), (4, 12), (2, 12)]]  # like GRU(4) on 3 features
        >>> params = gj.convert.from_keras(gj.gru(reset_after=True), weights)
        >>> params.W_z.shape
        (3, 4)
    """
    check_composition(cell, KERAS.name, get_args(Merge))
    cells = single_cells(cell)
    tables = {position: KERAS.table_for(one) for position, one in cells.items()}
    if reset_after is not None and not any(plain_form(one) in _GRUS for one in cells.values()):
        raise ValueError(
            f"reset_after: got {reset_after!r} for {cell.name}, expected None: only a GRU has this form. Leave it out."
        )
    if not isinstance(weights, list | tuple):
        raise TypeError(f"weights: got {type(weights).__name__}, expected a list of arrays. Pass layer.get_weights().")
    if len(weights) not in (2 * len(cells), 3 * len(cells)):
        raise ValueError(
            f"weights: got {len(weights)} arrays, expected {3 * len(cells)}, or {2 * len(cells)} without biases, for {cell.name}: "
            f"kernel, recurrent_kernel and bias{' of each layer and direction' if len(cells) > 1 else ''}."
        )
    per_cell = len(weights) // len(cells)
    label_of = lambda index: f"weights[{index}] ({_NAMES[int(index) % per_cell]})"
    arrays = list(to_jax_arrays({str(i): array for i, array in enumerate(weights)}, dtype, label_of).values())
    first_index = {position: i * per_cell for i, position in enumerate(cells)}

    def params_at(position: Position) -> Any:
        first = first_index[position]
        tensors = dict(zip(_NAMES, arrays[first : first + per_cell], strict=False))
        own_label_of = lambda name: label_of(str(first + _NAMES.index(name)))
        _check_form(cells[position], tensors.get("bias"), reset_after, own_label_of)
        return unpack(tables[position], tensors, own_label_of)

    return build_params(cell, params_at)


def to_keras(cell: Any, params: Any) -> list[Any]:
    """Converts parameters to the weights of the Keras layer that computes the same function.

        layer.set_weights(gj.convert.to_keras(cell, params))

    `from_keras` lists the layers, and converts back to the same bits. The second row of a GRU's
    biases holds zeros, except for the bias c_h.

    Args:
        cell: The cell to which the parameters belong.
        params: The parameters.

    Returns:
        A list of NumPy arrays, in the order of `layer.get_weights()`.

    Raises:
        TypeError: If Keras has no such cell.
        ValueError: If only some biases are None.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> params = gj.lstm().init(jax.random.key(0), 3, 4)
        >>> [array.shape for array in gj.convert.to_keras(gj.lstm(), params)]
        [(3, 16), (4, 16), (16,)]
    """
    check_composition(cell, KERAS.name, get_args(Merge))
    packed = pack_cells(KERAS, cell, params)
    return [array for tensors in packed.values() for array in to_numpy_arrays(tensors).values()]


def _check_form(cell: Any, bias: Any, reset_after: bool | None, label_of: LabelOf) -> None:
    """Raises if the weights of a GRU belong to the other form of the GRU, or may belong to either."""
    form = plain_form(cell)
    if form not in _GRUS:
        return
    expected = form == gru(reset_after=True)  # if so, Keras has two rows of biases
    other = "gj.gru(reset_after=True)" if not expected else "gj.gru()"
    if bias is not None and bias.ndim == (1 if expected else 2):
        rows = "one row" if expected else "two rows"
        raise ValueError(
            f"{label_of('bias')}: got shape {bias.shape}, {rows} of biases as in GRU(reset_after={not expected}), expected the "
            f"bias of a GRU(reset_after={expected}). Use {other} for this layer."
        )
    if bias is None and reset_after is None:
        raise ValueError(
            "reset_after: got None for a GRU without biases, whose weights fit both forms, expected the form. Pass "
            f"reset_after=layer.reset_after, which is True for Keras' default and must be {expected} for {cell.name}."
        )
    if reset_after is not None and check_flag("reset_after", reset_after) != expected:
        raise ValueError(f"reset_after: got {reset_after}, expected {expected} for {cell.name}. Use {other} for this layer.")

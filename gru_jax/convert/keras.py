"""Keras 3: `GRU` in both forms, `LSTM`, `SimpleRNN`, `Bidirectional` of them, and layers in a row, as `get_weights()` has them.

GRU          z, r, h side by side; z on the old state: W_z, U_z, b_z change sign; reset_after=True (Keras' default): two rows of
biases, (2, 3H); reset_after=False: one, (3H,)
LSTM         i, f, c, o
SimpleRNN    with any activation of `gj.elman`, which the weights do not say: the cell does
"""

from collections.abc import Sequence
from typing import Any

from gru_jax.cells.elman import ElmanParams
from gru_jax.cells.gru import GRUParams, gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.linear import LinearParams, linear_rnn
from gru_jax.cells.lstm import LSTMParams, lstm
from gru_jax.convert.arrays import read, write
from gru_jax.convert.library import ELMANS, Library, Place, build, cells, check_composition, packed
from gru_jax.convert.table import Table, unpack

MERGES = ("concat", "sum")
_GRU = {"kernel": "-W_z W_r W_h", "recurrent_kernel": "-U_z U_r U_h"}
_SIMPLE = {"kernel": "W", "recurrent_kernel": "U", "bias": "b"}
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
        **dict.fromkeys(ELMANS, Table(ElmanParams, _SIMPLE, ("bias",))),
        linear_rnn(): Table(LinearParams, _SIMPLE, ("bias",)),
    },
)


def from_keras(cell: Any, weights: Sequence[Any], *, dtype: Any = None) -> Any:
    """Our parameters from `layer.get_weights()`: kernel, recurrent kernel and, with use_bias, bias.

        gj.gru(reset_after=True)              GRU(H)
        gj.gru()                              GRU(H, reset_after=False)
        gj.elman("identity")                  SimpleRNN(H, activation="linear")
        gj.bidirectional(gj.lstm())           Bidirectional(LSTM(H, …)), merge "concat" or "sum"
        gj.stack([gj.lstm()] * 2)             Sequential([LSTM(H, …), LSTM(H, …)]).get_weights(): the layers' lists one after another

    The two rows of biases of a GRU with reset_after fold into one (but for the candidate's), so Keras → here → Keras keeps the
    function, and every bit but theirs. Differentiable.

    Args:
        cell: what the weights belong to. `go_backwards=True` is `gj.unroll(…, reverse=True)` with the outputs turned around.
        weights: the list; NumPy or JAX arrays, or the `value`s of `layer.weights`.
        dtype: to cast to; None keeps the arrays'.

    Raises:
        TypeError: a cell that Keras does not have (peepholes), wrong dtypes.
        ValueError: a wrong number of arrays, wrong shapes; the biases of the other GRU.
    """
    check_composition(cell, KERAS.name, MERGES)
    places = cells(cell)
    tables = {place: KERAS.table(one) for place, one in places}
    arrays = list(weights) if isinstance(weights, list | tuple) else None
    if arrays is None:
        raise TypeError(f"weights: got {type(weights).__name__}, expected a list of arrays. Pass layer.get_weights().")
    if len(arrays) not in (2 * len(places), 3 * len(places)):
        raise ValueError(
            f"weights: got {len(arrays)} arrays, expected {3 * len(places)}, or {2 * len(places)} without biases: kernel, "
            f"recurrent_kernel and bias{' of each layer and direction' * (len(places) > 1)}, for {cell.name}."
        )
    width = len(arrays) // len(places)
    say = lambda name: f"weights[{name}] ({list(_SIMPLE)[int(name) % width]})"
    read_in = read({str(i): array for i, array in enumerate(arrays)}, dtype, say)
    first = {place: i * width for i, (place, _) in enumerate(places)}

    def make(place: Place, one: Any) -> Any:
        names = dict(zip(tables[place].tensors, range(first[place], first[place] + width), strict=False))
        _check_form(one, read_in, names, say)
        return unpack(tables[place], {name: read_in[str(i)] for name, i in names.items()}, lambda name: say(str(names[name])))

    params = build(cell, make)
    cell.check(params)
    return params


def to_keras(cell: Any, params: Any) -> list[Any]:
    """The list for `layer.set_weights(…)` of the Keras layer that computes the same, as NumPy arrays; see `from_keras`.

    Back again by `from_keras` every bit is the same. The second row of a GRU's biases is zero but for the candidate's.

    Args:
        cell: what the parameters belong to.
        params: the parameters.

    Raises:
        TypeError: a cell that Keras does not have.
        ValueError: some biases None and others not: Keras has all or none.
    """
    check_composition(cell, KERAS.name, MERGES)
    return [array for _, tensors in packed(KERAS, cell, params) for array in write(tensors).values()]


def _check_form(cell: Any, arrays: Any, names: dict[str, int], say: Any) -> None:
    """The rank of its bias says which GRU a layer is."""
    if "bias" not in names or cell not in (gru(), gru(reset_after=True)):
        return
    bias, after = arrays[str(names["bias"])], cell == gru(reset_after=True)
    if bias.ndim == (1 if after else 2):
        raise ValueError(
            f"{say(str(names['bias']))}: got shape {bias.shape}, the {'one row' if after else 'two rows'} of biases of "
            f"GRU(reset_after={not after}), expected that of reset_after={after}. Use gj.gru({'' if after else 'reset_after=True'})."
        )

"""Haiku: `hk.GRU`, `hk.LSTM` and `hk.VanillaRNN`, as entries of an `hk.Params`.

hk.GRU           z, r, a side by side; z on the candidate, as here: no sign changes; reset before the matmul
hk.LSTM          one matrix for input and state, i, g, f, o; Haiku adds 1 to the forget gate's pre-activation: b_f − 1 there
hk.VanillaRNN    relu; with double_bias (its default) two biases that are added up
"""

from collections.abc import Mapping
from typing import Any

from gru_jax.cells.elman import ElmanParams, elman
from gru_jax.cells.gru import GRUParams, gru
from gru_jax.cells.lstm import LSTMParams, lstm
from gru_jax.convert.arrays import check_names, flatten, read
from gru_jax.convert.library import Library
from gru_jax.convert.table import Table, pack, unpack

_VANILLA = {"linear/w": "W", "linear/b": "b", "linear_1/w": "U"}
HAIKU = Library(
    "Haiku",
    {
        gru(): Table(GRUParams, {"w_i": "W_z W_r W_h", "w_h": "U_z U_r U_h", "b": "b_z b_r b_h"}),
        lstm(): Table(LSTMParams, {"linear/w": "W_i W_g W_f W_o / U_i U_g U_f U_o", "linear/b": "b_i b_g b_f-1 b_o"}),
        elman("relu"): Table(ElmanParams, _VANILLA | {"linear_1/b": "b"}),
    },
)
_ONE_BIAS = Table(ElmanParams, _VANILLA)
NAMES = {gru(): "gru", lstm(): "lstm", elman("relu"): "vanilla_rnn"}


def from_haiku(cell: Any, tree: Mapping[str, Mapping[str, Any]], name: str | None = None, *, dtype: Any = None) -> Any:
    """Our parameters from an `hk.Params`.

        gj.gru()              hk.GRU(H)
        gj.lstm()             hk.LSTM(H)
        gj.elman("relu")      hk.VanillaRNN(H), its two biases folded into one

    Haiku → here → Haiku keeps the function; for the GRU every bit, for the LSTM every bit but a rounding of b_f = b + 1, for the
    vanilla RNN every bit but those of the two biases. Differentiable.

    Args:
        cell: what the parameters belong to.
        tree: the `hk.Params`: module names to names to arrays.
        name: of the module in it, as in "my_net/~/gru"; None for Haiku's own, "gru", "lstm" or "vanilla_rnn". Others are left alone.
        dtype: to cast to; None keeps theirs.

    Raises:
        TypeError: a cell that Haiku does not have (reset after the matmul, peepholes), a stack, wrong dtypes.
        ValueError: missing or surplus names, wrong shapes.
    """
    table = HAIKU.table(cell)
    name = NAMES[cell] if name is None else name
    flat = flatten(tree, "tree")
    own = {path.removeprefix(f"{name}/"): leaf for path, leaf in flat.items() if path.startswith(f"{name}/")}
    table = _ONE_BIAS if cell == elman("relu") and "linear_1/b" not in own else table
    modules = ", ".join(repr(module) for module in tree)
    check_names(own, table.tensors, (), f"tree under {name!r}", f"Its modules are {modules}: pass the name of the cell's.")

    def say(path: str) -> str:
        module, _, leaf = f"{name}/{path}".rpartition("/")
        return f"tree[{module!r}][{leaf!r}]"

    return unpack(table, read(own, dtype, say), say)


def to_haiku(cell: Any, params: Any, name: str | None = None) -> dict[str, dict[str, Any]]:
    """The entries of an `hk.Params` for the Haiku module that computes the same, of JAX arrays; see `from_haiku`.

    Back again by `from_haiku` every bit is the same, but for an LSTM's b_f, which Haiku keeps as b_f − 1: it comes back within
    a rounding. For `hk.VanillaRNN(H, double_bias=False)` leave out the bias of `linear_1`, which is zero.

    Raises:
        TypeError: a cell that Haiku does not have.
        ValueError: a bias that is None: Haiku's modules have theirs.
    """
    table = HAIKU.table(cell)
    cell.check(params)
    name = NAMES[cell] if name is None else name
    tree: dict[str, dict[str, Any]] = {}
    for path, tensor in pack(table, params, HAIKU.name).items():
        module, _, leaf = f"{name}/{path}".rpartition("/")
        tree.setdefault(module, {})[leaf] = tensor
    return tree

"""Converts the parameters of Haiku's `hk.GRU`, `hk.LSTM` and `hk.VanillaRNN`.

| module        | gate order | differences from our cells                                      |
|---------------|------------|-----------------------------------------------------------------|
| hk.GRU        | z, r, a    | none                                                            |
| hk.LSTM       | i, g, f, o | one matrix for inputs and state; b_f is stored minus 1          |
| hk.VanillaRNN |            | relu; two biases, which Haiku adds up, unless double_bias=False |
"""

from collections.abc import Mapping
from typing import Any

from gru_jax.cells.elman import ElmanParams, elman
from gru_jax.cells.gru import GRUParams, gru
from gru_jax.cells.lstm import LSTMParams
from gru_jax.cells.make_lstm import lstm
from gru_jax.convert.arrays import to_jax_arrays
from gru_jax.convert.library import Library
from gru_jax.convert.names import check_names, flatten
from gru_jax.convert.packing import pack, unpack
from gru_jax.convert.table import Table

_VANILLA = {"linear/w": "W", "linear/b": "b", "linear_1/w": "U"}
_VANILLA_WITH_ONE_BIAS = Table(ElmanParams, _VANILLA)
HAIKU = Library(
    "Haiku",
    {
        gru(): Table(GRUParams, {"w_i": "W_z W_r W_h", "w_h": "U_z U_r U_h", "b": "b_z b_r b_h"}),
        lstm(): Table(LSTMParams, {"linear/w": "W_i W_g W_f W_o / U_i U_g U_f U_o", "linear/b": "b_i b_g b_f-1 b_o"}),
        elman("relu"): Table(ElmanParams, _VANILLA | {"linear_1/b": "b"}),
    },
)
_DEFAULT_MODULE_NAMES = {gru(): "gru", lstm(): "lstm", elman("relu"): "vanilla_rnn"}


def from_haiku(cell: Any, tree: Mapping[str, Mapping[str, Any]], name: str | None = None, *, dtype: Any = None) -> Any:
    """Converts the entries of a Haiku module in an `hk.Params` to the parameters of `cell`.

        params = gj.convert.from_haiku(gj.gru(), hk_params, "my_net/~/gru")

    | cell             | module                                         |
    |------------------|------------------------------------------------|
    | gj.gru()         | hk.GRU(H)                                      |
    | gj.lstm()        | hk.LSTM(H)                                     |
    | gj.elman("relu") | hk.VanillaRNN(H); its two biases fold into one |

    Converting to gru_jax and back to Haiku preserves the function. It also preserves every bit,
    with two exceptions: b_f of an LSTM may change by one rounding, and the two biases of a vanilla
    RNN become one. The conversion is differentiable.

    Args:
        cell: The cell to which the parameters belong.
        tree: The `hk.Params`, a mapping of module names to mappings of names to arrays.
        name: The name of the module, for example "my_net/~/gru". Other modules are ignored.
            Defaults to Haiku's own default: "gru", "lstm" or "vanilla_rnn".
        dtype: The dtype to cast to. Defaults to the dtype of the arrays.

    Returns:
        The parameters of `cell`, as `cell.init` makes them.

    Raises:
        TypeError: If Haiku has no such cell (for example reset after the matmul, or peepholes), if
            `cell` is a stack or bidirectional, or if the arrays have mixed or non-floating dtypes.
        ValueError: If a name is missing or unexpected, or an array has the wrong shape.

    Example:
        >>> import numpy as np
        >>> import gru_jax as gj
        >>> shapes = {"w_i": (3, 12), "w_h": (4, 12), "b": 12}  # like hk.GRU(4) on 3 features
        >>> tree = {"gru": {name: np.ones(shape, np.float32) for name, shape in shapes.items()}}
        >>> gj.convert.from_haiku(gj.gru(), tree).W_z.shape
        (3, 4)
    """
    table = HAIKU.table_for(cell)
    name = _DEFAULT_MODULE_NAMES[cell] if name is None else name
    flat = flatten(tree, "tree")
    own = {path.removeprefix(f"{name}/"): leaf for path, leaf in flat.items() if path.startswith(f"{name}/")}
    if cell == elman("relu") and "linear_1/b" not in own:
        table = _VANILLA_WITH_ONE_BIAS
    modules = ", ".join(repr(module) for module in tree)
    check_names(
        own,
        required=list(table.tensors),
        label=f"tree under {name!r}",
        hint=f"The tree has the modules {modules}. Pass the full name of the cell's module as name.",
    )

    def label_of(path: str) -> str:
        module, leaf = _split_path(name, path)
        return f"tree[{module!r}][{leaf!r}]"

    return unpack(table, to_jax_arrays(own, dtype, label_of), label_of)


def to_haiku(cell: Any, params: Any, name: str | None = None) -> dict[str, dict[str, Any]]:
    """Converts parameters to the `hk.Params` of the Haiku module that computes the same function.

        hk_params = hk_params | gj.convert.to_haiku(cell, params, "my_net/~/gru")

    `from_haiku` lists the modules. It converts back to the same bits, except that b_f of an LSTM
    may change by one rounding, because Haiku stores b_f − 1. For `hk.VanillaRNN(H,
    double_bias=False)`, remove the bias of `linear_1`, which is zero.

    Args:
        cell: The cell to which the parameters belong.
        params: The parameters.
        name: The name of the module. Defaults to Haiku's own default.

    Returns:
        JAX arrays by module name and parameter name.

    Raises:
        TypeError: If Haiku has no such cell.
        ValueError: If a bias is None, because Haiku's modules always have biases.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> params = gj.gru().init(jax.random.key(0), 3, 4)
        >>> tree = gj.convert.to_haiku(gj.gru(), params)
        >>> tree["gru"]["w_i"].shape
        (3, 12)
    """
    table = HAIKU.table_for(cell)
    params, _ = cell._validated_params(params)
    name = _DEFAULT_MODULE_NAMES[cell] if name is None else name
    tree: dict[str, dict[str, Any]] = {}
    for path, tensor in pack(table, params, HAIKU.name).items():
        module, leaf = _split_path(name, path)
        tree.setdefault(module, {})[leaf] = tensor
    return tree


def _split_path(name: str, path: str) -> tuple[str, str]:
    """Returns the two keys of an `hk.Params` for the array at `path` below the module `name`."""
    module, _, leaf = f"{name}/{path}".rpartition("/")
    return module, leaf

"""Converts the state dicts of PyTorch's recurrent modules and cells.

| module  | gate order | differences from our cells                                     |
|---------|------------|----------------------------------------------------------------|
| nn.GRU  | r, z, n    | z multiplies the old state; reset after the matmul; two biases |
| nn.LSTM | i, f, g, o | two biases, added up; weight_hr with proj_size                 |
| nn.RNN  |            | two biases, added up; the names do not say tanh or relu        |
"""

from collections.abc import Mapping
from typing import Any

from gru_jax.cells.elman import ElmanParams, elman
from gru_jax.cells.gru import gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.lstm import LSTMParams
from gru_jax.cells.lstm_projected import LSTMProjectedParams
from gru_jax.cells.make_lstm import lstm
from gru_jax.convert.arrays import to_jax_arrays, to_numpy_arrays
from gru_jax.convert.composition import Position, build_params, check_composition, pack_cells, single_cells, split_params
from gru_jax.convert.library import PROJECTED, Library, proj_size_of
from gru_jax.convert.names import check_names
from gru_jax.convert.packing import unpack
from gru_jax.convert.table import Table
from gru_jax.layers.stack import Stack

_BIASES = ("bias_ih", "bias_hh")
_LSTM = {
    "weight_ih": "W_i W_f W_g W_o",
    "weight_hh": "U_i U_f U_g U_o",
    "bias_ih": "b_i b_f b_g b_o",
    "bias_hh": "b_i b_f b_g b_o",
}
_ELMAN = Table(ElmanParams, {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b", "bias_hh": "b"}, _BIASES, transposed=True)
PYTORCH = Library(
    "PyTorch",
    {
        gru(reset_after=True): Table(
            GRUResetAfterParams,
            {
                "weight_ih": "W_r -W_z W_h",
                "weight_hh": "U_r -U_z U_h",
                "bias_ih": "b_r -b_z b_h",
                "bias_hh": "b_r -b_z c_h",
            },
            _BIASES,
            transposed=True,
        ),
        lstm(): Table(
            LSTMParams,
            _LSTM,
            _BIASES,
            transposed=True,
        ),
        PROJECTED: Table(LSTMProjectedParams, _LSTM | {"weight_hr": "R"}, _BIASES, transposed=True),
        elman("tanh"): _ELMAN,
        elman("relu"): _ELMAN,
    },
)


def from_pytorch(cell: Any, state_dict: Mapping[str, Any], *, prefix: str = "", dtype: Any = None) -> Any:
    """Converts the state dict of a PyTorch RNN module to the parameters of `cell`.

        params = gj.convert.from_pytorch(gj.gru(reset_after=True), module.state_dict())

    | cell                                        | module                               |
    |---------------------------------------------|--------------------------------------|
    | gj.gru(reset_after=True)                    | nn.GRU(D, H), nn.GRUCell(D, H)       |
    | gj.lstm()                                   | nn.LSTM(D, H), nn.LSTMCell(D, H)     |
    | gj.lstm(proj_size=P)                        | nn.LSTM(D, H, proj_size=P)           |
    | gj.elman("tanh"), gj.elman("relu")          | nn.RNN(D, H, …), nn.RNNCell(D, H, …) |
    | gj.stack([gj.bidirectional(gj.lstm())] * 2) | nn.LSTM(D, H, 2, bidirectional=True) |

    Where PyTorch adds two biases, they fold into one: b_r is b_ir + b_hr, for example. Converting
    to gru_jax and back to PyTorch therefore preserves the function, and every bit except those of
    the biases. The conversion is differentiable: if `state_dict` holds JAX arrays, the gradient
    with respect to it has PyTorch's layout. The state dict does not contain the rate of dropout
    between layers, so pass it to `gj.stack`.

    Args:
        cell: The cell to which the weights belong. The state dict does not say whether an `nn.RNN`
            uses tanh or relu.
        state_dict: A mapping of names to tensors of PyTorch, NumPy or JAX, for example
            `gj.convert.load_safetensors(path)`.
        prefix: The name of the module inside a larger model, with a final dot, for example
            `"encoder.rnn."`. Names without the prefix are ignored. Defaults to no prefix.
        dtype: The dtype to cast to. Defaults to the dtype of the tensors.

    Returns:
        The parameters of `cell`, as `cell.init` makes them.

    Raises:
        TypeError: If PyTorch has no such cell (for example reset before the matmul, or peepholes),
            if the layers are of different kinds, or if the tensors have mixed or non-floating
            dtypes.
        ValueError: If a name is missing or unexpected, or a tensor has the wrong shape.

    Example:
        >>> import numpy as np
        >>> import gru_jax as gj
        >>> shapes = {"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 4), "bias_ih_l0": 12, "bias_hh_l0": 12}
        >>> state_dict = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}  # like nn.GRU(3, 4)
        >>> params = gj.convert.from_pytorch(gj.gru(reset_after=True), state_dict)
        >>> params.W_z.shape
        (3, 4)
    """
    _check_module(cell)
    tables = {position: PYTORCH.table_for(one) for position, one in single_cells(cell).items()}
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: got {type(state_dict).__name__}, expected a mapping. Pass module.state_dict().")
    for name in state_dict:
        if not isinstance(name, str):
            raise TypeError(f"state_dict: got the name {name!r}, expected strings. Pass module.state_dict().")
    own = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    is_cell_module = "weight_ih" in own and len(tables) == 1
    suffixes = {position: "" if is_cell_module else _suffix(position) for position in tables}
    has_bias = check_names(
        own,
        required=[name + suffixes[at] for at, table in tables.items() for name in table.names(with_optional=False)],
        optional=[name + suffixes[at] for at, table in tables.items() for name in table.optional],
        label=f"state_dict under the prefix {prefix!r}" if prefix else "state_dict",
        hint=_hint(list(own), cell),
    )
    label_of = lambda name: f"state_dict[{prefix + name!r}]"
    tensors = to_jax_arrays(own, dtype, label_of)

    def params_at(position: Position) -> Any:
        table, suffix = tables[position], suffixes[position]
        cell_tensors = {name: tensors[name + suffix] for name in table.names(with_optional=has_bias)}
        return unpack(table, cell_tensors, lambda name: label_of(name + suffix))

    return build_params(cell, params_at)


def to_pytorch(cell: Any, params: Any, *, prefix: str = "", cell_module: bool = False) -> dict[str, Any]:
    """Converts parameters to the state dict of the PyTorch module that computes the same function.

        arrays = gj.convert.to_pytorch(cell, params)
        module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})

    `from_pytorch` lists the modules, and converts back to the same bits. PyTorch has two biases
    where gru_jax has one. That one is stored in `bias_ih`, and `bias_hh` holds zeros, except for
    the bias c_h of a GRU. PyTorch does not read NumPy's bfloat16 arrays directly; use
    `torch.from_numpy(array.view("int16")).view(torch.bfloat16)`.

    Args:
        cell: The cell to which the parameters belong.
        params: The parameters.
        prefix: A prefix for every name, for example `"encoder.rnn."`. Defaults to no prefix.
        cell_module: Whether to name the tensors as `nn.GRUCell` and its siblings do, without the
            number of the layer. Defaults to False.

    Returns:
        NumPy arrays by name.

    Raises:
        TypeError: If PyTorch has no such cell.
        ValueError: If the layers have different sizes, if only some biases are None, or if
            `cell_module` is True for more than one cell or a projected LSTM.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> cell = gj.stack([gj.gru(reset_after=True)] * 2)
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> state_dict = gj.convert.to_pytorch(cell, params)  # for nn.GRU(3, 4, num_layers=2)
        >>> state_dict["weight_ih_l1"].shape
        (12, 4)
    """
    _check_module(cell)
    hidden_sizes = {own[0].shape[1] for own in split_params(cell, params).values()}  # the first field is a W of shape (D, H)
    if len(hidden_sizes) > 1:
        raise ValueError(
            f"params: got layers with hidden sizes {sorted(hidden_sizes)}, expected one size: all layers of a PyTorch module "
            "share it. Convert the layers one by one."
        )
    if cell_module and len(single_cells(cell)) > 1:
        raise ValueError(f"cell_module: got True for {cell.name}, expected a single cell. Convert its cells one by one.")
    if cell_module and proj_size_of(cell) is not None:
        raise ValueError(f"cell_module: got True for {cell.name}, expected False: nn.LSTMCell has no projection.")
    tensors = {
        f"{prefix}{name}{'' if cell_module else _suffix(position)}": tensor
        for position, cell_tensors in pack_cells(PYTORCH, cell, params).items()
        for name, tensor in cell_tensors.items()
    }
    return to_numpy_arrays(tensors)


def _check_module(cell: Any) -> None:
    """Raises unless one PyTorch module can hold `cell`, which requires equal layers."""
    check_composition(cell, PYTORCH.name)
    if isinstance(cell, Stack) and len(set(cell.cells)) > 1:
        layers = ", ".join(dict.fromkeys(layer.name for layer in cell.cells))
        raise TypeError(
            f"cell: got a stack of {layers}, expected layers of one kind, as in a PyTorch module. Convert the layers one by "
            "one."
        )


def _suffix(position: Position) -> str:
    """Returns what PyTorch appends to the tensor names of a cell."""
    return f"_l{position.layer}" + ("_reverse" if position.direction else "")


def _hint(names: list[str], cell: Any) -> str:
    """Returns a hint at the module that the names of a state dict belong to, or an empty string."""
    if any("weight_hr" in name for name in names) and proj_size_of(next(iter(single_cells(cell).values()))) is None:
        return "weight_hr is the projection of an nn.LSTM with proj_size. Use gj.lstm(proj_size=…)."
    if not any(name.startswith(("weight_ih", "parametrizations.")) for name in names):
        prefixes = sorted({name.split("weight_ih")[0] for name in names if "weight_ih" in name})
        return f"The names begin with {', '.join(map(repr, prefixes))}. Pass it as prefix." if prefixes else ""
    normed = [name for name in names if "original" in name or name.endswith(("_g", "_v"))]
    if normed:
        return (
            f"{normed[0]!r} is a part of a normed weight. Put the weights together first, with "
            "torch.nn.utils.parametrize.remove_parametrizations(module, name), or torch.nn.utils.remove_weight_norm(module, name)."
        )
    found = len({name.split("_l")[-1].split("_")[0] for name in names if "_l" in name}) or 1
    found_both = any(name.endswith("_reverse") for name in names)
    positions = single_cells(cell)
    expected, expected_both = 1 + max(at.layer for at in positions), any(at.direction for at in positions)
    if (found, found_both) == (expected, expected_both):
        return ""
    describe = lambda layers, both: f"{layers} layer{'s' * (layers > 1)} in {'both directions' if both else 'one direction'}"
    layer = "gj.bidirectional(cell)" if found_both else "cell"
    fitting = f"gj.stack([{layer}] * {found})" if found > 1 else layer if found_both else "a single cell"
    return (
        f"These are the names of {describe(found, found_both)}, and {cell.name} has {describe(expected, expected_both)}. "
        f"They belong to {fitting}."
    )

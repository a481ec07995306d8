"""PyTorch: `nn.GRU`, `nn.LSTM`, `nn.RNN` with any number of layers and one or two directions, and their `…Cell`s, as state dicts.

nn.GRU       r, z, n on each other; z on the old state: W_z, U_z, b_z change sign; reset after the matmul; two rows of biases
nn.LSTM      i, f, g, o; two rows of biases that are added up
nn.RNN       tanh or relu, which the state dict does not say: the cell does
"""

from collections.abc import Mapping
from typing import Any

from gru_jax.cells.elman import ElmanParams, elman
from gru_jax.cells.gru import gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.lstm import LSTMParams, lstm
from gru_jax.convert.arrays import check_names, read, write
from gru_jax.convert.library import Library, Place, build, cells, check_composition, each, packed
from gru_jax.convert.table import Table, unpack
from gru_jax.layers.stack import Stack

BIASES = ("bias_ih", "bias_hh")
_ELMAN = Table(ElmanParams, {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b", "bias_hh": "b"}, BIASES, rows=True)
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
            BIASES,
            rows=True,
        ),
        lstm(): Table(
            LSTMParams,
            {
                "weight_ih": "W_i W_f W_g W_o",
                "weight_hh": "U_i U_f U_g U_o",
                "bias_ih": "b_i b_f b_g b_o",
                "bias_hh": "b_i b_f b_g b_o",
            },
            BIASES,
            rows=True,
        ),
        elman("tanh"): _ELMAN,
        elman("relu"): _ELMAN,
    },
)


def from_pytorch(cell: Any, state_dict: Mapping[str, Any], *, prefix: str = "", dtype: Any = None) -> Any:
    """Our parameters from the state dict of an `nn.GRU`, `nn.LSTM`, `nn.RNN`, or of one of their cells.

        gj.gru(reset_after=True)                                       nn.GRU(D, H), nn.GRUCell(D, H)
        gj.stack([gj.bidirectional(gj.lstm())] * 2)                    nn.LSTM(D, H, num_layers=2, bidirectional=True)
        gj.elman("tanh"), gj.elman("relu")                             nn.RNN(D, H, nonlinearity="tanh"), …

    The two rows of biases that PyTorch adds up fold into one (b_r = b_ir + b_hr, and so on, but for the candidate's c_h of a
    GRU), so PyTorch → here → PyTorch keeps the function, and every bit but theirs. Differentiable: the gradient of a loss with
    respect to `state_dict`, given as JAX arrays, is PyTorch's. Dropout between layers has no weights: give it to `gj.stack`.

    Args:
        cell: what the weights belong to; the state dict does not say whether an RNN is tanh or relu.
        state_dict: names to tensors: PyTorch's own, NumPy's, JAX's, or `gj.convert.load_safetensors(path)`.
        prefix: of the module inside a model, as in `"encoder.rnn."`; other names are then left alone.
        dtype: to cast to; None keeps the tensors'.

    Raises:
        TypeError: a cell that PyTorch does not have (reset before the matmul, peepholes), layers of different kinds, wrong dtypes.
        ValueError: missing or surplus names, wrong shapes.
    """
    _check_module(cell)
    tables = {place: PYTORCH.table(one) for place, one in cells(cell)}
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: got {type(state_dict).__name__}, expected a mapping. Pass module.state_dict().")
    own = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    of_cell = "weight_ih" in own and len(tables) == 1
    required = [
        f"{name}{_suffix(place, of_cell)}" for place, t in tables.items() for name in t.tensors if name not in t.optional
    ]
    optional = [f"{name}{_suffix(place, of_cell)}" for place, t in tables.items() for name in t.optional]
    label = f"state_dict under the prefix {prefix!r}" if prefix else "state_dict"
    bias = check_names(own, required, optional, label, _hint(own, cell, prefix))
    say = lambda name: f"state_dict[{prefix + name!r}]"
    tensors = read(own, dtype, say)

    def make(place: Place, _: Any) -> Any:
        table, suffix = tables[place], _suffix(place, of_cell)
        names = [name for name in table.tensors if bias or name not in table.optional]
        return unpack(table, {name: tensors[name + suffix] for name in names}, lambda name: say(name + suffix))

    params = build(cell, make)
    cell.check(params)
    return params


def to_pytorch(cell: Any, params: Any, *, prefix: str = "", of_cell: bool = False) -> dict[str, Any]:
    """The state dict of the `nn.GRU`, `nn.LSTM` or `nn.RNN` that computes the same, as NumPy arrays; see `from_pytorch`.

        module.load_state_dict({name: torch.from_numpy(array) for name, array in gj.convert.to_pytorch(cell, params).items()})

    Back again by `from_pytorch` every bit is the same. A bias stands in `bias_ih`; `bias_hh` holds zeros but for c_h.
    bfloat16 arrays are those of `ml_dtypes`, which PyTorch does not read: `torch.from_numpy(array.view("int16")).view(torch.bfloat16)`.

    Args:
        cell: what the parameters belong to.
        params: the parameters.
        prefix: put before every name.
        of_cell: True for the names of `nn.GRUCell` and its like, without the layer.

    Raises:
        TypeError: a cell that PyTorch does not have.
        ValueError: layers of different sizes; some biases None and others not: PyTorch has all or none.
    """
    _check_module(cell)
    sizes = {own[0].shape[1] for _, _, own in each(cell, params)}  # the first field is a W (D, H)
    if len(sizes) > 1:
        raise ValueError(
            f"params: got layers of {sorted(sizes)} units, expected one size: PyTorch's modules have the same in all layers."
        )
    if of_cell and len(cells(cell)) > 1:
        raise ValueError(f"of_cell: got True for {cell.name}, expected a single cell.")
    found = packed(PYTORCH, cell, params)
    return write({f"{prefix}{name}{_suffix(place, of_cell)}": t for place, tensors in found for name, t in tensors.items()})


def _check_module(cell: Any) -> None:
    """Raises unless one module of PyTorch's is this stack: the same cell and the same directions in every layer."""
    check_composition(cell, PYTORCH.name)
    if isinstance(cell, Stack) and len(set(cell.cells)) > 1:
        layers = ", ".join(dict.fromkeys(part.name for part in cell.cells))
        raise TypeError(
            f"cell: got layers {layers} in one stack, expected one kind: a module of PyTorch's has no other. Convert them apart."
        )


def _suffix(place: Place, of_cell: bool) -> str:
    return "" if of_cell else f"_l{place.layer}" + "_reverse" * place.direction


def _hint(names: Mapping[str, Any], cell: Any, prefix: str) -> str:
    """What the names say about a cell that does not fit them."""
    own = list(names)
    if any("weight_hr" in name for name in own):
        return "weight_hr is the projection of an nn.LSTM with proj_size, which has no counterpart here."
    if not any(name.startswith("weight_ih") for name in own):
        roots = sorted({name.split("weight_ih")[0] for name in own if "weight_ih" in name})
        return f"The names begin with {', '.join(map(repr, roots))}: pass it as prefix." if roots else ""
    layers = {name.split("_l")[-1].split("_")[0] for name in own if "_l" in name}
    two = any(name.endswith("_reverse") for name in own)
    part = "gj.bidirectional(cell)" if two else "cell"
    told = f"gj.stack([{part}] * {len(layers)})" if len(layers) > 1 else part
    return f"The names are those of {told}, got {cell.name}."

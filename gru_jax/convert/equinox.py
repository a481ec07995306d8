"""Equinox: `eqx.nn.GRUCell` and `eqx.nn.LSTMCell`, by their fields.

GRUCell      r, z, n on each other; z on the old state: W_z, U_z, b_z change sign; reset after the matmul; bias_n is c_h
LSTMCell     i, f, g, o on each other
"""

from collections.abc import Mapping
from typing import Any

from gru_jax.cells.gru import gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.lstm import LSTMParams, lstm
from gru_jax.convert.arrays import check_names, read
from gru_jax.convert.library import Library
from gru_jax.convert.table import Table, pack, unpack

EQUINOX = Library(
    "Equinox",
    {
        gru(reset_after=True): Table(
            GRUResetAfterParams,
            {"weight_ih": "W_r -W_z W_h", "weight_hh": "U_r -U_z U_h", "bias": "b_r -b_z b_h", "bias_n": "c_h"},
            ("bias", "bias_n"),
            rows=True,
        ),
        lstm(): Table(
            LSTMParams,
            {"weight_ih": "W_i W_f W_g W_o", "weight_hh": "U_i U_f U_g U_o", "bias": "b_i b_f b_g b_o"},
            ("bias",),
            rows=True,
        ),
    },
)
FIELDS = ("weight_ih", "weight_hh", "bias", "bias_n")


def from_equinox(cell: Any, module: Any, *, dtype: Any = None) -> Any:
    """Our parameters from an `eqx.nn.GRUCell` or `eqx.nn.LSTMCell`. Bit for bit both ways, and differentiable.

    Args:
        cell: `gj.gru(reset_after=True)` or `gj.lstm()`.
        module: the module, or a mapping of its fields.
        dtype: to cast to; None keeps theirs.

    Raises:
        TypeError: a cell that Equinox does not have (reset before the matmul, peepholes, Elman), a stack, wrong dtypes.
        ValueError: missing or surplus fields, wrong shapes.
    """
    table = EQUINOX.table(cell)
    fields = module if isinstance(module, Mapping) else {field: getattr(module, field, None) for field in FIELDS}
    given = {field: leaf for field, leaf in fields.items() if leaf is not None}
    required = [field for field in table.tensors if field not in table.optional]
    check_names(given, required, table.optional, "module", f"Expected the module of {cell.name}, got {type(module).__name__}.")
    say = lambda field: f"module.{field}"
    return unpack(table, read(given, dtype, say), say)


def to_equinox(cell: Any, params: Any) -> dict[str, Any]:
    """The fields of the Equinox module that computes the same, JAX arrays by name; see `from_equinox`.

        fields = gj.convert.to_equinox(cell, params)
        module = eqx.tree_at(lambda m: [getattr(m, name) for name in fields], module, list(fields.values()))

    A module with biases for params without them, or the reverse, does not fit: make it with use_bias=False.

    Raises:
        TypeError: a cell that Equinox does not have.
        ValueError: some biases None and others not: Equinox has all or none.
    """
    table = EQUINOX.table(cell)
    cell.check(params)
    return pack(table, params, EQUINOX.name)

"""Converts the fields of Equinox's `eqx.nn.GRUCell` and `eqx.nn.LSTMCell`.

| module   | gate order | differences from our cells                                        |
|----------|------------|-------------------------------------------------------------------|
| GRUCell  | r, z, n    | z multiplies the old state; reset after the matmul; bias_n is c_h |
| LSTMCell | i, f, g, o |                                                                   |
"""

from collections.abc import Mapping
from typing import Any

from gru_jax.cells.gru import gru
from gru_jax.cells.gru_reset_after import GRUResetAfterParams
from gru_jax.cells.lstm import LSTMParams
from gru_jax.cells.make_lstm import lstm
from gru_jax.convert.arrays import to_jax_arrays
from gru_jax.convert.library import Library
from gru_jax.convert.names import check_names
from gru_jax.convert.packing import pack, unpack
from gru_jax.convert.table import Table

EQUINOX = Library(
    "Equinox",
    {
        gru(reset_after=True): Table(
            GRUResetAfterParams,
            {"weight_ih": "W_r -W_z W_h", "weight_hh": "U_r -U_z U_h", "bias": "b_r -b_z b_h", "bias_n": "c_h"},
            optional=("bias", "bias_n"),
            transposed=True,
        ),
        lstm(): Table(
            LSTMParams,
            {"weight_ih": "W_i W_f W_g W_o", "weight_hh": "U_i U_f U_g U_o", "bias": "b_i b_f b_g b_o"},
            optional=("bias",),
            transposed=True,
        ),
    },
)
_FIELDS = ("weight_ih", "weight_hh", "bias", "bias_n")


def from_equinox(cell: Any, module: Any, *, dtype: Any = None) -> Any:
    """Converts an `eqx.nn.GRUCell` or `eqx.nn.LSTMCell` to the parameters of `cell`.

        params = gj.convert.from_equinox(gj.gru(reset_after=True), module)

    Preserves every bit, and is differentiable.

    Args:
        cell: `gj.gru(reset_after=True)` or `gj.lstm()`.
        module: The Equinox module, or a mapping of its fields.
        dtype: The dtype to cast to. Defaults to the dtype of the fields.

    Returns:
        The parameters of `cell`, as `cell.init` makes them.

    Raises:
        TypeError: If Equinox has no such cell (for example reset before the matmul, peepholes, or
            an Elman RNN), if `cell` is a stack or bidirectional, or if the fields have mixed or
            non-floating dtypes.
        ValueError: If a field is missing or unexpected, or has the wrong shape.

    Example:
        >>> import numpy as np
        >>> import gru_jax as gj
        >>> shapes = {"weight_ih": (16, 3), "weight_hh": (16, 4), "bias": 16}
        >>> fields = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}  # like eqx.nn.LSTMCell(3, 4, …)
        >>> gj.convert.from_equinox(gj.lstm(), fields).W_i.shape
        (3, 4)
    """
    table = EQUINOX.table_for(cell)
    fields = module if isinstance(module, Mapping) else {field: getattr(module, field, None) for field in _FIELDS}
    given = {field: leaf for field, leaf in fields.items() if leaf is not None}
    check_names(
        given,
        required=table.names(with_optional=False),
        optional=table.optional,
        label="module",
        hint=f"Pass the module that corresponds to {cell.name}; got {type(module).__name__}.",
    )
    label_of = lambda field: f"module.{field}"
    return unpack(table, to_jax_arrays(given, dtype, label_of), label_of)


def to_equinox(cell: Any, params: Any) -> dict[str, Any]:
    """Converts parameters to the fields of the Equinox module that computes the same function.

        fields = gj.convert.to_equinox(cell, params)
        where = lambda module: [getattr(module, name) for name in fields]
        module = eqx.tree_at(where, module, list(fields.values()))

    `from_equinox` converts back to the same bits. For parameters without biases, create the module
    with `use_bias=False`.

    Args:
        cell: `gj.gru(reset_after=True)` or `gj.lstm()`.
        params: The parameters.

    Returns:
        JAX arrays by field name.

    Raises:
        TypeError: If Equinox has no such cell.
        ValueError: If only some biases are None.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> params = gj.lstm().init(jax.random.key(0), 3, 4)
        >>> fields = gj.convert.to_equinox(gj.lstm(), params)
        >>> fields["weight_ih"].shape
        (16, 3)
    """
    table = EQUINOX.table_for(cell)
    params, _ = cell._validated_params(params)
    return pack(table, params, EQUINOX.name)

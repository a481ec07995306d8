"""Describes, as a table, how another library lays out the parameters of a cell.

A table maps the name of each tensor in the library to an expression over our parameters. This is
the one of PyTorch's `nn.GRU`:

    "weight_ih": "W_r -W_z W_h"
    "weight_hh": "U_r -U_z U_h"
    "bias_ih":   "b_r -b_z b_h"
    "bias_hh":   "b_r -b_z c_h"

The first line says that `weight_ih` holds the input weights of the gates r, z and h side by side,
and that those of z have the opposite sign. An expression consists of these parts:

    b_r b_h       Entries separated by a space are side by side, along the axis of the gates.
    W_i / U_i     Rows separated by a slash are stacked, the first one on top.
    -W_z          The library stores the negated parameter.
    b_f-1         The library stores the parameter minus 1, and adds the 1 when it runs the cell.

If a field occurs twice, such as `b_r` above, the library adds the two. `packing.unpack` therefore
returns their sum, and `packing.pack` writes the field to its first place and zeros to the second.

The sign of z: most libraries multiply the old state by z, h = (1 − z) ⊙ g + z ⊙ h₋. This package
multiplies the candidate g by z. Their z is our 1 − z, and 1 − σ(a) = σ(−a), so the parameters of z
change sign.

>>> from gru_jax.cells.elman import ElmanParams
>>> table = Table(ElmanParams, {"kernel": "W / U", "bias": "-b"}, optional=("bias",))
>>> table.rows("kernel")
((Entry(sign=1, field='W', offset=0.0),), (Entry(sign=1, field='U', offset=0.0),))
>>> table.shape("kernel", D=3, H=2)
(5, 2)
>>> table.names(with_optional=False)
['kernel']
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from gru_jax.cells.letters import shape_of


class Entry(NamedTuple):
    """One entry of an expression: the library stores sign · field + offset."""

    sign: int
    field: str
    offset: float


Rows = tuple[tuple[Entry, ...], ...]


class Table(NamedTuple):
    """The layout of one cell in one library.

    Attributes:
        params_type: The type of our parameters, for example `GRUParams`.
        tensors: An expression for each tensor of the library, by name.
        optional: The tensors that are absent if the layer has no bias. Either all or none of them
            are present.
        transposed: Whether the library stores the transpose of what the expressions describe, as
            PyTorch does.
    """

    params_type: Any
    tensors: Mapping[str, str]
    optional: tuple[str, ...] = ()
    transposed: bool = False

    def names(self, *, with_optional: bool) -> list[str]:
        """Lists the names of the tensors, with or without the optional ones."""
        return [name for name in self.tensors if with_optional or name not in self.optional]

    def rows(self, name: str) -> Rows:
        """Parses the expression of the tensor `name`."""
        return parse(self.tensors[name])

    def fields(self, name: str) -> set[str]:
        """Returns the names of our parameters that the tensor `name` holds."""
        return {entry.field for row in self.rows(name) for entry in row}

    def shape(self, name: str, D: int, H: int, P: int | None = None) -> tuple[int, ...]:
        """Computes the shape of the tensor `name` for input size D, hidden size H, and outputs
        projected to P.
        """
        rows = self.rows(name)
        shapes = [shape_of(row[0].field, D, H, P) for row in rows]
        widths = len(rows[0]) * shapes[0][-1]
        heights = [_height(shape) for shape in shapes]
        if len(rows) == 1 and len(shapes[0]) == 1:
            return (widths,)
        shape = (sum(heights), widths)
        return shape[::-1] if self.transposed else shape


@cache
def parse(expression: str) -> Rows:
    """Parses an expression into its rows of entries."""
    matches = [[re.fullmatch(r"(-?)([A-Za-z_]+)([+-]\d+)?", word) for word in row.split()] for row in expression.split("/")]
    return tuple(tuple(Entry(-1 if m[1] else 1, m[2], float(m[3] or 0)) for m in row if m) for row in matches)


def _height(shape: tuple[int, ...]) -> int:
    """Returns the number of rows that a field of this shape occupies, which is one for a bias."""
    return shape[0] if len(shape) == 2 else 1

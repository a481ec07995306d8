"""How another library lays out the parameters of a cell: a table of its tensors in the letters of the derivation.

    "weight_ih": "W_r -W_z W_h"           the gates in their order; minus where the library has the opposite sign
    "bias_ih": "b_r -b_z b_h"             a field that stands in two tensors is their sum there: reading folds, writing puts it
    "bias_hh": "b_r -b_z c_h"             into the first and nothing into the second
    "bias": "-b_z b_r b_h / -b_z b_r c_h" rows on each other
    "b": "b_i b_g b_f-1 b_o"              the library itself adds 1 to what it has there

The sign of z: a library that puts z on the old state, h = (1 − z) ⊙ g + z ⊙ h₋, has 1 − z where we have z, and 1 − σ(a) = σ(−a).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gru_jax.cells.letters import shape_of
from gru_jax.convert.arrays import Say, read

UNITS = {1: "n Elman RNN", 3: " GRU", 4: "n LSTM"}


class Table(NamedTuple):
    """One cell in one library."""

    params_type: Any
    tensors: Mapping[str, str]
    optional: tuple[str, ...] = ()  # tensors that may be left out, all or none: no bias
    rows: bool = False  # the gates stand on each other and weights are transposed, as in PyTorch; else side by side


class Part(NamedTuple):
    """One entry of a table: sign · field + offset."""

    sign: int
    field: str
    offset: float


def parts(expression: str) -> list[list[Part]]:
    """The entries of an expression, row by row."""
    found = [[re.fullmatch(r"(-?)([A-Za-z_]+)([+-]\d+)?", word) for word in row.split()] for row in expression.split("/")]
    return [[Part(-1 if m[1] else 1, m[2], float(m[3] or 0)) for m in row if m] for row in found]


def expected_shape(table: Table, name: str, D: int, H: int) -> tuple[int, ...]:
    """The shape of a tensor."""
    rows = parts(table.tensors[name])
    leading = [shape_of(row[0].field, D, H)[:-1] for row in rows]
    height = sum(shape[0] if shape else 1 for shape in leading)
    if len(rows) == 1 and not leading[0]:
        return (len(rows[0]) * H,)
    shape = (height, len(rows[0]) * H)
    return shape[::-1] if table.rows else shape


def sizes(table: Table, tensors: Mapping[str, Array], say: Say) -> tuple[int, int]:
    """(D, H), after every tensor was found to have its shape."""

    def matrix(letter: str) -> tuple[int, int, bool]:
        """Height and width of the first matrix that holds this letter, gates side by side, and whether it holds both."""
        name = next(name for name in table.tensors if letter in table.tensors[name])
        if tensors[name].ndim != 2:
            raise ValueError(f"{say(name)}: got shape {tensors[name].shape}, expected a matrix.")
        rows = parts(table.tensors[name])
        height, width = tensors[name].shape[::-1] if table.rows else tensors[name].shape
        return height, width // len(rows[0]), len(rows) > 1

    height, width, both = matrix("U")
    H = width if both else height
    D = matrix("W")[0] - (H if both else 0)
    by_cause = sorted(tensors, key=lambda name: "U" not in table.tensors[name])  # H was read off the recurrent weights
    for name in by_cause:
        got, expected = tensors[name].shape, expected_shape(table, name, D, H)
        if got != expected:
            raise ValueError(
                f"{say(name)}: got shape {got}, expected {expected} for input size {D} and hidden size {H}."
                f"{_another_unit(table, name, got, H)}"
            )
    return D, H


def _another_unit(table: Table, name: str, shape: tuple[int, ...], H: int) -> str:
    """Which unit has as many gates as this tensor."""
    ours, width = len(parts(table.tensors[name])[0]), shape[0] if table.rows else shape[-1]
    theirs = width // H if H and width % H == 0 else 0
    if theirs == ours or theirs not in UNITS or ours not in UNITS:
        return ""
    return f" A{UNITS[theirs]} has {theirs} times the hidden size there, a{UNITS[ours]} {ours}: is it another cell?"


def unpack(table: Table, tensors: Mapping[str, Array], say: Say) -> Any:
    """Our parameters from a library's tensors, of one dtype; traceable, so gradients go back the same way.

    Args:
        table: the layout.
        tensors: by the names of the table; bias tensors may be absent where the table says so.
        say: `say(name)` is how a message calls a tensor.
    """
    D, H = sizes(table, tensors, say)
    sums: dict[str, Array] = {}
    for name, tensor in tensors.items():
        for part, value in _pieces(table, name, tensor, D, H):
            value = part.sign * (value - part.offset) if part.offset else (value if part.sign > 0 else -value)
            sums[part.field] = sums[part.field] + value if part.field in sums else value
    return table.params_type(**{field: sums.get(field) for field in table.params_type._fields})


def _pieces(table: Table, name: str, tensor: Array, D: int, H: int) -> Iterator[tuple[Part, Array]]:
    """The entries of a tensor with their values."""
    wide = tensor.T if table.rows else tensor
    rows, top = parts(table.tensors[name]), 0
    for row in rows:
        shape = shape_of(row[0].field, D, H)
        height = shape[0] if len(shape) == 2 else 1
        band = wide if wide.ndim == 1 else wide[top : top + height]
        top += height
        for i, part in enumerate(row):
            yield part, band[..., i * H : (i + 1) * H].reshape(shape)


def pack(table: Table, params: Any, library: str) -> dict[str, Array]:
    """A library's tensors from our parameters, which the cell has checked: bit for bit but for offsets; traceable.

    Raises:
        ValueError: a bias that the library lacks, or that is None here and not there.
    """
    present = {field: leaf for field, leaf in params._asdict().items() if leaf is not None}
    fields = read(present, None, lambda field: f"params.{field}")
    known = {part.field for expression in table.tensors.values() for row in parts(expression) for part in row}
    for field in fields:
        if field not in known:
            raise ValueError(
                f"params.{field}: got an array, which {library} has no place for. Where it is zero, leave it out: "
                f"params._replace({field}=None)."
            )
    required = set(table.tensors) - set(table.optional)
    without = {name for name in table.optional if not _fields(table, name) & set(fields)}
    chosen = required | (set() if without == set(table.optional) else set(table.optional))
    written: set[str] = set()
    return {name: _packed(table, name, fields, written, library) for name in table.tensors if name in chosen}


def _fields(table: Table, name: str) -> set[str]:
    return {part.field for row in parts(table.tensors[name]) for part in row}


def _packed(table: Table, name: str, fields: Mapping[str, Array], written: set[str], library: str) -> Array:
    """One tensor. What was written into an earlier one is a zero here, and for the field −0: what adds nothing, not even to a zero's
    sign."""

    def value(part: Part) -> Array:
        if part.field not in fields:
            some = next(iter(fields.values()))
            raise ValueError(
                f"params.{part.field}: got None, which {library} cannot leave out here. Zeros are the same function: "
                f"params._replace({part.field}=jnp.zeros({shape_of(part.field, 0, some.shape[-1])}, jnp.{some.dtype}))."
            )
        leaf = fields[part.field]
        if part.field in written:
            return jnp.full_like(leaf, -0.0 * part.sign)
        written.add(part.field)
        leaf = leaf if part.sign > 0 else -leaf
        return leaf + part.offset if part.offset else leaf

    rows = [jnp.concatenate([value(part) for part in row], axis=-1) for row in parts(table.tensors[name])]
    if rows[0].ndim == 1:
        return rows[0] if len(rows) == 1 else jnp.stack(rows)
    wide = jnp.concatenate(rows)
    return wide.T if table.rows else wide

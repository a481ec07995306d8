"""Converts parameters between our type and another library's tensors, as its table describes."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gru_jax.cells.letters import shape_of
from gru_jax.convert.arrays import LabelOf, to_jax_arrays
from gru_jax.convert.table import Entry, Table

_UNIT_BY_BLOCKS = {1: "an Elman RNN", 3: "a GRU", 4: "an LSTM"}


def unpack(table: Table, tensors: Mapping[str, Array], label_of: LabelOf) -> Any:
    """Converts a library's tensors to our parameters. Works under `jax.jit` and `jax.grad`.

    Args:
        table: The layout of the tensors.
        tensors: JAX arrays of one dtype, by the names of the table. The optional ones may be
            absent.
        label_of: Maps a tensor's name to the label that error messages use.

    Returns:
        The parameters, of type `table.params_type`. Fields that no tensor holds are None.

    Raises:
        ValueError: If the shape of a tensor contradicts the table or the other tensors.
    """
    sizes = infer_sizes(table, tensors, label_of)
    fields: dict[str, Array] = {}
    for name, tensor in tensors.items():
        for entry, block in _blocks(table, name, tensor, sizes):
            if entry.offset:
                block = block - entry.offset
            value = block if entry.sign > 0 else -block
            fields[entry.field] = fields[entry.field] + value if entry.field in fields else value
    return table.params_type(**{field: fields.get(field) for field in table.params_type._fields})


def pack(table: Table, params: Any, library: str) -> dict[str, Array]:
    """Converts our parameters to a library's tensors. Works under `jax.jit` and `jax.grad`.

    Preserves every bit, except that an entry with an offset rounds.

    Args:
        table: The layout of the tensors.
        params: The parameters, already checked by the cell.
        library: The name of the library, for error messages.

    Raises:
        ValueError: If the library has no place for one of the parameters, or requires one that is
            None.
    """
    present = {field: leaf for field, leaf in params._asdict().items() if leaf is not None}
    fields = to_jax_arrays(present, None, lambda field: f"params.{field}")
    _check_has_place(table, fields, library)
    has_optional = any(table.fields(name) & set(fields) for name in table.optional)
    written: set[str] = set()
    tensors = {}
    for name in table.names(with_optional=has_optional):
        rows = []
        for row in table.rows(name):
            blocks = []
            for entry in row:
                leaf = _required_field(fields, entry.field, library)
                blocks.append(_zeros_to_add(leaf, entry) if entry.field in written else _stored(leaf, entry))
                written.add(entry.field)
            rows.append(jnp.concatenate(blocks, axis=-1))
        tensors[name] = _join_rows(rows, transposed=table.transposed)
    return tensors


class Sizes(NamedTuple):
    """The input size, the hidden size, and the size of the outputs if they are projected."""

    D: int
    H: int
    P: int | None = None


def infer_sizes(table: Table, tensors: Mapping[str, Array], label_of: LabelOf) -> Sizes:
    """Infers the sizes, and checks the shape of every tensor.

    Raises:
        ValueError: If the shape of a tensor contradicts these sizes.
    """
    height, width, shared = _matrix_sizes(table, tensors, "U", label_of)
    projected = any("R" in table.fields(name) for name in table.tensors)
    H, P = width if shared or projected else height, height if projected else None
    D = _matrix_sizes(table, tensors, "W", label_of)[0] - (H if shared else 0)
    # H comes from the recurrent weights, so an error in their shape is reported first
    for name in sorted(tensors, key=lambda name: "U" not in table.tensors[name]):
        shape, expected = tensors[name].shape, table.shape(name, D, H, P)
        if shape != expected:
            raise ValueError(
                f"{label_of(name)}: got shape {shape}, expected {expected} for input size {D} and hidden size {H}"
                f"{'' if P is None else f', projected to {P}'}."
                f"{_hint_at_another_unit(table, name, shape, H)}"
            )
    return Sizes(D, H, P)


def _matrix_sizes(table: Table, tensors: Mapping[str, Array], letter: str, label_of: LabelOf) -> tuple[int, int, bool]:
    """Measures the first matrix that holds weights with this letter, W or U.

    Returns its height, the width of one gate, and whether input and recurrent weights share the
    matrix.
    """
    name = next(name for name in table.tensors if letter in table.tensors[name])
    if tensors[name].ndim != 2:
        raise ValueError(f"{label_of(name)}: got shape {tensors[name].shape}, expected a matrix.")
    rows = table.rows(name)
    height, width = tensors[name].shape[::-1] if table.transposed else tensors[name].shape
    return height, width // len(rows[0]), len(rows) > 1


def _hint_at_another_unit(table: Table, name: str, shape: tuple[int, ...], H: int) -> str:
    """Returns a hint if the tensor has the number of gates of another kind of cell."""
    expected, width = len(table.rows(name)[0]), shape[0] if table.transposed else shape[-1]
    blocks = width // H if H and width % H == 0 else 0
    if blocks == expected or blocks not in _UNIT_BY_BLOCKS or expected not in _UNIT_BY_BLOCKS:
        return ""
    return (
        f" The shape fits {_UNIT_BY_BLOCKS[blocks]}, which has {blocks} blocks of the hidden size where "
        f"{_UNIT_BY_BLOCKS[expected]} has {expected}. Check that the weights belong to this cell."
    )


def _blocks(table: Table, name: str, tensor: Array, sizes: Sizes) -> Iterator[tuple[Entry, Array]]:
    """Yields each entry of a tensor with the block of numbers that it describes."""
    tensor = tensor.T if table.transposed else tensor
    top = 0
    for row in table.rows(name):
        shape = shape_of(row[0].field, *sizes)
        height = shape[0] if len(shape) == 2 else 1
        band = tensor if tensor.ndim == 1 else tensor[top : top + height]
        top += height
        for i, entry in enumerate(row):
            yield entry, band[..., i * shape[-1] : (i + 1) * shape[-1]].reshape(shape)


def _check_has_place(table: Table, fields: Mapping[str, Array], library: str) -> None:
    """Raises if no tensor of the library holds one of the parameters."""
    known = {field for name in table.tensors for field in table.fields(name)}
    for field in fields:
        if field not in known:
            raise ValueError(
                f"params.{field}: got an array, expected None: {library} has no such parameter. If it is zero, remove it: "
                f"params._replace({field}=None)."
            )


def _required_field(fields: Mapping[str, Array], field: str, library: str) -> Array:
    """Returns a parameter, or raises if it is None."""
    if field not in fields:
        other = next(iter(fields.values()))
        raise ValueError(
            f"params.{field}: got None, expected an array: {library} requires this parameter. Zeros compute the same function: "
            f"params._replace({field}=jnp.zeros({shape_of(field, 0, other.shape[-1])}, jnp.{other.dtype}))."
        )
    return fields[field]


def _stored(leaf: Array, entry: Entry) -> Array:
    """Computes what the library stores for a parameter."""
    leaf = leaf if entry.sign > 0 else -leaf
    return leaf + entry.offset if entry.offset else leaf


def _zeros_to_add(leaf: Array, entry: Entry) -> Array:
    """Makes zeros that unpack to −0, because x + (−0) is x for every x, but (−0) + 0 is +0."""
    return jnp.full_like(leaf, -0.0 * entry.sign)


def _join_rows(rows: list[Array], *, transposed: bool) -> Array:
    """Stacks the rows of a tensor. A single row of biases stays a vector."""
    if rows[0].ndim == 1:
        return rows[0] if len(rows) == 1 else jnp.stack(rows)
    matrix = jnp.concatenate(rows)
    return matrix.T if transposed else matrix

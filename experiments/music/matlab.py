"""Reads cells of matrices from a MATLAB 5 file, and nothing else: every declared size is held against the bytes that are there.

SciPy's reader is made for files one trusts: a changed byte within a cell can end the process (SciPy 1.17.1, segmentation fault).

The format ("MAT-File Format", The MathWorks): a header of 128 bytes, then elements, a tag of type and length and its bytes each; a
compressed element holds another one as a zlib stream. A matrix is an element of elements: flags, dimensions, name, and numbers or,
of a cell, matrices. Columns come one behind another.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

MOST_BYTES = 2**27  # of an unpacked file; the largest of the four music files has 35 million
HEADER, COMPRESSED, MATRIX, CELL = 128, 15, 14, 1
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = range(6, 16)
COMPLEX = 0x0800


class Element(NamedTuple):
    """A type and its bytes."""

    type: int
    body: memoryview


def read_cells(content: bytes) -> dict[str, list[np.ndarray]]:
    """The cells of a file by name, each a list of matrices; variables that are no cells are left out.

    Raises:
        ValueError: what is wrong with the file.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    if order is None:
        raise ValueError(f"got {content[:20]!r}… ({len(content):,} bytes), expected a MATLAB 5 file")
    found: dict[str, list[np.ndarray]] = {}
    left = MOST_BYTES
    for element in _elements(memoryview(content)[HEADER:], order):
        if element.type == COMPRESSED:
            body = _unpacked(element.body, left)
            left -= len(body)
            element = next(_elements(memoryview(body), order), element)
        if element.type != MATRIX:
            raise ValueError(f"an element of type {element.type} stands where a variable is expected")
        kind, _, dimensions, name, parts = _matrix(element.body, order)
        if kind == CELL:
            found[name] = [_numbers(name, part, order) for part in parts]
            if len(found[name]) != math.prod(dimensions):
                raise ValueError(f"{name!r} declares {math.prod(dimensions):,} pieces, {len(found[name]):,} follow")
    return found


def _elements(data: memoryview, order: str) -> Iterator[Element]:
    """The elements that stand one behind another.

    Raises:
        ValueError: one is cut off.
    """
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("it is cut off within a tag")
        kind, length = struct.unpack(order + "II", data[at : at + 8])
        if kind >> 16:  # a small element: type and length share four bytes, the next four are its body
            kind, length = kind & 0xFFFF, kind >> 16
            body, at = data[at + 4 : at + 4 + min(length, 4)], at + 8
        else:
            body = data[at + 8 : at + 8 + length]
            at += 8 + length + (0 if kind == COMPRESSED else -length % 8)
        if len(body) < length:
            raise ValueError(f"it is cut off: an element declares {length:,} bytes, {len(body):,} follow")
        yield Element(kind, body)


def _unpacked(body: memoryview, most: int) -> bytes:
    """A zlib stream's content.

    Raises:
        ValueError: it is none, is cut off, or has more than `most` bytes.
    """
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(body, max(most, 1))
    except zlib.error as error:
        raise ValueError(f"a compressed element is damaged ({error})") from error
    if stream.unconsumed_tail:
        raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
    if not stream.eof:
        raise ValueError("a compressed element is cut off")
    return content


def _matrix(body: memoryview, order: str) -> tuple[int, bool, tuple[int, ...], str, Iterator[Element]]:
    """(class, whether complex, dimensions, name, the elements that follow) of a matrix.

    Raises:
        ValueError: something else stands there.
    """
    parts = _elements(body, order)
    head = list(islice(parts, 3))
    if len(head) < 3 or len(head[0].body) != 8 or len(head[1].body) % 4:
        raise ValueError("a matrix without flags, dimensions and name")
    flags, dimensions, name = head
    (word,) = struct.unpack(order + "I", flags.body[:4])
    shape = struct.unpack(f"{order}{len(dimensions.body) // 4}i", dimensions.body)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"a matrix of dimensions {shape}")
    return word & 0xFF, bool(word & COMPLEX), shape, bytes(name.body).decode("latin-1"), parts


def _numbers(name: str, element: Element, order: str) -> np.ndarray:
    """A real matrix in a cell.

    Raises:
        ValueError: it is something else, or declares other dimensions than it has numbers.
    """
    if element.type != MATRIX or not len(element.body):
        raise ValueError(f"{name!r} holds an element of type {element.type}, expected matrices")
    kind, is_complex, shape, _, parts = _matrix(element.body, order)
    if kind not in NUMERIC_CLASSES or is_complex:
        raise ValueError(f"{name!r} holds a matrix of class {kind}{' (complex)' * is_complex}, expected real numbers")
    values = list(islice(parts, 2))
    if len(values) != 1 or values[0].type not in NUMBERS:
        raise ValueError(
            f"{name!r} holds a matrix with parts of types {[part.type for part in values]}, expected one of numbers"
        )
    dtype = np.dtype(order + NUMBERS[values[0].type])
    if len(values[0].body) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name!r} holds a matrix of dimensions {shape} with {len(values[0].body):,} bytes of {dtype}")
    return np.frombuffer(values[0].body, dtype).reshape(shape, order="F")

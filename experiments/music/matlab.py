"""Reads cells of matrices from a MATLAB 5 file, and nothing else.

Every declared size is checked against the bytes that follow. SciPy's reader is meant for trusted
files: one changed byte within a cell can crash the process (SciPy 1.17.1, segmentation fault).

The format is described in "MAT-File Format" (The MathWorks). A header of 128 bytes is followed by
elements. An element has a tag with its type and length, and a body. A compressed element holds
another element as a zlib stream. A matrix is an element whose body is a sequence of elements:
flags, dimensions, name, and then numbers, or for a cell, matrices. Matrices are stored by columns.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

MAX_BYTES = 2**27  # limit of an unpacked file; the largest of the four music files has 35 million bytes
HEADER, COMPRESSED, MATRIX, CELL = 128, 15, 14, 1
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = range(6, 16)
COMPLEX = 0x0800


class Element(NamedTuple):
    """The type and the body of an element."""

    type: int
    body: memoryview


def read_cells(content: bytes) -> dict[str, list[np.ndarray]]:
    """Returns the cells of a file by name, each as a list of matrices. Ignores all other variables.

    Raises:
        ValueError: If the file is not a MATLAB 5 file, is damaged, or has a cell with anything but
            real matrices.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    if order is None:
        raise ValueError(f"got {content[:20]!r}… ({len(content):,} bytes), expected a MATLAB 5 file")
    found: dict[str, list[np.ndarray]] = {}
    remaining = MAX_BYTES
    for element in _elements(memoryview(content)[HEADER:], order):
        if element.type == COMPRESSED:
            body = _decompress(element.body, remaining)
            remaining -= len(body)
            element = next(_elements(memoryview(body), order), element)
        if element.type != MATRIX:
            raise ValueError(f"got an element of type {element.type}, expected a variable")
        kind, _, dimensions, name, parts = _matrix(element.body, order)
        if kind == CELL:
            found[name] = [_numbers(name, part, order) for part in parts]
            if len(found[name]) != math.prod(dimensions):
                raise ValueError(f"{name!r} declares {math.prod(dimensions):,} pieces, but {len(found[name]):,} follow")
    return found


def _elements(data: memoryview, order: str) -> Iterator[Element]:
    """Yields the elements of a sequence.

    Raises:
        ValueError: If an element is truncated.
    """
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("it is truncated within a tag")
        kind, length = struct.unpack(order + "II", data[at : at + 8])
        if kind >> 16:  # a small element: type and length share four bytes, the next four are its body
            kind, length = kind & 0xFFFF, kind >> 16
            body, at = data[at + 4 : at + 4 + min(length, 4)], at + 8
        else:
            body = data[at + 8 : at + 8 + length]
            at += 8 + length + (0 if kind == COMPRESSED else -length % 8)
        if len(body) < length:
            raise ValueError(f"it is truncated: an element declares {length:,} bytes, but {len(body):,} follow")
        yield Element(kind, body)


def _decompress(body: memoryview, max_bytes: int) -> bytes:
    """Returns the content of a zlib stream.

    Raises:
        ValueError: If the stream is damaged or truncated, or its content exceeds `max_bytes`.
    """
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(body, max(max_bytes, 1))
    except zlib.error as error:
        raise ValueError(f"a compressed element is damaged ({error})") from error
    if stream.unconsumed_tail:
        raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
    if not stream.eof:
        raise ValueError("a compressed element is truncated")
    return content


def _matrix(body: memoryview, order: str) -> tuple[int, bool, tuple[int, ...], str, Iterator[Element]]:
    """Returns class, complex flag, dimensions and name of a matrix, and the elements that follow.

    Raises:
        ValueError: If the element is not a matrix.
    """
    parts = _elements(body, order)
    head = list(islice(parts, 3))
    if len(head) < 3 or len(head[0].body) != 8 or len(head[1].body) % 4:
        raise ValueError("got a matrix without flags, dimensions and name")
    flags, dimensions, name = head
    (word,) = struct.unpack(order + "I", flags.body[:4])
    shape = struct.unpack(f"{order}{len(dimensions.body) // 4}i", dimensions.body)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"got a matrix of dimensions {shape}, expected at least two, none negative")
    return word & 0xFF, bool(word & COMPLEX), shape, bytes(name.body).decode("latin-1"), parts


def _numbers(name: str, element: Element, order: str) -> np.ndarray:
    """Returns a real matrix of a cell.

    Raises:
        ValueError: If the element is not a real matrix, or its dimensions do not match its bytes.
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

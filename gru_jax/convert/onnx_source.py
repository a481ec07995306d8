"""Reads ONNX models from files, bytes and file objects, and tensors that are kept beside a model.

The format allows a tensor's data in another file. Only files in the folder of the model are opened,
and only as many bytes are read as the tensor's shape needs.
"""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_jax._engine.arguments import describe
from gru_jax._files import check_file

_MOST_BYTES = 1 << 31  # protobuf reads no more
_LONGEST_MESSAGE = 300
_MOST_AXES = 8
_LONGEST_PATH = 4096


class Model(NamedTuple):
    """A model that was read.

    Attributes:
        graph: Its graph.
        folder: The folder that it was read from, or None.
        label: What error messages call it.
    """

    graph: Any
    folder: Path | None
    label: str


def read_model(onnx: Any, source: Any) -> Model:
    """Reads a model from a path, bytes, a binary file object, or an `onnx.ModelProto`.

    Raises:
        TypeError: If `source` is something else.
        ValueError: If it holds no complete ONNX model.
        OSError: If the file cannot be read.
    """
    if isinstance(source, onnx.ModelProto):
        return Model(source.graph, None, "source")
    if isinstance(source, str | os.PathLike):
        check_file("source", source, "an ONNX model")
        path, got = Path(source), os.fspath(source)
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(
                f"source: got {got} of {path.stat().st_size} bytes, expected an ONNX model, which has at most 2 GiB."
            )
        read = lambda: onnx.load(path, load_external_data=False)
    elif isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read"):
        path, got = None, describe(source)
        read = lambda: onnx.load_model_from_string(bytes(source.read() if hasattr(source, "read") else source))
    else:
        raise TypeError(f"source: got {describe(source)}, expected a path, bytes, a binary file or an onnx.ModelProto.")
    try:
        model = read()
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError, whose module differs between versions
        raise ValueError(f"{_not_onnx(got)} ({error})") from error
    if not model.HasField("graph"):  # almost any short text is valid protobuf
        raise ValueError(_not_onnx(got))
    # the name alone, so that the rest of a message fits; see `shortened`
    return Model(model.graph, path and path.parent, "source" if path is None else f"source: {path.name}")


def _not_onnx(got: str) -> str:
    return f"source: got {got}, which is not an ONNX file, or is cut off. Download or export it again."


def shortened(error: Exception) -> Exception:
    """Returns the error, or one with the start and the end of its message if it has more than 300 characters.

    Names in a file may have megabytes.
    """
    text = str(error)
    if len(text) <= _LONGEST_MESSAGE:
        return error
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{text[:150]} … {text[-(_LONGEST_MESSAGE - 153) :]}")


def to_numpy(onnx: Any, tensor: Any, folder: Path | None, label: str) -> np.ndarray:
    """Converts a constant of a model to a NumPy array.

    Raises:
        ValueError: If the data are incomplete, or in a file outside of the model's folder.
    """
    is_outside = onnx.external_data_helper.uses_external_data(tensor)
    most = math.inf if is_outside else 4 * tensor.ByteSize()  # the smallest elements have two bits
    if len(tensor.dims) > _MOST_AXES or min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > most:
        raise ValueError(f"{label}: got a tensor of {tensor.ByteSize()} bytes, expected data for dims {list(tensor.dims)}.")
    if is_outside:
        tensor = _with_data(onnx, tensor, folder, label)
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # onnx raises different exceptions for different damage
        raise ValueError(
            f"{label}: got a tensor that onnx cannot read, expected data for dims {list(tensor.dims)}. ({error})"
        ) from error


def _with_data(onnx: Any, tensor: Any, folder: Path | None, label: str) -> Any:
    """Returns a copy of the tensor that holds the data of its file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _path_inside(folder, entries.get("location", ""), label)
    try:
        offset = int(entries.get("offset", "0"))
        size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        length = int(entries.get("length", size))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{label}: got offset, length or dtype that cannot be read in {entries}. ({error})") from error
    available = path.stat().st_size - offset
    if offset < 0 or length != size or not 0 <= size <= available:
        raise ValueError(
            f"{label}: got {length} bytes at {offset} of {path.name}, which has {available} there, expected {size} for dims "
            f"{list(tensor.dims)}. Download or export the model again."
        )
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    whole = onnx.TensorProto()
    whole.CopyFrom(tensor)
    del whole.external_data[:]
    whole.data_location, whole.raw_data = onnx.TensorProto.DEFAULT, data
    return whole


def _path_inside(folder: Path | None, location: str, label: str) -> Path:
    """Returns the file that a tensor names, if it is a file in the folder of the model."""
    if folder is None:
        raise ValueError(
            f"{label}: got data in another file, {location!r}, expected it in the model. Pass the path of the model as source, "
            "which tells the folder of that file, or onnx.load(path), which reads it."
        )
    root = folder.resolve()
    can_be_a_path = len(location) <= _LONGEST_PATH and "\0" not in location  # resolving takes seconds for megabytes
    path = (root / location).resolve() if can_be_a_path else None
    if path is None or not path.is_relative_to(root) or not path.is_file():
        raise ValueError(
            f"{label}: got data in the file {location!r}, expected one that exists in the folder of the model, {folder}. Copy "
            "both files into one folder."
        )
    return path

"""Safetensors files, in and out, through the library of that name (the extra `convert`). Nothing in them is unpickled."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from gru_jax.convert.files import extra, write_whole


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name, as NumPy arrays (bfloat16: of `ml_dtypes`).

        params = gj.convert.from_pytorch(cell, gj.convert.load_safetensors("model.safetensors"), prefix="rnn.")

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: no such file.
        ValueError: no safetensors file: cut off, a header that is too large or no JSON, tensors beyond the file's end.
    """
    library = extra("safetensors.numpy")
    try:
        return library.load_file(path)
    except FileNotFoundError:
        raise
    except (extra("safetensors").SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"path: {os.fspath(path)} is not a whole safetensors file. ({error})") from error


def save_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays by name into a safetensors file, whole or not at all.

    Args:
        path: of the file; one that is there is replaced.
        tensors: names to arrays, such as `gj.convert.to_pytorch(cell, params)`.
        metadata: texts for the header; PyTorch's own loaders expect {"format": "pt"}.

    Raises:
        ImportError: safetensors is not installed.
        TypeError: a name that is no text, or a value that is no array.
        OSError: the folder is missing or cannot be written to, or the disk is full.
    """
    library = extra("safetensors.numpy")
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        # safetensors copies memory as it lies: a transposed view would be written wrong
        array = np.ascontiguousarray(tensor) if np.ndim(tensor) else np.asarray(tensor)
        if not isinstance(name, str) or array.dtype == object:
            raise TypeError(f"tensors[{name!r}]: got {type(tensor).__name__}, expected an array under a name.")
        arrays[name] = array
    write_whole(path, lambda file: library.save_file(arrays, file, metadata=None if metadata is None else dict(metadata)))

"""Reads and writes safetensors files, through the package `safetensors`."""

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gru_jax._files import import_extra, read_safetensors, write_safetensors
from gru_jax.convert.arrays import as_array


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors file.

        tensors = gj.convert.load_safetensors("model.safetensors")
        params = gj.convert.from_pytorch(cell, tensors, prefix="rnn.")

    Nothing in the file is unpickled.

    Args:
        path: The path of the file.

    Returns:
        NumPy arrays by name. bfloat16 arrays have the dtype `ml_dtypes.bfloat16`.

    Raises:
        ImportError: If safetensors is not installed.
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is truncated or is not a safetensors file.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import gru_jax as gj
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     gj.convert.save_safetensors(f"{directory}/model.safetensors", {"weight": np.ones((2, 3), np.float32)})
        ...     tensors = gj.convert.load_safetensors(f"{directory}/model.safetensors")
        >>> tensors["weight"].shape
        (2, 3)
    """
    return read_safetensors(path, extra="convert")


def save_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays to a safetensors file.

        tensors = gj.convert.to_pytorch(cell, params)
        gj.convert.save_safetensors("model.safetensors", tensors, metadata={"format": "pt"})

    The file is replaced atomically: after a crash it holds either its old or its new content.

    Args:
        path: The path of the file.
        tensors: A mapping of names to arrays of NumPy, JAX or PyTorch, for example
            `gj.convert.to_pytorch(cell, params)`.
        metadata: Strings to write into the header. PyTorch's loaders expect {"format": "pt"}.
            Defaults to none.

    Raises:
        ImportError: If safetensors is not installed.
        TypeError: If a name is not a string, a value is not an array of numbers, or the format does
            not have its dtype.
        ValueError: If a name is "__metadata__", which the format reserves.
        OSError: If the directory is missing or not writable, or the disk is full.

    Example:
        >>> import tempfile
        >>> import jax
        >>> import gru_jax as gj
        >>> params = gj.gru().init(jax.random.key(0), 3, 4)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     gj.convert.save_safetensors(f"{directory}/model.safetensors", params._asdict())
        ...     tensors = gj.convert.load_safetensors(f"{directory}/model.safetensors")
        >>> gj.cells.GRUParams(**tensors).W_z.shape
        (3, 4)
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors: got {type(tensors).__name__}, expected a mapping of names to arrays.")
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensors[{name!r}]: got the name {name!r}, expected a string. Use {str(name)!r}.")
        if name == "__metadata__":
            raise ValueError("tensors: got the name '__metadata__', which the format reserves. Pass strings as metadata.")
        array = as_array(tensor, f"tensors[{name!r}]")
        if not jnp.issubdtype(array.dtype, np.number) and array.dtype != bool:
            raise TypeError(f"tensors[{name!r}]: got {array.dtype}, expected an array of numbers or booleans.")
        arrays[name] = array
    try:
        write_safetensors(path, arrays, metadata, extra="convert")
    except import_extra("safetensors").SafetensorError as error:
        raise TypeError(f"tensors: got a dtype that the format does not have. ({error})") from error

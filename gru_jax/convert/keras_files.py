"""Reads the weights in the files of Keras 3, `.keras` and `.weights.h5`, through the package `h5py`.

A `.keras` file is an archive that contains `model.weights.h5`. A weights file has a group for each
layer, in which `vars` holds the arrays 0, 1, …. A recurrent layer keeps them in `cell`, and a
`Bidirectional` in `forward_layer` and `backward_layer`. Links, data outside of the file and data
larger than the file are not read.
"""

import io
import os
import re
import zipfile
from typing import Any

import numpy as np

from gru_jax._files import check_file, import_extra

_MEMBER = "model.weights.h5"
_PLACE = re.compile(r"layers/(?P<layer>[^/]+)(?P<part>/.+?)?/vars(/(?P<index>\d+))?")
_PARTS = ("", "/cell", "/forward_layer/cell", "/backward_layer/cell")
_LARGEST_RATIO = 100  # weights hardly compress; an archive of more is one that fills the memory


def load_keras(path: str | os.PathLike[str]) -> dict[str, list[np.ndarray]]:
    """Reads the weights of each layer in a `.keras` or `.weights.h5` file of Keras 3.

        weights = gj.convert.load_keras("model.keras")
        params = gj.convert.from_keras(gj.gru(reset_after=True), weights["gru"])

    The file does not say which cell the weights belong to: pass the cell of the layer to
    `from_keras`. Nothing in the file is run or unpickled.

    Args:
        path: The path of a file that `model.save` or `model.save_weights` wrote.

    Returns:
        The arrays of each layer in the order of `layer.get_weights()`, by the name of the layer.
        Parts of a layer other than a cell and the two directions have entries of their own, such as
        `"rnn/cell/cells/gru_cell"`.

    Raises:
        ImportError: If h5py is not installed.
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is truncated, is not one of Keras 3, or names data outside of itself.

    Example:
        >>> import h5py, tempfile
        >>> import numpy as np
        >>> import gru_jax as gj
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = f"{directory}/model.weights.h5"
        ...     with h5py.File(path, "w") as file:  # as Keras writes the SimpleRNN of a model
        ...         for i, shape in enumerate([(3, 4), (4, 4), (4,)]):
        ...             file[f"layers/simple_rnn/cell/vars/{i}"] = np.ones(shape, np.float32)
        ...     weights = gj.convert.load_keras(path)
        >>> gj.convert.from_keras(gj.elman(), weights["simple_rnn"]).W.shape
        (3, 4)
    """
    h5py = import_extra("h5py")
    check_file("path", path, "a .keras or .weights.h5 file of Keras 3")
    name = os.fspath(path)
    try:
        with open(path, "rb") as opened, h5py.File(_weights_file(opened), "r") as file:
            return _layers(h5py, file)
    except FileNotFoundError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, zipfile.BadZipFile) as error:  # what h5py raises for damage
        raise ValueError(
            f"path: got {name}, expected a complete .keras or .weights.h5 file of Keras 3. Save it again with model.save or "
            f"model.save_weights. ({error})"
        ) from error


def _weights_file(opened: Any) -> Any:
    """Returns the HDF5 file: the file itself, or the member of an archive."""
    if not zipfile.is_zipfile(opened):
        opened.seek(0)
        return opened
    with zipfile.ZipFile(opened) as archive:
        members = [member for member in archive.infolist() if member.filename == _MEMBER]
        if len(members) != 1:
            raise ValueError(f"the archive has {len(members)} members {_MEMBER}, expected one")
        if members[0].file_size > _LARGEST_RATIO * members[0].compress_size + 2**20:
            raise ValueError(f"{_MEMBER} has {members[0].file_size} bytes from {members[0].compress_size}")
        return io.BytesIO(archive.read(members[0]))


def _layers(h5py: Any, file: Any) -> dict[str, list[np.ndarray]]:
    """Returns the arrays of each layer, or of a part of it, by name."""
    names: dict[str, str] = {}
    found: dict[tuple[str, str], dict[int, Any]] = {}

    def visit(path: str, item: Any) -> None:
        match = _PLACE.fullmatch(path)
        if match and match["index"] is None:
            if not match["part"]:
                names[match["layer"]] = str(item.attrs.get("name", match["layer"]))
        elif match and isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            found.setdefault((match["layer"], match["part"] or ""), {})[int(match["index"])] = item

    file.visititems(visit)  # visits each object once, and follows no link
    if not found:
        raise ValueError("it has no group of layers with weights")
    layers: dict[str, list[np.ndarray]] = {}
    for part in (*_PARTS, None):  # the order of get_weights()
        for (layer, own), arrays in sorted(found.items()):
            if own == part or (part is None and own not in _PARTS):
                name = names.get(layer, layer) + ("" if own in _PARTS else own)
                layers.setdefault(name, []).extend(_read(arrays[i]) for i in sorted(arrays))
    return layers


def _read(dataset: Any) -> np.ndarray:
    """Reads an array that is in the file itself."""
    if dataset.external or dataset.is_virtual or dataset.nbytes > dataset.file.id.get_filesize():
        raise ValueError(f"{dataset.name} has data outside of the file, or more than the file can hold")
    return dataset[()]

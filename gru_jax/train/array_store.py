"""Writes and reads the arrays of a checkpoint, with Orbax.

    arrays/_METADATA          the names of the arrays, which are numbers
    arrays/0/.zarray          shape and dtype of array 0
    arrays/0/0.0              its bytes, uncompressed and in one chunk

The store allocates what its files ask for. Therefore everything that they say is compared with the
manifest before the store opens them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class ArraySpec(NamedTuple):
    """The name, shape and dtype of an array."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The number of bytes of the array."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def import_orbax() -> Any:
    """Returns the package `orbax.checkpoint`.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(
            'checkpoint_dir: checkpoints need Orbax, which is not installed. Run: pip install "gru_jax[train]"'
        ) from error
    return ocp


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays into the new directory `path`."""
    # The names in the files are numbers, because a parameter's name may contain any character.
    # Empty arrays are left out, because Orbax cannot write them.
    with _checkpointer(import_orbax()) as checkpointer:
        checkpointer.save(path.absolute(), {str(i): array for i, array in enumerate(arrays.values()) if array.size})


def read_arrays(path: Path, specs: list[ArraySpec], wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Reads the arrays whose names are wanted, after `check_files` and `check_metadata` passed."""
    ocp = import_orbax()
    stored = {str(i): 0 for i, spec in enumerate(specs) if spec.nbytes and wanted(spec.name)}
    found = {}
    if stored:
        how = dict.fromkeys(stored, ocp.RestoreArgs(restore_type=np.ndarray))
        with _checkpointer(ocp) as checkpointer:
            args = ocp.args.PyTreeRestore(stored, restore_args=how, partial_restore=True)
            found = checkpointer.restore(path.absolute(), args=args)
    arrays = {}
    for i, spec in enumerate(specs):
        if wanted(spec.name):
            array = np.asarray(found[str(i)]) if str(i) in found else np.zeros(spec.shape, spec.dtype)
            if array.shape != spec.shape or array.dtype != spec.dtype:
                raise ValueError(f"{spec.name} is {array.dtype}{list(array.shape)}, expected {spec.dtype}{list(spec.shape)}")
            arrays[spec.name] = array
    return arrays


def check_files(sizes: dict[str, int], specs: list[ArraySpec]) -> None:
    """Checks that the files of the store are those of the arrays, and have their sizes.

    Args:
        sizes: The size of each file, by its path in the directory of the store.
        specs: The arrays that were written.

    Raises:
        ValueError: If a file is missing, unexpected, or has another size.
    """
    numbered = {str(i): spec for i, spec in enumerate(specs) if spec.nbytes}
    metadata = {name for name in sizes if "/" not in name}
    expected = {f"{i}/{'.'.join('0' * len(spec.shape)) or '0'}": spec.nbytes for i, spec in numbered.items()}
    for name, size in expected.items():
        if sizes.get(name) != size:
            raise ValueError(f"arrays/{name} has {sizes.get(name)} bytes, expected {size}")
    others = sizes.keys() - metadata - expected.keys()
    unexpected = others ^ {f"{i}/.zarray" for i in numbered}
    if unexpected:
        raise ValueError(f"these files are missing, or belong to no array: {', '.join(sorted(unexpected)[:8])}")
    for name in metadata | others:
        if sizes[name] > 4096 + 1024 * (len(specs) if name in metadata else 0):
            raise ValueError(f"arrays/{name} has {sizes[name]} bytes, more than its content needs")


def check_metadata(path: Path, specs: list[ArraySpec]) -> None:
    """Checks that the metadata of the store describe the arrays that were written.

    Raises:
        ValueError: If something differs.
    """
    numbered = {str(i): spec for i, spec in enumerate(specs) if spec.nbytes}
    if numbered:
        tree = json.loads((path / "_METADATA").read_bytes())
        entries = {
            "".join(str(part["key"]) for part in entry["key_metadata"]): entry for entry in tree["tree_metadata"].values()
        }
        types = {entry["value_metadata"]["value_type"] for entry in entries.values()}
        if entries.keys() != numbered.keys() or types != {"np.ndarray"} or tree["use_ocdbt"] or tree["use_zarr3"]:
            raise ValueError("arrays/_METADATA does not describe the arrays that were written")
    for i, spec in numbered.items():
        found = json.loads((path / i / ".zarray").read_bytes())
        expected = {"shape": list(spec.shape), "chunks": list(spec.shape), "compressor": None, "filters": None, "order": "C"}
        if any(found[key] != value for key, value in expected.items()) or np.dtype(found["dtype"]) != spec.dtype:
            raise ValueError(f"arrays/{i}/.zarray does not describe {spec.name}, {spec.dtype}{list(spec.shape)}")


def _checkpointer(ocp: Any) -> Any:
    """Returns an Orbax checkpointer that does not wait for other processes."""
    import jax

    process = jax.process_index()
    this_process = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"gru_jax_{process}"
    )
    # one plain file for each array, so that its size can be checked
    plain = {"use_ocdbt": False, "use_compression": False}
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=this_process, **plain)
    handler.finalize = lambda directory: None  # it would warn at every save that there is nothing to merge
    return ocp.Checkpointer(handler, multiprocessing_options=this_process)

"""`save_checkpoint` and `restore_checkpoint`: the checkpoints of `fit`, for custom training loops."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train import checkpoint
from gru_jax.train.arguments import checked_count, checked_directory, has_objects
from gru_jax.train.checkpoint import Checkpoint
from gru_jax.train.manifest import Manifest
from gru_jax.train.run_config import as_json
from gru_jax.train.run_directory import make_directory
from gru_jax.train.tree_paths import differences_of_leaves, in_structure_of, named_leaves


class RestoredCheckpoint(NamedTuple):
    """What `restore_checkpoint` returns.

    Attributes:
        step: The step that was passed to `save_checkpoint`.
        state: The state, in the structure of `like`.
        metadata: The JSON values that were passed to `save_checkpoint`.
    """

    step: int
    state: Any
    metadata: Any


def save_checkpoint(
    checkpoint_dir: str | os.PathLike[str], state: Any, step: int, *, metadata: Any = None, max_to_keep: int = 2
) -> None:
    """Saves a pytree as a checkpoint, with the guarantees of the checkpoints of `fit`.

        iterator = gj.train.batches(data, 32, key=key)
        gj.train.save_checkpoint("run", (params, opt_state), step, metadata=iterator.get_state())

    The checkpoint is written aside, gets a manifest of digests, and is then renamed. A crash at any
    moment leaves the earlier checkpoints as they are.

    Args:
        checkpoint_dir: The directory of the run. It is made if it does not exist. Use another
            directory for each run, and for `fit`.
        state: Any pytree of arrays, for example `(params, opt_state)`.
        step: The number of steps that led to the state.
        metadata: Further JSON values to save, for example the position of the data. Defaults to
            None.
        max_to_keep: The number of checkpoints to keep, at least 2. Older ones are deleted. Defaults
            to 2.

    Raises:
        TypeError: If a leaf of `state` is not an array, or JSON cannot hold `metadata`.
        ValueError: If `step` is negative, `max_to_keep` is below 2, or the directory contains a run of
            `fit`, or an intact checkpoint of a later step, which the save would delete.
        OSError: If the checkpoint cannot be written. Earlier checkpoints are unchanged.
        ImportError: If Orbax is not installed: `pip install "gru_jax[train]"`.

    Example:
        >>> import tempfile, jax.numpy as jnp, gru_jax as gj
        >>> directory = tempfile.mkdtemp()
        >>> gj.train.save_checkpoint(directory, {"w": jnp.arange(3.0)}, step=10)
        >>> gj.train.restore_checkpoint(directory, like={"w": jnp.zeros(3)}).step
        10
    """
    step, max_to_keep = checked_count("step", step, least=0), checked_count("max_to_keep", max_to_keep, least=2)
    if step > checkpoint.LARGEST_STEP:
        raise ValueError(f"step: got {step}, expected at most {checkpoint.LARGEST_STEP}.")
    directory = checked_directory("checkpoint_dir", checkpoint_dir)
    arrays = {name: _as_array(name, leaf) for name, leaf in named_leaves(state).items()}
    if not arrays:
        raise ValueError(f"state: got {type(state).__name__} without arrays, expected a pytree of arrays.")
    values = {"metadata": as_json("metadata", metadata)}
    make_directory(directory)
    saved = Checkpoint(step, arrays, values, _run_id(directory, step))
    checkpoint.save(directory, saved, max_to_keep=max_to_keep)


def restore_checkpoint(checkpoint_dir: str | os.PathLike[str], like: Any) -> RestoredCheckpoint | None:
    """Restores the newest valid checkpoint of `save_checkpoint`.

    Every file is compared with the manifest first. A damaged checkpoint is reported, and the one
    before it is used.

    Args:
        checkpoint_dir: The directory that was passed to `save_checkpoint`.
        like: A pytree with the structure, shapes and dtypes of the state, for example the state at
            the start.

    Returns:
        A `RestoredCheckpoint`, or None if the directory contains no checkpoint.

    Raises:
        TypeError: If `checkpoint_dir` is not a path, or a leaf of `like` not an array.
        ValueError: If names, shapes or dtypes differ from `like`; the message lists the
            differences. Also if all checkpoints are damaged, or `fit` wrote them.
        NotADirectoryError: If `checkpoint_dir` is something else than a directory.
        ImportError: If Orbax is not installed: `pip install "gru_jax[train]"`.

    Example:
        >>> import tempfile, jax.numpy as jnp, gru_jax as gj
        >>> print(gj.train.restore_checkpoint(tempfile.mkdtemp(), like=jnp.zeros(3)))
        None
    """
    directory, expected = checked_directory("checkpoint_dir", checkpoint_dir), named_leaves(like)
    for name, leaf in expected.items():
        _check_leaf("like", name, leaf)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"checkpoint_dir: got {directory}, which is not a directory.")

    def check(manifest: Manifest) -> None:
        different = differences_of_leaves({spec.name: spec for spec in manifest.arrays}, expected, "in the checkpoint")
        if "run_config" in manifest.metadata:
            different = "fit wrote it, to be resumed by fit or read by load_params"
        if different:
            raise ValueError(
                f"like: {directory} contains another state, at step {manifest.step}. {different}. Pass a state like the one that "
                "was saved, or use another directory."
            )

    saved = checkpoint.load_latest(directory, check=check)
    if saved is None:
        return None
    state = jax.tree.map(jnp.asarray, in_structure_of(like, saved.arrays))
    return RestoredCheckpoint(saved.step, state, saved.metadata["metadata"])


def _run_id(directory: Path, step: int) -> str:
    """Returns the id of the run in a directory, or a new one if there is none.

    Raises:
        ValueError: If `fit` wrote it, or an intact checkpoint of a later step would be deleted.
    """
    newest = checkpoint.newest_step_and_id(directory)
    if newest is None:
        return checkpoint.new_run_id()
    if "run_config" in checkpoint.newest_metadata(directory):
        raise ValueError(
            f"checkpoint_dir: {directory} contains a run of fit, which continues its own checkpoints. Use another directory."
        )
    if newest[0] > step:
        intact = checkpoint.load_latest(directory, wanted=lambda name: False)
        if intact is not None and intact.step > step:
            raise ValueError(
                f"step: got {step}, but {directory} contains a checkpoint of step {intact.step}, which would be deleted. Continue "
                "from it with restore_checkpoint, or use another directory."
            )
    return newest[1]


def _as_array(name: str, leaf: Any) -> np.ndarray:
    _check_leaf("state", name, leaf)
    return np.asarray(leaf, getattr(leaf, "dtype", jnp.result_type(leaf)))


def _check_leaf(argument: str, name: str, leaf: Any) -> None:
    # a description, such as a ShapeDtypeStruct, is enough to restore
    is_described = argument == "like" and hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    is_number = isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex)
    if not (is_number or is_described) or has_objects(leaf):
        fix = " Pass other values as metadata." if argument == "state" else ""
        where = f" at {name}" if name else ""
        raise TypeError(f"{argument}: got {type(leaf).__name__}{where}, expected an array of numbers.{fix}")

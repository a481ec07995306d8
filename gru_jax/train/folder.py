"""The folder of a run: what a checkpoint holds, whose run it is, and one process at a time in it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train import checkpoint
from gru_jax.train.checkpoint import Saved


class Run(NamedTuple):
    """A folder, and the configuration of the run in it."""

    path: Path
    config: dict[str, Any]
    keep: int


def configuration(user: Any, source: Any, key: jax.Array, **settings: Any) -> dict[str, Any]:
    """What must be the same for a run to be continued: the user's own, the data byte for byte, the key, the settings.

    Raises:
        TypeError: the user's is no JSON.
    """
    try:
        own = json.loads(json.dumps(user))
    except (TypeError, ValueError) as error:
        raise TypeError(f"config: got {user!r}, expected what JSON can hold. ({error})") from error
    return {
        "config": own,
        "data": fingerprint(source.data),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        **source.described(),
        **settings,
    }


def fingerprint(tree: Any) -> str:
    """SHA-256 of every array's shape, dtype and bytes."""
    digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, in its order; of random keys their numbers."""
    bare = lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return {jax.tree_util.keystr(path): bare(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def write(run: Run, step: int, tree: Any, meta: dict[str, Any]) -> None:
    """A checkpoint of `tree` after `step` steps."""
    arrays = {path: np.asarray(leaf) for path, leaf in named(tree).items()}
    checkpoint.save(run.path, Saved(step, arrays, meta | {"config": run.config}), run.keep)


def resume(run: Run, tree: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """(step, the tree, what else was saved) of the newest valid checkpoint; None where there is none.

    Raises:
        ValueError: it belongs to another configuration, or its arrays have other names, shapes or dtypes: names the differences.
    """
    saved = checkpoint.newest(run.path)
    if saved is None:
        return None
    check_config(run, saved)
    return saved.step, restored(run.path, saved, tree), saved.meta


def check_config(run: Run, saved: Saved) -> None:
    """Raises where a checkpoint is of another configuration."""
    there, here = saved.meta["config"], run.config
    names = sorted(there.keys() | here.keys())
    differences = [
        f"{name}: {there.get(name)!r} there, {here.get(name)!r} here" for name in names if there.get(name) != here.get(name)
    ]
    if differences:
        raise ValueError(
            f"folder: {run.path} holds a run of another configuration, at step {saved.step}. {'; '.join(differences)}. Continue it "
            "with its own, or use another folder."
        )


def restored(path: Path, saved: Saved, tree: Any) -> Any:
    """The saved arrays in the structure of `tree`.

    Raises:
        ValueError: names what differs.
    """
    here = named(tree)
    form = lambda leaf: f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
    there = {name: form(array) for name, array in saved.arrays.items()}
    wanted = {name: form(leaf) for name, leaf in here.items()}
    names = [name for name in dict.fromkeys([*there, *wanted]) if there.get(name) != wanted.get(name)]
    if names:
        told = "; ".join(
            f"{name}: {there.get(name, 'nothing')} there, {wanted.get(name, 'nothing')} here" for name in names[:8]
        )
        raise ValueError(
            f"folder: {path} holds a checkpoint of other arrays, at step {saved.step}. {told}{'; …' * (len(names) > 8)}. "
            "Continue with the model and the optimiser it was made with, or use another folder."
        )
    leaves, structure = jax.tree.flatten(tree)
    found = [saved.arrays[name] for name in here]
    keyed = lambda leaf, like: jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like)) if _is_key(like) else leaf
    return jax.tree.unflatten(structure, map(keyed, found, leaves))


def load_params(folder: str | os.PathLike[str], like: Any, *, best: bool = False) -> Any:
    """The parameters of the newest valid checkpoint in a run's folder.

    Args:
        folder: that was given to `fit`.
        like: parameters of the same structure, shapes and dtypes, such as those it started from.
        best: those with the best evaluation, of a run with `early_stopping`, rather than the last.

    Raises:
        FileNotFoundError: no valid checkpoint.
        ValueError: parameters of another form: names the differences; `best` of a run that kept none.
    """
    saved = checkpoint.newest(Path(folder))
    if saved is None:
        raise FileNotFoundError(f"folder: {folder} holds no valid checkpoint.")
    prefix = "['best']" if best else "['member'].params"
    own = {name.removeprefix(prefix): array for name, array in saved.arrays.items() if name.startswith(prefix)}
    if best and not own:
        raise ValueError(f"best: got True, expected a run with early_stopping: {folder} kept no best parameters.")
    return jax.tree.map(jnp.asarray, restored(Path(folder), saved._replace(arrays=own), like))


class Lock:
    """One process at a time in a folder; the system gives it back when the process ends, however it ends."""

    def __init__(self, folder: Path | None) -> None:
        """Takes the folder.

        Raises:
            RuntimeError: another process has it.
        """
        self._file = None
        if folder is None or os.name == "nt":
            return
        import fcntl

        self._file = open(folder / ".lock", "w")  # noqa: SIM115 (held until release)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise RuntimeError(
                f"folder: another process is training in {folder}. Wait for it, or use another folder."
            ) from error

    def release(self) -> None:
        """Gives it back."""
        if self._file is not None:
            self._file.close()

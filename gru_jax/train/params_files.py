"""Saves parameters to a safetensors file, and loads them from such a file or from a run's directory."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._files import read_safetensors, write_safetensors
from gru_jax.train import checkpoint
from gru_jax.train.arguments import checked_flag, has_objects
from gru_jax.train.manifest import Manifest
from gru_jax.train.tree_paths import differences_of_leaves, in_structure_of, named_leaves


def save_params(path: str | os.PathLike[str], params: Any) -> None:
    """Saves parameters to a safetensors file.

        gj.train.save_params("model.safetensors", result.params)
        params = gj.train.load_params("model.safetensors", like=params)

    The file is replaced atomically: after a crash it holds either its old or its new content. Any
    program that reads safetensors can read it. The name of an array is its path in the pytree, such
    as `cell.W_z`. An array without a path is named `params`.

    Args:
        path: The path of the file.
        params: Any pytree of arrays.

    Raises:
        TypeError: If a leaf is not an array, or has a dtype that the format does not have.
        ValueError: If two arrays have the same path, or there is no array.
        ImportError: If safetensors is not installed.
        OSError: If the directory is missing or not writable, or the disk is full.

    Example:
        >>> import tempfile, jax, gru_jax as gj
        >>> params, path = gj.gru().init(jax.random.key(0), 3, 4), f"{tempfile.mkdtemp()}/model.safetensors"
        >>> gj.train.save_params(path, {"cell": params})
        >>> sorted(gj.convert.load_safetensors(path))[:3]
        ['cell.U_h', 'cell.U_r', 'cell.U_z']
    """
    arrays = {}
    for name, leaf in _named(params).items():
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float) or has_objects(leaf):
            raise TypeError(f"params: got {type(leaf).__name__} at {name}, expected an array.")
        arrays[name] = np.asarray(leaf, getattr(leaf, "dtype", jnp.result_type(leaf)))
        if arrays[name].dtype.name not in _DTYPES:
            raise TypeError(f"params: got {arrays[name].dtype} at {name}, expected one of {', '.join(_DTYPES)}.")
    if not arrays:
        raise ValueError(f"params: got {type(params).__name__} without arrays, expected at least one array.")
    write_safetensors(path, arrays, extra="train")


def load_params(path: str | os.PathLike[str], like: Any, *, best: bool = False, ema: bool = False) -> Any:
    """Loads parameters from a file of `save_params`, or from the newest checkpoint of a run.

    Args:
        path: A file that `save_params` wrote, or the directory that was passed to `fit`.
        like: A pytree of arrays with the structure, shapes and dtypes of the parameters, for
            example freshly initialised ones.
        best: If True, loads the parameters with the best evaluation, from a run with
            `early_stopping`. Defaults to False, which loads the parameters of the last saved step.
        ema: If True, loads the average of the parameters, from a run with `ema`. Defaults to False.

    Returns:
        The parameters, in the structure of `like`.

    Raises:
        FileNotFoundError: If the file does not exist, or the directory contains no valid
            checkpoint.
        ValueError: If names, shapes or dtypes differ from `like`. The message lists the
            differences. Also if `best` or `ema` is True for a file, or for a run without them.
        TypeError: If `path` is not a path, or `best` or `ema` is not a boolean.
        ImportError: If safetensors or Orbax is not installed.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp, optax, gru_jax as gj
        >>> directory, w = tempfile.mkdtemp(), jnp.zeros(2)
        >>> loss_fn = lambda w, batch, key: (jnp.square(w - batch.mean()).sum(), {})
        >>> result = gj.train.fit(
        ...     loss_fn, w, optax.sgd(0.1), jnp.ones(4), key=jax.random.key(0), steps=20, checkpoint_dir=directory)
        >>> bool((gj.train.load_params(directory, like=w) == result.params).all())
        True
    """
    best, ema = checked_flag("best", best), checked_flag("ema", ema)
    if best and ema:
        raise ValueError(
            "best: got True together with ema, expected one of them. The best parameters of a run with ema are an average."
        )
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"path: got {type(path).__name__}, expected the path of a file of save_params, or the directory of a run."
        )
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"path: got {path}, which does not exist, expected a file of save_params or the directory of a run."
        )
    found = _of_run(path, like, best=best, ema=ema) if path.is_dir() else _of_file(path, like, best=best, ema=ema)
    return jax.tree.map(jnp.asarray, in_structure_of(like, found))


# the dtypes that both NumPy's reader of safetensors and JAX have
_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float16", "float32", "float64", "complex64"),
)


def _named(params: Any) -> dict[str, Any]:
    """Names the leaves by their paths, for example `cell.W_z`.

    Raises:
        ValueError: If two leaves have the same name.
    """
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names = [path or "params" for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"params: got two arrays with the path {name}, expected different paths. Rename a key of a dict.")
    return dict(zip(names, named_leaves(params).values(), strict=True))


def _of_file(path: Path, like: Any, *, best: bool, ema: bool) -> dict[str, Any]:
    if best or ema:
        raise ValueError(
            f"{'best' if best else 'ema'}: got True for the file {path}, expected False. A file holds one set of parameters."
        )
    arrays = read_safetensors(path, extra="train")
    paths = dict(zip(_named(like), named_leaves(like), strict=True))
    found = {paths.get(name, name): array for name, array in arrays.items()}
    _check_arrays(path, found, like)
    return found


def _of_run(directory: Path, like: Any, *, best: bool, ema: bool) -> dict[str, Any]:
    prefix = ".best_params" if best else ".model.average.params" if ema else ".model.params"

    def check(manifest: Manifest) -> None:
        if manifest.metadata.keys() == {"metadata"}:
            raise ValueError(
                f"path: got {directory}, which save_checkpoint wrote, expected a run of fit. Call restore_checkpoint."
            )
        params = {spec.name.removeprefix(prefix): spec for spec in manifest.arrays if spec.name.startswith(prefix)}
        if (best or ema) and not params:
            name, option = ("best", "early_stopping") if best else ("ema", "ema")
            raise ValueError(f"{name}: got True for {directory}, a run without {option}, expected False.")
        _check_arrays(directory, params, like)

    saved = checkpoint.load_latest(directory, check=check, wanted=lambda name: name.startswith(prefix))
    if saved is None:
        raise FileNotFoundError(f"path: {directory} contains no valid checkpoint, expected a directory that was passed to fit.")
    return {name.removeprefix(prefix): array for name, array in saved.arrays.items()}


def _check_arrays(path: Path, found: dict[str, Any], like: Any) -> None:
    """Checks that `found` has the names, shapes and dtypes of `like`.

    Raises:
        ValueError: If it has not. The message lists the differences.
    """
    different = differences_of_leaves(found, named_leaves(like), "saved")
    if different:
        raise ValueError(f"like: {path} holds other arrays. {different}. Pass parameters of the model that was saved.")

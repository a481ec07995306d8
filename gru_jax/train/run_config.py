"""Describes the settings of a run that must be the same when it is resumed."""

import hashlib
import json
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from gru_jax.train.batch_sources import BatchSource
from gru_jax.train.function_description import describe_functions, differences_of_functions

FUNCTIONS = "functions"
_LISTED = 4


def make_run_config(
    user_config: Any, source: BatchSource, key: jax.Array, functions: dict[str, Any], **settings: Any
) -> dict[str, Any]:
    """Describes a run as a dict of JSON values.

    The dict contains the user's `config`, a digest of the data, the key, the settings, and what can
    be known of functions and optax transformations.

    Raises:
        TypeError: If JSON cannot hold `user_config`.
    """
    return {
        "config": as_json("config", user_config),
        "data": digest_of(source.bucket_data),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        **source.describe(),
        **settings,
        FUNCTIONS: describe_functions(**functions),
    }


def as_json(name: str, value: Any) -> Any:
    """Returns `value` as JSON gives it back.

    Raises:
        TypeError: If JSON cannot hold `value`.
    """
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: got {value!r}, expected values that JSON can hold. ({error})") from error


def digest_of(tree: Any) -> str:
    """Returns the SHA-256 of a tree's structure and of each array's dtype, shape and bytes."""
    digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"


def config_changes(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, str]:
    """Describes by name the settings and functions that differ from those of the saved run."""
    changes = {
        name: f"{saved.get(name)!r:.300} in the checkpoint, {current.get(name)!r:.300} in this call"
        for name in sorted((saved.keys() | current.keys()) - {FUNCTIONS})
        if saved.get(name) != current.get(name)
    }
    for name, differences in sorted(differences_of_functions(saved[FUNCTIONS], current[FUNCTIONS]).items()):
        changes[name] = ", ".join(differences[:_LISTED]) + ", …" * (len(differences) > _LISTED)
    return changes


def checked_changes(allow_changes: Any, run_config: dict[str, Any]) -> frozenset[str]:
    """Returns the names of what may differ from the checkpoint.

    Raises:
        TypeError: If `allow_changes` is not a sequence of strings.
        ValueError: If a name is unknown.
    """
    if isinstance(allow_changes, str) or not isinstance(allow_changes, Collection):
        raise TypeError(f'allow_changes: got {allow_changes!r}, expected a list of names, for example ["optimizer"].')
    known = [*run_config, *(name for name in run_config[FUNCTIONS] if name != "versions")]
    known.remove(FUNCTIONS)
    for name in allow_changes:
        if name not in known:
            raise ValueError(f"allow_changes: got {name!r}, expected names among {', '.join(known)}.")
    return frozenset(allow_changes)

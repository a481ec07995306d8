"""Describes what must be the same for a run to be resumed."""

import hashlib
import json
from typing import Any

import jax
import numpy as np

from gru_jax.train.batch_sources import BatchSource


def make_run_config(user_config: Any, source: BatchSource, key: jax.Array, **settings: Any) -> dict[str, Any]:
    """Describes a run as JSON values.

    They hold the user's `config`, a digest of the data, the key, and the settings.

    Raises:
        TypeError: If `user_config` is not made of JSON values.
    """
    try:
        config = json.loads(json.dumps(user_config))
    except (TypeError, ValueError) as error:
        raise TypeError(f"config: got {user_config!r}, expected values that JSON can hold. ({error})") from error
    return {
        "config": config,
        "data": digest_of(source.bucket_data),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        **source.describe(),
        **settings,
    }


def digest_of(tree: Any) -> str:
    """Returns a SHA-256 of the structure of a tree, and of each array's shape, dtype and bytes."""
    digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def config_differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Describes each setting that differs between a saved and the current configuration."""
    return [
        f"{name}: {saved.get(name)!r} there, {current.get(name)!r} here"
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name) != current.get(name)
    ]

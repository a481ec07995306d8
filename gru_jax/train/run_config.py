"""Describes the settings of a run that must be the same when it is resumed."""

import hashlib
import json
from typing import Any

import jax
import numpy as np

from gru_jax.train.batch_sources import BatchSource


def make_run_config(user_config: Any, source: BatchSource, key: jax.Array, **settings: Any) -> dict[str, Any]:
    """Describes a run as a dict of JSON values.

    The dict contains the user's `config`, a digest of the data, the key, and the settings.

    Raises:
        TypeError: If JSON cannot hold `user_config`.
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
    """Returns the SHA-256 of a tree's structure and of each array's dtype, shape and bytes."""
    digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"


def config_differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Describes each setting that differs between the saved and the current configuration."""
    return [
        f"{name}: {saved.get(name)!r} in the checkpoint, {current.get(name)!r} in this call"
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name) != current.get(name)
    ]

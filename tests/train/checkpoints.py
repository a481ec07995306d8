"""Checkpoints that the tests write, in this process and in processes that they kill."""

import numpy as np

from gru_jax.train.checkpoint import Checkpoint


def saved(step):
    """Returns a checkpoint whose numbers tell its step."""
    arrays = {"W": np.full((3, 4), step, np.float32), "count": np.asarray(step), "nothing": np.zeros((0, 2))}
    return Checkpoint(step, arrays, {"at": step}, "0123abcd")

"""Communication between the processes of one run. Every process must call each of these."""

from typing import Any

import numpy as np


def gathered(leaf: Any) -> Any:
    """Returns an array that is spread over processes, whole on each host."""
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)


def from_every_process(value: np.generic) -> Any:
    """Returns the values of all processes in an array."""
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(value))


def wait_for_processes(name: str) -> None:
    """Returns when every process has called it."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)

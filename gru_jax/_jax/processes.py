"""What processes of one run tell each other."""

from typing import Any

import numpy as np


def gathered(leaf: Any) -> Any:
    """An array that is spread over processes, whole on the host of each; every process must ask."""
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)


def from_every_process(flag: bool) -> Any:
    """The flags of all processes; every process must ask."""
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(flag))


def wait_for_processes(name: str) -> None:
    """Returns when every process has come here."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)

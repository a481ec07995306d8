"""What the devices are, as far as the choice of a plan depends on it."""

import os

import jax

from gru_jax._jax.tracing import is_traced


def cores_per_device() -> int | None:
    """How many CPU cores each device has here; None where devices are no CPUs. Many devices on few cores share one."""
    if jax.default_backend() != "cpu":
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // jax.local_device_count(), 1)


def share_of_batch(sequences: int, xs: jax.Array) -> int:
    """How many of these sequences of `xs` a CPU device has. Inside `shard_map` xs are its own. Under `jit` how they are sharded is not
    known: over all devices of the mesh, or else of the machine, is assumed. On other devices all are counted."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.manual_axes or jax.default_backend() != "cpu":
        return sequences
    all_devices = jax.device_count() if mesh.empty else mesh.size
    return -(-sequences // (all_devices if is_traced(xs) else len(xs.sharding.device_set)))


def half_precision_loops_grow() -> bool:
    """Whether a step in half precision takes the longer the longer its loop is: on a CPU with jaxlib 0.10; with 0.12 that is past
    (0.11 was not measured)."""
    return jax.default_backend() == "cpu" and jax.__version_info__ < (0, 12)

"""Spreads batches over several devices, in one process or in several."""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gru_jax._jax.processes import from_every_process, gathered, wait_for_processes


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh with one axis over several devices, to pass to `fit` as `mesh`.

    To get one device per core on a CPU, call
    `jax.config.update("jax_num_cpu_devices", os.cpu_count())` before anything else uses JAX. To use
    several hosts, run the same program in every process, and call `jax.distributed.initialize()`
    first.

    Args:
        devices: The devices. Defaults to all devices of all processes.

    Returns:
        A mesh with the axis `"data"`.

    Raises:
        TypeError: If `devices` is not a list of at least one device.

    Example:
        >>> import gru_jax as gj
        >>> gj.train.data_mesh().axis_names
        ('data',)
    """
    found = list(jax.devices()) if devices is None else devices
    if not isinstance(found, Sequence) or not found or not all(isinstance(device, jax.Device) for device in found):
        raise TypeError(f"devices: got {devices!r}, expected a list of devices, for example jax.devices()[:2].")
    return Mesh(np.asarray(found), ("data",))


def check_mesh(mesh: Any) -> None:
    """Checks that `mesh` is a mesh with a single axis.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(mesh, Mesh) or len(mesh.axis_names) != 1:
        raise TypeError(f"mesh: got {mesh!r}, expected a mesh with one axis, for example gj.train.data_mesh().")


def check_divisible(mesh: Mesh, name: str, tree: Any, axis: int = 0) -> None:
    """Checks that an axis that is spread over the devices divides evenly among them.

    Raises:
        ValueError: If it does not, in any leaf of `tree`. The message names the argument.
    """
    for leaf in jax.tree.leaves(tree):
        size = leaf.shape[axis] if leaf.ndim > max(axis, 0) else None
        if size is None or size % mesh.size:
            raise ValueError(
                f"{name}: got {'a scalar' if size is None else size}, expected a multiple of {mesh.size}, the number of "
                "devices in the mesh."
            )


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """Copies `tree` to every device of the mesh. Without a mesh, copies it to the default device.

    Raises:
        ValueError: If `tree` differs between processes.
    """
    return jax.tree.map(jax.numpy.asarray, tree) if mesh is None else _place(NamedSharding(mesh, P()), tree)


def shard_axis(mesh: Mesh | None, tree: Any, axis: int = 0) -> Any:
    """Spreads an axis of each leaf over the devices of the mesh.

    Without a mesh, places `tree` on the default device.

    Raises:
        ValueError: If `tree` differs between processes.
    """
    return replicate(None, tree) if mesh is None else _place(NamedSharding(mesh, partition_of_axis(mesh, axis)), tree)


def partition_of_axis(mesh: Mesh, axis: int) -> P:
    """Returns the spec of arrays whose axis `axis` is spread over the devices of the mesh."""
    return P(*[None] * axis, *mesh.axis_names)


def _place(sharding: NamedSharding, tree: Any) -> Any:
    return jax.tree.map(partial(_place_leaf, sharding), tree)


def _place_leaf(sharding: NamedSharding, leaf: Any) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    # with several processes, device_put accepts only host arrays
    if jax.dtypes.issubdtype(jax.typeof(leaf).dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_place_leaf(sharding, jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    try:
        return jax.device_put(np.asarray(leaf), sharding)
    except AssertionError as error:  # JAX compares the arrays of all processes
        raise ValueError(
            f"mesh: process {jax.process_index()} got other data, params or carry than another process. Pass the same to fit in every "
            f"process: it gives each device its share. ({str(error)[:200]}…)"
        ) from error


def gather_to_host(tree: Any) -> Any:
    """Gathers leaves that are spread over processes. Every process must call this function."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda leaf: leaf if leaf.is_fully_replicated else gathered(leaf), tree)


def any_process(flag: bool) -> bool:
    """Tells whether `flag` is true in any process. Every process must call this function."""
    return flag if jax.process_count() == 1 else bool(from_every_process(np.bool_(flag)).any())


def differs_between_processes(text: str) -> bool:
    """Tells whether `text` differs between processes. Every process must call this function."""
    digests = from_every_process(np.uint32(zlib.crc32(text.encode())))
    return len(set(digests.tolist())) > 1


def is_first_process() -> bool:
    """Tells whether this is the process that writes files."""
    return jax.process_index() == 0


def wait_for_all_processes(name: str) -> None:
    """Waits until every process has called this function with the same name."""
    if jax.process_count() > 1:
        wait_for_processes(name)

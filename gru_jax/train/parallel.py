"""The batch over several devices, in one process or in several."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gru_jax._jax.processes import from_every_process, gathered, wait_for_processes
from gru_jax.train.sources import Kind


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis over these devices, all by default, of all processes: what `fit(…, mesh=…)` spreads batches over.

        jax.config.update("jax_num_cpu_devices", os.cpu_count())    # before JAX is used: one CPU device per core
        gj.train.fit(…, mesh=gj.train.data_mesh())

    Over several hosts every process runs the same program, with `jax.distributed.initialize()` first.
    """
    return Mesh(np.asarray(jax.devices() if devices is None else devices), ("data",))


def check_mesh(mesh: Any) -> None:
    """Raises unless a mesh has a single axis.

    Raises:
        TypeError: no mesh, or one of several axes.
    """
    if not isinstance(mesh, Mesh) or len(mesh.axis_names) != 1:
        raise TypeError(f"mesh: got {mesh!r}, expected a mesh with one axis: gj.train.data_mesh().")


def check_split(mesh: Mesh, kinds: tuple[Kind, ...], data: Any, addresses: Any, carry: Any) -> None:
    """Raises where a batch does not divide among the devices.

    Raises:
        ValueError: names the array.
    """
    parts = data if len(kinds) > 1 else (data,)
    split = [
        ("data", leaf.shape[:1])
        for kind, part in zip(kinds, parts, strict=True)
        if kind.data_is_split
        for leaf in jax.tree.leaves(part)
    ]
    if kinds[0].address_is_split:
        split += [("batch_size", leaf.shape[-1:]) for leaf in jax.tree.leaves(addresses)]
    split += [("carry", leaf.shape[:1]) for leaf in jax.tree.leaves(carry)]
    for name, size in split:
        if not size or size[0] % mesh.size:
            raise ValueError(
                f"{name}: got {size[0] if size else 'a scalar'}, expected a multiple of {mesh.size}, the devices of the mesh."
            )


def place(mesh: Mesh | None, tree: Any, *, split: bool = False) -> Any:
    """`tree` on the devices: whole on each, or with its first axis spread over them."""
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, tree)
    sharding = NamedSharding(mesh, P(*mesh.axis_names) if split else P())
    return jax.tree.map(partial(_placed, sharding), tree)


def _placed(sharding: NamedSharding, leaf: Any) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    # over processes only arrays of the host can be placed
    if jax.dtypes.issubdtype(jax.typeof(leaf).dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_placed(sharding, jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jax.device_put(np.asarray(leaf), sharding)


def on_host(tree: Any) -> Any:
    """`tree` with what is spread over processes gathered; every process must ask."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda leaf: leaf if leaf.is_fully_replicated else gathered(leaf), tree)


def any_process(flag: bool) -> bool:
    """Whether the flag is raised in any process; every process must ask."""
    return flag if jax.process_count() == 1 else bool(from_every_process(flag).any())


def first_process() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        wait_for_processes(name)

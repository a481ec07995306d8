"""How arrays are placed on meshes: variation inside `shard_map`, and sums over Explicit axes."""

from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def vary_like(tree: Any, *like: Any) -> Any:
    """Casts `tree` to vary over every mesh axis that an array in `like` varies over in `shard_map`.

    Outside `shard_map` it returns `tree` itself. The transpose of the cast is the sum over those
    axes: a replicated parameter enters through it, and its gradient is all-reduced once per call.
    """
    return varying(tree, *frozenset().union(*map(_varying_axes, jax.tree.leaves(like))))


def varying(tree: Any, *axes: str) -> Any:
    """Casts `tree` to vary over these mesh axes inside `shard_map`."""

    def cast(leaf):
        missing = tuple(axis for axis in axes if axis not in _varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree) if axes else tree


def shard_like(tree: Any, like: jax.Array, batch_axes: slice) -> Any:
    """Shards the leading axes of `tree` like the axes `batch_axes` of `like`, on Explicit mesh axes.

    Without Explicit axes it returns `tree`.
    """
    batch = _explicit_spec(like)[batch_axes]
    return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, PartitionSpec(*batch)), tree) if any(batch) else tree


def replicated(*summed: jax.Array) -> PartitionSpec | None:
    """Returns the `out_sharding` of a product that sums over the leading axes of `summed`.

    On a mesh with Explicit axes, a sum over a sharded axis must state that its result is whole on
    every device.
    """
    return PartitionSpec() if any(any(_explicit_spec(x)[:-1]) for x in summed) else None


def explicitly_sharded(*arrays: jax.Array) -> bool:
    """Whether one of the arrays is sharded over Explicit mesh axes.

    `concatenate` then requires the same sharding of all its operands.
    """
    return any(any(_explicit_spec(x)) for x in arrays)


def shape_like(shape: tuple[int, ...], dtype: Any, like: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array that varies over the mesh axes that `like`, an array or its
    type, varies over in `shard_map`.
    """
    type_of_axes = (like if hasattr(like, "manual_axis_type") else jax.typeof(like)).manual_axis_type
    if not type_of_axes.varying:
        return jax.ShapeDtypeStruct(shape, dtype)
    sharding = jax.sharding.NamedSharding(jax.sharding.get_abstract_mesh(), PartitionSpec())
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding, manual_axis_type=type_of_axes)


def _varying_axes(x: Any) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying


def _explicit_spec(x: jax.Array) -> tuple[Any, ...]:
    """The sharding of the axes of `x` over Explicit mesh axes; empty where there are none."""
    sharding = jax.typeof(x).sharding
    return tuple(sharding.spec) if AxisType.Explicit in sharding.mesh.axis_types else ()

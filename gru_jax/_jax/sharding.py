"""How arrays are placed on meshes: what varies inside `shard_map`, and what Explicit axes ask of
sums.
"""

from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def vary_like(tree: Any, *like: Any) -> Any:
    """`tree` varying over every mesh axis that an array in `like` varies over inside `shard_map`;
    elsewhere `tree` itself.

    The transpose of this cast is the sum over those axes: a parameter that is replicated comes in
    through it, and its gradient goes out all-reduced, once per call.
    """
    return varying(tree, *frozenset().union(*map(_varying_axes, jax.tree.leaves(like))))


def varying(tree: Any, *axes: str) -> Any:
    """`tree` varying over these mesh axes, inside `shard_map`."""

    def cast(leaf):
        missing = tuple(axis for axis in axes if axis not in _varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree) if axes else tree


def shard_like(tree: Any, like: jax.Array, batch_rank: int) -> Any:
    """`tree` with its leading `batch_rank` axes sharded, over Explicit mesh axes, as the batch axes
    of `like`, which are those before its last; elsewhere `tree` itself."""
    batch = _explicit_spec(like)[like.ndim - 1 - batch_rank : like.ndim - 1]
    return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, PartitionSpec(*batch)), tree) if any(batch) else tree


def replicated(*summed: jax.Array) -> PartitionSpec | None:
    """The `out_sharding` of a product that sums over the leading axes of `summed`: on a mesh with
    Explicit axes a sum over a sharded axis must say that its result is whole on every device."""
    return PartitionSpec() if any(any(_explicit_spec(x)[:-1]) for x in summed) else None


def explicitly_sharded(*arrays: jax.Array) -> bool:
    """Whether one of them is sharded over Explicit mesh axes: `concatenate` and others then want
    the same of all.
    """
    return any(any(_explicit_spec(x)) for x in arrays)


def _varying_axes(x: Any) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying


def _explicit_spec(x: jax.Array) -> tuple[Any, ...]:
    """How the axes of `x` are sharded over Explicit mesh axes; empty where there are none."""
    sharding = jax.typeof(x).sharding
    return tuple(sharding.spec) if AxisType.Explicit in sharding.mesh.axis_types else ()

"""Inputs: one array, or a pytree of arrays with the same leading axes `(T, *batch)`.

A layer says by `num_feature_axes` how many trailing axes of each array are features. The others are
time and batch.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax._engine.arguments import describe
from gru_jax._engine.structures import describe_structure
from gru_jax._jax.sharding import shard_like


class FrozenDict(dict[str, Any]):
    """A dict that can be hashed, so that it may be a field of a cell."""

    def __hash__(self) -> int:  # type: ignore[override]
        """Hashes the items, whatever their order."""
        return hash(frozenset(self.items()))


def checked_feature_axes(axes: Any) -> Any:
    """Returns `num_feature_axes` in a form that can be hashed.

    Raises:
        TypeError: If it is not an int of at least 0, or a tuple, NamedTuple or dict of them.
    """
    if isinstance(axes, Integral) and not isinstance(axes, bool) and int(axes) >= 0:
        return int(axes)
    if isinstance(axes, Mapping):
        return FrozenDict({name: checked_feature_axes(own) for name, own in axes.items()})
    if hasattr(axes, "_fields"):
        return type(axes)(*map(checked_feature_axes, axes))
    if isinstance(axes, tuple):
        return tuple(map(checked_feature_axes, axes))
    raise TypeError(
        f"num_feature_axes: got {axes!r}, expected the number of trailing axes of xs that are features, an int of at least 0; or "
        "one for each array of xs, in a tuple, NamedTuple or dict."
    )


def feature_axes(layer: Any, xs: Any, name: str = "xs") -> list[int]:
    """The number of feature axes of each leaf of `xs`.

    Raises:
        TypeError: If `xs` has another structure than the layer's `num_feature_axes`.
    """
    return _spread(layer.num_feature_axes, xs, name, layer.name)


def _spread(axes: Any, xs: Any, name: str, layer_name: str) -> list[int]:
    if isinstance(axes, int):
        return [axes] * len(jax.tree.leaves(xs))
    if isinstance(axes, Mapping):
        fits = isinstance(xs, Mapping) and set(xs) == set(axes)
        parts = [(axes[key], xs[key], f"{name}[{key!r}]") for key in sorted(axes)] if fits else []
    else:
        fits = isinstance(xs, tuple) and len(xs) == len(axes) and getattr(xs, "_fields", ()) == getattr(axes, "_fields", ())
        parts = [(own, x, f"{name}[{i}]") for i, (own, x) in enumerate(zip(axes, xs, strict=True))] if fits else []
    if not fits:
        raise TypeError(
            f"{name}: got {describe_structure(xs)}, expected the structure of num_feature_axes={axes} of cell {layer_name}."
        )
    return [leaf for own, x, path in parts for leaf in _spread(own, x, path, layer_name)]


def leading_shape(layer: Any, xs: Any) -> tuple[Any, ...]:
    """The axes that are not features: `(T, *batch)` of a sequence, `batch` of a step."""
    leaf, features = jax.tree.leaves(xs)[0], feature_axes(layer, xs)[0]
    return leaf.shape[: leaf.ndim - features]


def cast_inputs(xs: Any, dtype: Any) -> Any:
    """Casts floating-point leaves to `dtype` and complex ones to the complex dtype of this width."""
    complex_dtype = jnp.complex128 if dtype == jnp.float64 else jnp.complex64

    def cast(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.astype(dtype)
        return leaf.astype(complex_dtype) if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else leaf

    return jax.tree.map(lambda leaf: cast(jnp.asarray(leaf)), xs)


def example_input(feature_axes: int, size: int, dtype: Any) -> jax.ShapeDtypeStruct:
    """The form of one input without batch axes: a vector, an image of one pixel, or a token."""
    return jax.ShapeDtypeStruct((1,) * (feature_axes - 1) + (size,) * (feature_axes > 0), dtype if feature_axes else jnp.int32)


def with_one_feature_axis(layer: Any, xs: Any) -> Any:
    """A leaf of `xs` with at least one feature axis, to ask how time and batch are sharded."""
    leaves, axes = jax.tree.leaves(xs), feature_axes(layer, xs)
    features, leaf = max(zip(axes, leaves, strict=True), key=lambda pair: pair[0])
    return leaf if features else leaf[..., None]


def shard_state_like(layer: Any, tree: Any, xs: Any, batch_rank: int) -> Any:
    """Shards the batch axes of `tree` like those of `xs` on Explicit mesh axes."""
    end = len(leading_shape(layer, xs))
    return shard_like(tree, jax.tree.leaves(xs)[0], slice(end - batch_rank, end))


def check_leading_axes(layer: Any, xs: Any, name: str, least: int) -> tuple[Any, ...]:
    """Returns the leading axes that all leaves of `xs` share, at least `least` of them."""
    found: tuple[str, Any] | None = None
    leaves = jax.tree_util.tree_leaves_with_path(xs)
    if not leaves:
        raise TypeError(f"{name}: got {describe(xs)} without arrays, expected an array, or a pytree of arrays.")
    for (path, leaf), features in zip(leaves, feature_axes(layer, xs, name), strict=True):
        own = name + jax.tree_util.keystr(path)
        if leaf.ndim < least + features:
            raise ValueError(_rank_message(own, leaf, features, least))
        shape = leaf.shape[: leaf.ndim - features]
        if found is not None and shape != found[1]:
            wanted = "(T, *batch), or (*batch, T) with time_major=False" if least else "(*batch,)"
            raise ValueError(
                f"{own}: got the leading axes {shape} (shape {leaf.shape}, {features} of its axes are features), expected "
                f"{found[1]}, those of {found[0]}. All arrays of {name} share {wanted}."
            )
        found = own, shape
    assert found is not None
    return found[1]


def _rank_message(name: str, x: Any, features: int, least: int) -> str:
    if features == 1:
        wanted = "(T, *batch, D), or (*batch, T, D) with time_major=False" if least else "(*batch, D)"
        return f"{name}: got shape {x.shape}, expected {wanted}. Give a single feature an axis of its own: {name}[..., None]."
    leading = "(T, *batch), or (*batch, T) with time_major=False," if least else "(*batch,)"
    return f"{name}: got shape {x.shape}, expected {leading} and then {features} axes of features, as num_feature_axes says."

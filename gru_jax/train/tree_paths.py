"""Names the leaves of a pytree by their paths, and restores a pytree from named leaves."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def named_leaves(tree: Any) -> dict[str, Any]:
    """Maps the path of each leaf of a tree to the leaf, in the order of the tree.

    Typed random keys are converted to their integer data.
    """
    return {path: jax.random.key_data(leaf) if is_random_key(leaf) else leaf for path, leaf in leaves_by_path(tree).items()}


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Maps the path of each leaf of a tree to the leaf, in the order of the tree."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def is_random_key(leaf: Any) -> bool:
    """Tells whether a leaf is an array of typed `jax.random` keys."""
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


_LISTED_DIFFERENCES = 8


def differences_of_leaves(found: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> str:
    """Describes the names, dtypes and shapes in which `found` differs from `expected`.

    Returns an empty string if there is no difference. `where` says where `found` was found.
    """
    found, expected = ({name: dtype_and_shape(leaf) for name, leaf in leaves.items()} for leaves in (found, expected))
    names = [name for name in dict.fromkeys([*found, *expected]) if found.get(name) != expected.get(name)]
    listed = [
        f"{name:.200}: {found.get(name, 'nothing')} {where}, {expected.get(name, 'nothing')} expected"
        for name in names[:_LISTED_DIFFERENCES]
    ]
    return "; ".join(listed + ["…"] * (len(names) > _LISTED_DIFFERENCES))


def in_structure_of(like: Any, arrays: Mapping[str, Any]) -> Any:
    """Returns named arrays in the structure of `like`. The names are those of `named_leaves`."""
    leaves, structure = jax.tree.flatten(like)

    def as_leaf(array: Any, like: Any) -> Any:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like)) if is_random_key(like) else array

    return jax.tree.unflatten(structure, map(as_leaf, (arrays[name] for name in named_leaves(like)), leaves))


def dtype_and_shape(leaf: Any) -> str:
    """Returns the dtype and shape of a leaf, for example "float32[3, 4]"."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return f"{dtype}{list(leaf.shape if hasattr(leaf, 'shape') else jnp.shape(leaf))}"

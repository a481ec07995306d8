"""Names the leaves of a pytree by their paths."""

from typing import Any

import jax


def named_leaves(tree: Any) -> dict[str, Any]:
    """Maps the path of each leaf of a tree to the leaf, in the order of the tree.

    Typed random keys are converted to their integer data.
    """
    return {
        jax.tree_util.keystr(path): jax.random.key_data(leaf) if is_random_key(leaf) else leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def is_random_key(leaf: Any) -> bool:
    """Tells whether a leaf is an array of typed `jax.random` keys."""
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)

"""Splits a pytree into its inexact leaves, which are differentiated, and all others.

Integers, booleans and random keys are the others. The part that is differentiated has None in their
place.
"""

from typing import Any

import jax
import jax.numpy as jnp


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is differentiated: a floating-point or complex array or number."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def differentiable(tree: Any) -> Any:
    """Returns `tree` with None in the place of every leaf that is not inexact."""
    return jax.tree.map(lambda leaf: leaf if is_inexact(leaf) else None, tree)


def fill(tree: Any, part: Any) -> Any:
    """Returns `part` with the leaves of `tree` in the place of None."""
    return jax.tree.map(lambda leaf, own: leaf if own is None else own, tree, part)

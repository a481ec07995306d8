"""Splits params into what is trained and what is not: integers and booleans, such as a table or a mask.

Gradients, updates and the optimiser's state have None in their place.
"""

from typing import Any

import jax
import jax.numpy as jnp


def trainable(params: Any) -> Any:
    """Returns `params` with None in the place of every leaf that is not floating-point or complex."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else None, params)


def with_constants(part: Any, params: Any) -> Any:
    """Returns `part` with the leaves of `params` in the place of None."""
    return jax.tree.map(lambda leaf, own: leaf if own is None else own, params, part)

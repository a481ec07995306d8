"""`all_finite`: the condition under which `fit` applies an update."""

from typing import Any

import jax
import jax.numpy as jnp

from gru_jax._jax.partition import is_inexact
from gru_jax.train.arguments import check_numbers


def all_finite(tree: Any) -> jax.Array:
    """Tells whether every floating-point number in a pytree is finite.

        is_finite = gj.train.all_finite((loss, grads, new_params))
        params = optax.tree.where(is_finite, new_params, params)

    `fit` skips an update unless this holds for the loss, the gradients and the new parameters.

    Args:
        tree: Any pytree of arrays. Integers, booleans and random keys count as finite.

    Returns:
        A boolean scalar.

    Raises:
        TypeError: If a leaf is not an array of numbers, booleans or keys.

    Example:
        >>> import jax.numpy as jnp, gru_jax as gj
        >>> bool(gj.train.all_finite({"a": jnp.ones(3), "n": 2})), bool(gj.train.all_finite([1.0, jnp.nan]))
        (True, False)
    """
    check_numbers("tree", tree, keys=True)
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    return jnp.stack(leaves).all() if leaves else jnp.array(True)

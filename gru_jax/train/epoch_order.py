"""Shuffles the examples of each epoch.

The order is a pure function of the key and the epoch, so that a run can be resumed and repeated.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def count_examples(data: Any) -> int:
    """Returns the length of the leading axis that all leaves of `data` share.

    Raises:
        TypeError: If `data` contains no array, or a leaf without axes.
        ValueError: If the leading axes differ.
    """
    leaves = jax.tree.leaves(data)
    if not leaves or any(getattr(leaf, "ndim", 0) == 0 for leaf in leaves):
        raise TypeError(
            f"data: got {type(data).__name__}, expected arrays whose leading axis counts examples, an iterable of "
            "batches, a function of a key, gj.train.bucketed(…) or gj.train.windows(…)."
        )
    counts = {leaf.shape[0] for leaf in leaves}
    if len(counts) > 1:
        raise ValueError(f"data: got leading axes {sorted(counts)}, expected the same number of examples in all arrays.")
    return counts.pop()


def batch_rows(key: jax.Array, step: int, *, examples: int, batch_size: int, steps: int) -> jax.Array:
    """Returns the rows of the batches of steps `step` to `step + steps - 1`, `(steps, batch_size)`.

    Epoch e is a permutation of all examples, drawn with `fold_in(key, e)`. The epochs 0, 1, 2, …
    are concatenated and cut into batches. Each example is therefore used once per epoch, none is
    dropped, and a batch may span two epochs.
    """
    first_epoch, offset = divmod(step * batch_size, examples)  # Python integers do not overflow
    return _rows(key, first_epoch, offset, examples=examples, batch_size=batch_size, steps=steps)


@partial(jax.jit, static_argnames=("examples", "batch_size", "steps"))
def _rows(key: jax.Array, first_epoch: int, offset: int, *, examples: int, batch_size: int, steps: int) -> jax.Array:
    epochs = 2 + steps * batch_size // examples  # the most epochs that these steps can span
    keys = jax.vmap(partial(jax.random.fold_in, key))(first_epoch + jnp.arange(epochs))
    order = jax.vmap(lambda k: jax.random.permutation(k, examples))(keys).ravel()
    return order[offset + jnp.arange(steps * batch_size)].reshape(steps, batch_size)

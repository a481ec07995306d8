"""Which examples a step sees: a pure function of (key, step), so that a run can be resumed, repeated and reasoned about."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def count_examples(data: Any) -> int:
    """The common length of the leading axis of all leaves of `data`.

    Raises:
        TypeError: `data` holds no array, or one without axes.
        ValueError: the leading axes differ.
    """
    leaves = jax.tree.leaves(data)
    if not leaves or any(getattr(leaf, "ndim", 0) == 0 for leaf in leaves):
        raise TypeError(
            f"data: got {type(data).__name__}, expected arrays whose leading axis counts examples, or a function of a key."
        )
    counts = {leaf.shape[0] for leaf in leaves}
    if len(counts) > 1:
        raise ValueError(f"data: got leading axes {sorted(counts)}, expected one number of examples for all arrays.")
    return counts.pop()


@partial(jax.jit, static_argnames=("examples", "batch_size", "steps"))
def _positions_to_examples(key: jax.Array, first_epoch: int, offset: int, *, examples: int, batch_size: int, steps: int):
    epochs = 2 + steps * batch_size // examples  # a window of that many positions touches at most so many epochs
    keys = jax.vmap(partial(jax.random.fold_in, key))(first_epoch + jnp.arange(epochs))
    order = jax.vmap(lambda k: jax.random.permutation(k, examples))(keys).ravel()
    return order[offset + jnp.arange(steps * batch_size)].reshape(steps, batch_size)


def batch_indices(key: jax.Array, step: int, *, examples: int, batch_size: int, steps: int) -> jax.Array:
    """The examples of `steps` batches from `step` on, `(steps, batch_size)`.

    The permutations of epoch 0, 1, 2, … stand one behind the other, and the batches are consecutive pieces: each example is seen
    once per epoch, none is dropped, and a batch may span two epochs. Epoch e is permuted by `fold_in(key, e)`.
    """
    first_epoch, offset = divmod(step * batch_size, examples)  # Python integers: no overflow however long the run
    return _positions_to_examples(key, first_epoch, offset, examples=examples, batch_size=batch_size, steps=steps)

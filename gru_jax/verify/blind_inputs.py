"""Finds properties of the inputs that hide faults.

A rule that forgets to sum over repeated indices is right for indices without repeats. No comparison
can show that, so the report announces it.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.verify.function import FlatFunction

_TOLERANCE = 1e-5  # of sums and norms that equal 1, which float32 does not hold exactly


def of_function(function: FlatFunction, leaves: tuple[np.ndarray, ...], constants: tuple[object, ...]) -> list[str]:
    """Returns what the inputs hide: a sentence for each property of an argument.

    Args:
        function: The function and its arguments.
        leaves: Its differentiable leaves in float64.
        constants: The arrays that it closes over.
    """
    blind: list[str] = []
    for name, leaf, given in zip(function.leaf_names, leaves, function.leaves, strict=True):
        blind += [f"{name} {text}" for text in _of_floating(leaf, given.shape)]
    named = [*zip(function.nondiff_names, function.nondiff_args, strict=True)]
    named += [("a static array", leaf) for leaf in function.static_args if isinstance(leaf, np.ndarray | jax.Array)]
    named += [("an array that the function closes over", leaf) for leaf in constants]
    for name, array in named:
        if hasattr(array, "dtype") and not jnp.issubdtype(array.dtype, jax.dtypes.extended):
            blind += [f"{name} {text}" for text in _of_other(np.asarray(array))]
    return list(dict.fromkeys(blind))


def _of_floating(leaf: np.ndarray, shape: tuple[int, ...]) -> Iterator[str]:
    finite = leaf[np.isfinite(leaf)]
    if not leaf.size or not finite.size:
        return
    if not finite.any():
        yield "is zero: faults in terms that it multiplies do not show"
    elif finite.size > 1 and (finite == finite.flat[0]).all():
        yield "is constant: swapped entries do not show"
    elif finite.size == 1 and finite.flat[0] == 1:
        yield "is exactly 1: a missing or an extra factor of it does not show"
    elif len(shape) == leaf.ndim and leaf.ndim >= 1 and leaf.size > 1 and np.isfinite(leaf).all():
        yield from _structure(leaf)
    if 1 in shape:
        yield f"has an axis of size 1 (axis {shape.index(1)}): a missing sum, mean or transpose over it does not show"


def _structure(leaf: np.ndarray) -> Iterator[str]:
    """Yields structure of a real array that random numbers do not have."""
    last = leaf.shape[-1]
    if leaf.ndim >= 2 and leaf.shape[-2] == last > 1 and np.array_equal(leaf, np.swapaxes(leaf, -1, -2)):
        yield "is symmetric: a missing transpose does not show"
    if last > 1:
        if np.allclose(leaf.sum(-1), 1, rtol=0, atol=_TOLERANCE):
            yield "sums to 1 over its last axis: a missing factor of that sum does not show"
        if np.allclose((leaf**2).sum(-1), 1, rtol=0, atol=_TOLERANCE):
            yield "has norm 1 over its last axis: a missing factor of that norm does not show"
    if last > 3 and (np.diff(leaf, axis=-1) > 0).all():
        yield "is sorted: a missing permutation does not show"


def _of_other(array: np.ndarray) -> Iterator[str]:
    if array.size < 2:
        return
    if array.dtype == bool and (array.all() or not array.any()):
        yield f"is {bool(array.flat[0])} everywhere: faults of the other case do not show"
    elif np.issubdtype(array.dtype, np.integer):
        if (array == array.flat[0]).all():
            yield "is constant: faults for other values do not show"
        elif len(np.unique(array)) == array.size:
            yield "has no repeated entry: a missing sum over repeated indices does not show"
    elif np.issubdtype(array.dtype, np.floating) and np.isin(array, [1.0]).all():
        yield "is 1 everywhere: a missing factor of it does not show"

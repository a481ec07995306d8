"""Helpers for pytrees of arrays with a leading time axis, shared by `bucketed` and `windows`."""

from typing import Any

import jax


def sequence_length(sequence: Any, name: str) -> int:
    """Returns the number of time steps that all arrays of a sequence share.

    Raises:
        TypeError: If the sequence contains no array, or a leaf without axes.
        ValueError: If its arrays have different lengths.
    """
    leaves = jax.tree.leaves(sequence)
    if not leaves or any(getattr(leaf, "ndim", 0) == 0 for leaf in leaves):
        raise TypeError(f"{name}: got {type(sequence).__name__}, expected arrays with a leading time axis.")
    lengths = {leaf.shape[0] for leaf in leaves}
    if len(lengths) > 1:
        raise ValueError(f"{name}: got arrays of {sorted(lengths)} steps, expected the same number of steps in all of them.")
    return lengths.pop()

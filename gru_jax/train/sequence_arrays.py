"""Helpers for pytrees of arrays with a leading time axis, shared by `bucketed` and `windows`."""

from typing import Any

import jax
import numpy as np

from gru_jax.train.arguments import check_numbers


def checked_lengths(sequences: Any) -> list[int]:
    """Returns the number of time steps of each sequence.

    Raises:
        TypeError: If `sequences` is not a list, or a sequence is not a pytree of arrays of numbers
            with a time axis.
        ValueError: If there is no sequence, the arrays of one differ in length, or two sequences
            have another structure or features.
    """
    if not isinstance(sequences, list):
        arrived = f"an array of shape {sequences.shape}" if hasattr(sequences, "shape") else type(sequences).__name__
        raise TypeError(
            f"sequences: got {arrived}, expected a list of sequences. For one sequence pass [sequence], for example [(xs, ys)]; for "
            "several, list(sequences)."
        )
    if not sequences:
        raise ValueError("sequences: got none, expected at least one.")
    lengths = [sequence_length(sequence, f"sequences[{i}]") for i, sequence in enumerate(sequences)]
    check_alike("sequences", sequences, first_axis=1)
    return lengths


def check_alike(name: str, trees: Any, *, first_axis: int) -> None:
    """Checks that trees have one structure, and their arrays the same axes from `first_axis` on.

    Raises:
        TypeError: If an array does not hold numbers.
        ValueError: If something differs.
    """
    shapes_of = lambda tree: [np.shape(leaf)[first_axis:] for leaf in jax.tree.leaves(tree)]
    structure, features = jax.tree.structure(trees[0]), shapes_of(trees[0])
    for i, tree in enumerate(trees):
        check_numbers(f"{name}[{i}]", tree)
        found: Any = jax.tree.structure(tree)
        shapes = shapes_of(tree)
        if found != structure:
            raise ValueError(f"{name}[{i}]: got the structure {found}, expected {structure} like {name}[0].")
        if shapes != features:
            raise ValueError(f"{name}[{i}]: got features of shape {shapes}, expected {features} like {name}[0].")


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

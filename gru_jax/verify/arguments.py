"""Sorts the leaves of the arguments of a function by kind, and names them.

    differentiable       floating and complex arrays, and Python floats and complex numbers
    non-differentiable   arrays of integers, booleans or PRNG keys, which JAX traces
    static               everything else, and integer arrays whose values Python code needs

`wrt` and `static` change the kind of the leaves that they name.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Kind = Literal["differentiable", "non-differentiable", "static"]


class SortedArguments(NamedTuple):
    """The leaves of the arguments, by kind.

    Attributes:
        structure: Tree structure of the positional and keyword arguments.
        everything: All leaves.
        names: Name of each leaf, for example "params.U_h".
        kinds: Kind of each leaf.
    """

    structure: Any
    everything: tuple[Any, ...]
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]

    def of_kind(self, kind: Kind) -> tuple[Any, ...]:
        """Returns the leaves of one kind."""
        return tuple(leaf for leaf, own in zip(self.everything, self.kinds, strict=True) if own == kind)

    def names_of_kind(self, kind: Kind) -> tuple[str, ...]:
        """Returns the names of the leaves of one kind."""
        return tuple(name for name, own in zip(self.names, self.kinds, strict=True) if own == kind)


def sort_arguments(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    wrt: Sequence[str] | None,
    static: Sequence[str],
) -> SortedArguments:
    """Sorts the leaves of `args` and `kwargs`.

    Args:
        fun: The function, whose signature names the arguments.
        args: Positional arguments.
        kwargs: Keyword arguments.
        wrt: Names of the leaves or arguments to differentiate. None means all floating ones.
        static: Names of the leaves or arguments that JAX must not trace.

    Raises:
        ValueError: If `wrt` or `static` names an argument that does not exist.
    """
    paths_and_leaves, structure = jax.tree.flatten_with_path((args, dict(kwargs)))
    everything = tuple(leaf for _, leaf in paths_and_leaves)
    names = _leaf_names(fun, [path for path, _ in paths_and_leaves])
    for option, chosen in {"wrt": wrt or (), "static": static}.items():
        check_names(option, chosen, names)

    def kind(name: str, leaf: Any) -> Kind:
        own = "static" if names_leaf(static, name) else _kind(leaf)
        if own != "differentiable" or wrt is None or names_leaf(wrt, name):
            return own
        return "static" if isinstance(leaf, float | complex) else "non-differentiable"

    kinds = tuple(kind(name, leaf) for name, leaf in zip(names, everything, strict=True))
    return SortedArguments(structure, everything, tuple(names), kinds)


def argument_of(leaf_name: str) -> str:
    """Returns the name of the argument that contains a leaf: "params" for "params.U_h"."""
    return leaf_name.replace("[", ".").split(".")[0] if not leaf_name.startswith("args[") else leaf_name.split("]")[0] + "]"


def names_leaf(chosen: Sequence[str], leaf_name: str) -> bool:
    """Returns whether `chosen` has the name of a leaf, or that of the argument that contains it."""
    return leaf_name in chosen or argument_of(leaf_name) in chosen


def check_names(option: str, chosen: Sequence[str], names: Sequence[str]) -> None:
    """Raises a ValueError if `chosen`, the value of an option, names no leaf and no argument."""
    for name in chosen:
        if not any(names_leaf([name], leaf) for leaf in names):
            arguments = ", ".join(dict.fromkeys(map(argument_of, names)))
            raise ValueError(f"{option} must name arguments or arrays in them, got {name!r}; the arguments are {arguments}")


def _kind(leaf: Any) -> Kind:
    if isinstance(leaf, bool | int):
        return "static"
    if isinstance(leaf, float | complex):
        return "differentiable"
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return "static"
    return "differentiable" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "non-differentiable"


def _leaf_names(fun: Any, paths: Sequence[Any]) -> list[str]:
    """Names each leaf by its argument and its path in it, as in params.U_h, xs, args[2]['w']."""
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

    def argument(path: Any) -> str:
        if path[0].idx == 1:  # the keyword arguments
            return path[1].key
        return positional[path[1].idx] if path[1].idx < len(positional) else f"args[{path[1].idx}]"

    return [argument(path) + jax.tree_util.keystr(path[2:]) for path in paths]

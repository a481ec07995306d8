"""Checks the names in a mapping of tensors, and flattens nested mappings to names with slashes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def check_names(
    names: Iterable[str], *, required: Sequence[str], optional: Sequence[str] = (), label: str, hint: str = ""
) -> bool:
    """Checks that `names` are the required ones, with either all or none of the optional ones.

    Args:
        names: The names to check.
        required: The names that must be present.
        optional: The names of which all or none must be present, for example the biases.
        label: What the error message calls the mapping.
        hint: A sentence to put at the end of the error message.

    Returns:
        Whether the optional names are present.

    Raises:
        ValueError: If a name is missing or unexpected.
    """
    found = set(names)
    has_optional = any(name in found for name in optional)
    expected = [*required, *(optional if has_optional else ())]
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing {_quoted(missing)}")
    if unexpected := sorted(found - set(expected)):
        problems.append(f"unexpected {_quoted(unexpected)}")
    if problems:
        with_bias = f" and, with a bias, {_quoted(optional)}" if optional and not has_optional else ""
        message = f"{label}: {'; '.join(problems)}. Expected {_quoted(expected)}{with_bias}."
        raise ValueError(f"{message} {hint}" if hint else message)
    return has_optional


def flatten(tree: Any, label: str) -> dict[str, Any]:
    """Flattens nested mappings: `{"a": {"b": leaf}}` becomes `{"a/b": leaf}`.

    Raises:
        TypeError: If `tree` is not a mapping. The message calls it `label`.
    """
    if not isinstance(tree, Mapping):
        raise TypeError(f"{label}: got {type(tree).__name__}, expected a mapping of names to arrays.")
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{path}": leaf for path, leaf in flatten(value, f"{label}[{key!r}]").items()}
        else:
            flat[str(key)] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverts `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))

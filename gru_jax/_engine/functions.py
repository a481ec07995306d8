"""Functions with their first arguments fixed, which compare by value, so that equal cells are
equal after a copy.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Bound:
    """A function with its first arguments fixed, like `functools.partial`.

    Two of them are equal if function and arguments are; two partials never are. So cells made of
    these survive `pickle` and `copy.deepcopy`: the copy compares equal, hashes equal and is not
    traced again by `jax.jit`.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Calls the function."""
        return self.function(*self.arguments, *arguments, **dict(self.keywords), **keywords)


def bind(function: Callable[..., Any], *arguments: Any) -> Bound:
    """Fixes the first arguments of a function."""
    return Bound(function, arguments)


def comparable(value: Any) -> Any:
    """Turns a `functools.partial` with hashable arguments into a `Bound`; returns anything else
    unchanged.
    """
    if type(value) is not partial:
        return value
    bound = Bound(value.func, value.args, tuple(sorted(value.keywords.items())))
    try:
        hash(bound)
    except TypeError:  # an argument such as an array or a list: compared by identity, as before
        return value
    return bound


def make_comparable(value: Any) -> None:
    """Replaces `functools.partial` in the fields of a frozen dataclass by functions that compare
    by value.
    """
    for each in fields(value):
        object.__setattr__(value, each.name, comparable(getattr(value, each.name)))

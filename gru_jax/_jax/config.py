"""JAX's settings: public flags, and flags that only some versions have."""

from contextlib import AbstractContextManager
from typing import Any

import jax


def x64() -> bool:
    """Returns whether arrays may be float64 in this context."""
    return bool(jax.config.read("jax_enable_x64"))


def configured(flag: str, value: bool) -> AbstractContextManager[Any]:
    """Returns a context in which JAX's experimental `flag` is `value`.

    Raises:
        AttributeError: If this version of JAX has no such flag.
    """
    import jax._src.config as states

    return getattr(states, flag.removeprefix("jax_"))(value)


def constants_are_arguments() -> bool:
    """Returns whether lowered programs take their constants as hidden arguments.

    If they do, programs with different constants lower to the same text.
    """
    return bool(getattr(jax.config, "jax_use_simplified_jaxpr_constants", False))

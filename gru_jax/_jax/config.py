"""JAX's flags: those that are public, and those that only some versions have."""

from contextlib import AbstractContextManager
from typing import Any

import jax


def x64() -> bool:
    """Whether arrays may be float64 here."""
    return bool(jax.config.read("jax_enable_x64"))


def configured(flag: str, value: bool) -> AbstractContextManager[Any]:
    """A context in which JAX's experimental `flag` is `value`. Raises AttributeError where this JAX has no such flag."""
    import jax._src.config as states

    return getattr(states, flag.removeprefix("jax_"))(value)


def constants_are_arguments() -> bool:
    """Whether lowered programs take their constants as hidden arguments, so that their text does not tell them apart."""
    return bool(getattr(jax.config, "jax_use_simplified_jaxpr_constants", False))

"""Registers types with `jax.export`, so that a program with them can be written to a file."""

from typing import TypeVar

from jax import export

T = TypeVar("T")


def serializable(named_tuple: type[T]) -> type[T]:
    """Registers a NamedTuple under its public name. Use it as a decorator."""
    return export.register_namedtuple_serialization(named_tuple, serialized_name=f"gru_jax.{named_tuple.__name__}")

"""Exceptions: the form in which a report quotes one, and those of code that cannot be traced."""

import jax

# Raised by JAX where Python code, such as a call of NumPy, needs the value of a traced array.
VALUE_NEEDED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def short_message(error: BaseException, longest: int = 200) -> str:
    """Returns the type of an error and the first line of its message, up to `longest` characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:longest]}"

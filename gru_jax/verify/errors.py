"""The form in which a report quotes an exception."""


def short_message(error: BaseException, longest: int = 200) -> str:
    """Returns the type of an error and the first line of its message, up to `longest` characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:longest]}"

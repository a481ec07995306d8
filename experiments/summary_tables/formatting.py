"""Reads the committed records, and formats numbers and Markdown tables."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
NONE = "–"  # the content of a cell without a number
SEEDED = ("", "published or expected", "mean over seeds", "worst seed")
SINGLE = ("", "published or expected", "result")
Row = tuple[str, ...]


@cache
def record(name: str) -> dict[str, Any]:
    """Returns the committed record of an experiment."""
    return json.loads((ROOT / "experiments" / "results" / name / "results.json").read_text("utf-8"))


def summary(name: str) -> dict[str, Any]:
    """Returns the summary of a committed record."""
    return record(name)["summary"]


def markdown(header: Row, rows: Iterable[Row]) -> str:
    """Formats a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    assert len({len(line) for line in lines}) == 1, lines
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(digits: int) -> Callable[[float], str]:
    """Returns a function that formats a fraction as a percentage."""
    return lambda value: f"{100 * value:.{digits}f} %"


def fixed(digits: int) -> Callable[[float], str]:
    """Returns a function that formats a number with a fixed number of digits."""
    return lambda value: f"{value:.{digits}f}"


def scientific(value: float) -> str:
    """Formats a number with two significant digits."""
    return f"{value:.1e}"


def over_seeds(
    values: Sequence[float], form: Callable[[float], str], worst: Callable[[Sequence[float]], float]
) -> tuple[str, str]:
    """Formats the mean over seeds and the worst seed. `worst` is `min` or `max`."""
    return form(float(np.mean(values))), form(worst(values))

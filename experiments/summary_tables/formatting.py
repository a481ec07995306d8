"""Reads the committed records, and formats numbers and Markdown tables."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
NONE = "–"  # the content of a cell without a number
SEEDED = ("", "published or expected", "source", "mean over seeds", "worst seed")
SINGLE = ("", "published or expected", "result")
SOURCED = ("", "published or expected", "source", "result")
OURS = "expected"  # the source of a number that an experiment expected before it was run
BAI = "[Bai 2018](https://arxiv.org/abs/1803.01271)"
CHUNG = "[Chung 2014](https://arxiv.org/abs/1412.3555)"
NANOGPT = "[nanoGPT](https://github.com/karpathy/nanoGPT)"
PASCANU = "[Pascanu 2013](https://arxiv.org/abs/1211.5063)"
ROELANTS = "[Roelants](https://peterroelants.github.io/posts/rnn-implementation-part01/)"
SEO = "[Seo](https://github.com/JaeDukSeo/Personal_Daily_NeuralNetwork_Practice)"
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

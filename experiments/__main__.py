"""Lists the experiments: `python -m experiments`."""

import ast
import json
import shutil
import textwrap
from pathlib import Path

SUPPORT = ("__init__", "__main__", "common", "data", "network")

USAGE = """\
Usage: python -m experiments.NAME [--quick] [--seed N] [--out DIR]
                                  [--device cpu|gpu]

Each experiment answers one question. It writes results.json and its figures to
runs/NAME (or DIR), says so, and prints a one-line JSON summary last. Ctrl-C
stops a run; results are written when a run ends.

Experiments, with the minutes of a full run on two CPU cores:
{experiments}

Help for one experiment:   python -m experiments.NAME --help
Short examples to copy:    experiments/recipes
Committed results:         experiments/README.md"""


def experiments() -> dict[str, str]:
    """Returns the name and the question of every experiment, without importing it.

    The question is the first line of the file's docstring.
    """
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem not in SUPPORT)
    return {path.stem: (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")[0] for path in files}


def minutes(name: str) -> int | None:
    """Returns the minutes that the committed run of an experiment took, at least 1.

    Returns None for a new experiment, which has no committed run.
    """
    record = Path(__file__).parent / "results" / name / "results.json"
    if not record.exists():
        return None
    return max(round(json.loads(record.read_text("utf-8"))["seconds"] / 60), 1)


def listing(columns: int) -> str:
    """Returns a line for each experiment, wrapped to a number of columns."""
    listed = experiments()
    width = max(map(len, listed))
    heads = {name: f"  {name:<{width}}  {minutes(name) or '?':>2}  " for name in listed}
    return "\n".join(
        textwrap.fill(question, columns, initial_indent=heads[name], subsequent_indent=" " * len(heads[name]))
        for name, question in listed.items()
    )


if __name__ == "__main__":
    print(USAGE.format(experiments=listing(shutil.get_terminal_size().columns)))

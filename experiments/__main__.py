"""Lists the experiments: `python -m experiments`."""

import ast
from pathlib import Path

SUPPORT = ("__init__", "__main__", "common", "data", "network")

USAGE = """\
Usage: python -m experiments.NAME [--quick] [--seed N] [--device cpu|gpu] [--out DIR]

Each experiment answers one question. It writes results.json and its figures to
runs/NAME (or DIR), says so, and prints a one-line JSON summary last. Ctrl-C
stops a run; results are written when a run ends.

Experiments:
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


if __name__ == "__main__":
    listed = experiments()
    width = max(map(len, listed))
    print(USAGE.format(experiments="\n".join(f"  {name:<{width}}  {question}" for name, question in listed.items())))

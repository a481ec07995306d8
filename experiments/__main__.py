"""Lists the experiments: `python -m experiments`."""

import ast
from pathlib import Path

SUPPORT = ("__init__", "__main__", "common", "data", "network")


def experiments() -> dict[str, str]:
    """Name and question (the docstring's first line) of every experiment, without importing it."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem not in SUPPORT)
    return {path.stem: (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")[0] for path in files}


if __name__ == "__main__":
    for name, question in experiments().items():
        print(f"python -m experiments.{name:<16} {question}")
    print("\nEach takes --quick, --seed N and --out DIR; writes results.json and PNG figures; prints a JSON summary last.")
    print("Short files to copy from are in experiments/recipes.")

"""Turns the library's docstrings, which are written for `help()`, into reStructuredText.

A name in backquotes becomes a link if it is a public name, and code otherwise. An indented block
becomes a literal block, so that equations keep their lines. A Markdown table becomes a table.
"""

import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import gru_jax

PARTS = ("", "cells.", "initializers.", "layers.", "ops.", "heads.", "flow.", "plot.", "convert.", "train.", "verify.")
SECTION = re.compile(r"(Args|Returns|Raises|Example|Attributes|Data|Optimisation|Evaluation|Checkpoints|Devices):")
CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")
NAME = re.compile(r"(?:gj\.|gru_jax\.)?([A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)


def public_names() -> dict[str, str]:
    """Returns the full names of the public functions and classes, by the names they are written with."""
    found = {}
    for part in PARTS:
        module = gru_jax if not part else getattr(gru_jax, part[:-1])
        for name, value in vars(module).items():
            is_ours = str(getattr(value, "__module__", "")).startswith("gru_jax")
            if name[0] != "_" and is_ours and (inspect.isfunction(value) or inspect.isclass(value)):
                found[f"{part}{name}"] = f"gru_jax.{part}{name}"
                found.setdefault(name, f"gru_jax.{part}{name}")
    return found


def link(names: dict[str, str], match: re.Match[str]) -> str:
    """Returns the reStructuredText of one piece of code in backquotes."""
    text = " ".join(match[1].split())
    name = NAME.fullmatch(text)
    if name and name[1] in names:
        return f":py:obj:`{text} <{names[name[1]]}>`"
    return f"``{text}``"


def literal_blocks(lines: list[str]) -> list[str]:
    """Makes each indented block outside the sections a block of equations or of examples."""
    result: list[str] = []
    in_section, kind = False, ""
    for line in lines:
        if line.strip() and not line.startswith("    "):
            in_section, kind = SECTION.fullmatch(line.strip()) is not None, ""
        elif line.strip() and not in_section:
            starts = not result or not result[-1].strip()
            if starts and line.startswith("    >>>"):
                kind = "example"
            elif starts and kind != "equations":
                kind = "equations"
                result += [".. code-block:: text", ""]
            if kind == "example":
                line = line[4:]
        result.append(line)
    return result


def table(rows: list[str]) -> list[str]:
    """Converts the rows of a Markdown table, at one level of indentation."""
    margin = rows[0][: len(rows[0]) - len(rows[0].lstrip())]
    result = [f"{margin}.. list-table::", f"{margin}   :header-rows: 1", ""]
    for row in rows[:1] + rows[2:]:
        for i, cell in enumerate(row.strip().strip("|").split("|")):
            result.append(f"{margin}   {'* -' if i == 0 else '  -'} {cell.strip()}")
    return [*result, ""]


def tables_and_lists(lines: list[str]) -> list[str]:
    """Converts Markdown tables, and puts the empty line before a list that reStructuredText requires."""
    result: list[str] = []
    rows: list[str] = []
    for line in [*lines, ""]:
        if line.lstrip().startswith(("| ", "|-")):
            rows.append(line)
            continue
        if rows:
            result += ["", *table(rows)]
            rows = []
        text = line.lstrip()
        if text.startswith("- ") and result and result[-1].strip() and not result[-1].lstrip().startswith("- "):
            result.append("")
        result.append(line)
    return result[:-1]


def process(app: Any, what: str, name: str, target: Any, options: Any, lines: list[str]) -> None:
    """Rewrites the lines of a docstring in place, before Napoleon reads its sections."""
    names = app.env.gru_jax_names = getattr(app.env, "gru_jax_names", None) or public_names()
    text = CODE.sub(lambda match: link(names, match), "\n".join(lines))
    text = re.sub(r"\|(\w+)\|", r"\\|\1\\|", text)  # |params| is a size, not a substitution
    lines[:] = literal_blocks(tables_and_lists(text.split("\n")))


def skip_fields(app: Any, what: str, name: str, target: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of NamedTuples, which the section Attributes of the class describes."""
    return True if str(getattr(target, "__doc__", "")).startswith("Alias for field number") else None


class Derivation(SphinxDirective):
    """Shows the docstring of a cell's module, which holds its derivation, line by line."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Returns the docstring as a literal block."""
        text = inspect.getdoc(importlib.import_module(self.arguments[0]))
        block = nodes.literal_block(text, text, language="text")
        block["classes"] += ["derivation"]
        return [block]


def setup(app: Any) -> dict[str, bool]:
    """Connects the extension."""
    app.add_directive("derivation", Derivation)
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

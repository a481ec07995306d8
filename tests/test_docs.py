"""The documentation: its code runs, its reference is complete, and its pages have the parts that they promise.

Cells of the form ```` ```{code-cell} ```` are executed by the build, which `-W` makes fail on an exception.
"""

import inspect
import re
import tomllib
from pathlib import Path

import jax
import pytest

import gru_jax as gj

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts
}
TUTORIALS = [name for name in PAGES if name.startswith("tutorials/") and not name.endswith("index.md")]
GUIDES = [name for name in PAGES if name.startswith("how-to/") and not name.endswith("index.md")]
NOT_RUN = re.compile(r"% not run: (\w.*)\n\Z")

# Blocks that a reader runs but the build does not, by page, with the text before each.
BLOCKS = [
    (name, text[: match.start()], match[1])
    for name, text in PAGES.items()
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("name", "before", "code"), BLOCKS, ids=[block[0] for block in BLOCKS])
def test_a_block_that_the_build_does_not_execute_runs_or_says_why_not(name, before, code):
    if not NOT_RUN.search(before):
        with jax.enable_x64(False):
            exec(compile(code, name, "exec"), {})


def test_there_are_such_blocks_of_both_kinds():
    assert {bool(NOT_RUN.search(before)) for _, before, _ in BLOCKS} == {True, False}


def public():
    """Yields the full name and the value of every function and class of the package and of its public modules."""
    parts = ("cells", "initializers", "layers", "ops", "heads", "flow", "plot", "convert", "train", "verify")
    for prefix, module in [("gru_jax", gj), *((f"gru_jax.{part}", getattr(gj, part)) for part in parts)]:
        for name, value in vars(module).items():
            ours = str(getattr(value, "__module__", "")).startswith("gru_jax")
            if ours and name[0] != "_" and (inspect.isfunction(value) or inspect.isclass(value)):
                yield f"{prefix}.{name}", value


def test_the_reference_has_every_public_name_once():
    names = dict(public())
    documented = re.findall(r"^\.\. auto(?:function|class):: (\S+)$", "\n".join(PAGES.values()), re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) <= set(names)
    shown = {id(names[name]) for name in documented}
    assert {name for name, value in names.items() if id(value) not in shown} == set()


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_asks_first_ends_with_an_exercise_and_links_its_source(name):
    body = PAGES[name].split("---", 2)[2]
    assert re.match(r"\s*# .+\n\n\*\*Question\.\*\* ", body)
    assert body.rindex("\n## ") == body.index("\n## Exercise\n")
    assert "https://" in body, "no link to a source"
    assert "$$" in body
    assert body.count("```{code-cell}") >= 2


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_runs(name):
    assert PAGES[name].startswith("---\nfile_format: mystnb\n")
    assert "```{code-cell} ipython3" in PAGES[name]


@pytest.mark.parametrize("folder", ["tutorials", "how-to", "api"])
def test_an_index_lists_and_links_every_page_of_its_folder(folder):
    index = PAGES[f"{folder}/index.md"]
    pages = {name.split("/")[1] for name in PAGES if name.startswith(f"{folder}/")} - {"index.md"}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", index)) == pages
    assert set(index.split(":hidden:\n")[1].split("```")[0].split()) == {page.removesuffix(".md") for page in pages}


def test_pages_show_the_figures_of_every_experiment_that_has_one():
    results = DOCS.parent / "experiments" / "results"
    shown = {match for page in PAGES.values() for match in re.findall(r"experiments/results/(\w+)/\w+\.png", page)}
    assert shown == {path.parent.name for path in results.glob("*/*.png")}


def test_the_documentation_of_the_package_names_the_extra_that_builds_it():
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    assert "docs" in project["optional-dependencies"]
    assert '.venv/bin/pip install -e ".[docs]" && .venv/bin/python -m sphinx -W docs docs/_build/html' in readme

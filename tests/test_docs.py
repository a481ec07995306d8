"""The documentation: its code runs, its reference is complete, and its pages have the parts that they promise.

Cells of the form ```` ```{code-cell} ```` are executed by the build, which `-W` makes fail on an exception.
"""

import re
import tomllib
from pathlib import Path

import jax
import pytest
from test_structure import PUBLIC

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


def test_the_reference_has_every_public_name():
    documented = re.findall(r"^\.\. auto(?:function|class):: (\S+)$", "".join(PAGES.values()), re.MULTILINE)
    assert len(documented) == len(set(documented))
    shown = {id(PUBLIC[name]) for name in documented if name in PUBLIC}
    assert set(documented) <= set(PUBLIC)
    assert {name for name, value in PUBLIC.items() if id(value) not in shown} == set()


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_asks_first_ends_with_an_exercise_and_links_its_source(name):
    body = PAGES[name].split("---", 2)[2]
    assert re.match(r"\s*# .+\n\n\*\*Question\.\*\* ", body)
    assert body.rindex("\n## ") == body.index("\n## Exercise\n")
    assert re.search(r"\]\(https://", body), "no link to a source"
    assert body.index("$$") < len(body) and body.count("```{code-cell}") >= 2


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
    assert 'pip install -e ".[docs]" && python -m sphinx -W docs docs/_build/html' in readme

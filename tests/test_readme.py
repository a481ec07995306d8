"""Tests that the examples of the README and of the docstrings run as printed, and that the README's links exist."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import pytest

import gru_jax

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
MODULES = [module.name for module in pkgutil.walk_packages(gru_jax.__path__, "gru_jax.")]


@pytest.fixture
def float32_as_users_have_it():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", before)


def test_readme_examples_run_as_printed(float32_as_users_have_it):
    failed, attempted = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert attempted >= 5
    assert failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run_as_printed(name, float32_as_users_have_it):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_cell_docstring_has_an_example_of_a_custom_cell():
    import gru_jax.cell

    examples = [test for test in doctest.DocTestFinder().find(gru_jax.cell.Cell) if test.examples]
    assert examples


def test_files_linked_by_the_readme_exist():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_first_readme_example_is_short():
    demo = README.split("```python")[1].split("```")[0].strip().splitlines()
    assert len([line for line in demo if line.startswith((">>>", "..."))]) <= 12

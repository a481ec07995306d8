"""The examples of the README run as printed, and the files that it links to exist."""

import doctest
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


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


def test_files_linked_by_the_readme_exist():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_first_readme_example_is_short():
    demo = README.split("```python")[1].split("```")[0].strip().splitlines()
    assert len([line for line in demo if line.startswith((">>>", "..."))]) <= 12


def test_the_readme_fits_two_screens():
    assert len(README.splitlines()) <= 120
    table = README.split("<!-- table: main_results -->")[1].split("<!-- end -->")[0]
    assert len(table.strip().splitlines()) <= 2 + 8

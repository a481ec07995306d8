"""The structure of the package: imports, documentation, sizes of files, and version."""

import ast
import graphlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import gru_jax as gj

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gru_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part may import besides itself.
MAY_IMPORT = {
    "_jax": set(),
    "_files": set(),
    "derivative": {"_engine"},
    "ops": {"_engine", "_jax"},
    "_engine": {"_jax", "derivative", "ops"},
    "adjoint": {"_engine"},
    "cell": {"_engine", "adjoint"},
    "unroll": {"_engine", "_jax", "derivative"},
    "step": {"_engine"},
    "truncated": {"_engine", "_jax", "unroll"},
    "cells": {"_engine", "_jax", "cell", "ops"},
    "layers": {"_engine", "_jax", "cell"},
    "flow": {"_engine", "_jax", "cell", "layers", "unroll"},
    "plot": set(),
    "heads": {"_jax"},
    "train": {"_files", "_jax"},
    "convert": {"_engine", "_files", "_jax", "cell", "cells", "layers"},  # has a table for each cell
    "verify": {"_jax"},  # checks any function; only cases.py knows the cells, and imports them when called
}
MAY_IMPORT["__init__"] = set(MAY_IMPORT) - {"_engine", "_files", "_jax"}
CORE_DEPENDENCIES = {"jax", "jaxlib", "jaxtyping", "numpy", "optax"}


@cache
def parsed(path):
    return ast.parse(path.read_text("utf-8"))


@cache
def imported(path):
    """Returns the name and the statement of every import of a file, including those in functions."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "gru_jax":
                found += [(f"gru_jax.{alias.name}", node) for alias in node.names]
            else:
                found.append((node.module, node))
    return found


def part_of(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_part_imports_only_the_parts_below_it(path):
    for name, _ in imported(path):
        if name.startswith("gru_jax."):
            target = name.split(".")[1]
            assert target == part_of(path) or target in MAY_IMPORT[part_of(path)], f"{path} imports {name}"


def module_of(name):
    """Returns the module that a dotted name is, or is defined in."""
    while not any((ROOT / f"{name.replace('.', '/')}{ending}").exists() for ending in (".py", "/__init__.py")):
        name = name.rpartition(".")[0]
    return name


def test_no_test_module_imports_another():
    """What tests share stands in modules whose names do not begin with `test_`."""
    for path in sorted(ROOT.glob("tests/**/*.py")):
        for name, node in imported(path):
            names = [name, *(alias.name for alias in node.names)]
            assert not any(part.startswith("test_") for each in names for part in each.split(".")), f"{path} imports {name}"


def test_there_is_no_import_cycle():
    imports = {}
    for path in FILES:
        tree = parsed(path)
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        statements = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module.startswith("gru_jax")]
        names = (f"{node.module}.{alias.name}" for node in statements for alias in node.names)
        imports[module] = {module_of(name) for name in names}
    graphlib.TopologicalSorter(imports).prepare()  # raises if there is a cycle


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_optional_dependencies_are_imported_inside_functions(path):
    allowed = CORE_DEPENDENCIES | {"gru_jax"} | sys.stdlib_module_names
    for name, node in imported(path):
        top = name.split(".")[0]
        if top not in allowed:
            assert node.lineno not in {n.lineno for n in parsed(path).body}, f"{path} imports {top} at its top"


def test_importing_the_package_imports_no_optional_dependency():
    code = "import sys, gru_jax; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    extras = {re.split(r"[>=<\[]", item)[0].replace("-", "_") for extra in optional().values() for item in extra}
    # JAX itself loads flatbuffers where it is installed
    assert not loaded & (extras - {"gru_jax", "jax", "flatbuffers"} | {"sklearn", "torch", "haiku"})


def optional():
    return project()["optional-dependencies"]


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_package_has_five_dependencies():
    assert {re.split(r"[>=<]", item)[0] for item in project()["dependencies"]} == CORE_DEPENDENCIES


def public(module=gj, name="gru_jax"):
    """Yields the dotted name and the object of everything that is reachable by public names."""
    for attribute in sorted(vars(module)):
        value = getattr(module, attribute)
        if attribute.startswith("_"):
            continue
        home = getattr(value, "__module__", None) or getattr(value, "__name__", "")
        if inspect.ismodule(value) and value.__name__.startswith("gru_jax"):
            yield from public(value, f"{name}.{attribute}")
        elif str(home).startswith("gru_jax") and (inspect.isclass(value) or inspect.isfunction(value)):
            yield f"{name}.{attribute}", value


PUBLIC = dict(public())


def test_the_public_names_exist():
    here = {name.removeprefix("gru_jax.") for name in PUBLIC}
    assert {"verify_vjp", "assert_vjp", "verify.Report", "verify.Check"} <= here
    core = {"Cell", "Adjoint", "Tangent", "CustomVJP", "CustomJVP", "Autodiff", "ops.dot", "ops.outer_sum"}
    cells = {"gru", "lstm", "elman", "linear_rnn", "initializers.chrono"}
    wrappers = {"stack", "bidirectional", "feedforward", "zoneout", "variational_dropout"}
    libraries = {"pytorch", "keras", "flax_linen", "flax_nnx", "haiku", "equinox", "onnx"}
    assert {f"convert.{way}_{library}" for way in ("from", "to") for library in libraries} <= here
    assert {f"convert.{way}_{kind}" for way in ("load", "save") for kind in ("onnx", "safetensors")} <= here
    assert core | cells | wrappers | {"unroll", "step", "unroll_truncated", "heads.dense", "train.fit"} <= here


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.count(".") <= 2])
def test_every_public_name_has_a_docstring(name):
    documented = [PUBLIC[name]]
    if inspect.isclass(PUBLIC[name]):
        documented += [m for key, m in vars(PUBLIC[name]).items() if inspect.isfunction(m) and key[0] != "_"]
    for item in documented:
        assert inspect.getdoc(item), f"{name}: {item}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_a_docstring_and_at_most_300_lines(path):
    text = path.read_text("utf-8")
    assert ast.get_docstring(parsed(path))
    assert len(text.splitlines()) <= 300
    assert not re.search(r"^\s*(import pickle|from pickle)|allow_pickle=True|\beval\(", text, re.MULTILINE)


def test_only_the_package_jax_uses_unstable_modules_of_jax():
    unstable = ("jax._src", "jax.interpreters", "jax.extend", "jax.experimental")
    for path in FILES:
        if path.parent.name != "_jax":
            assert not any(name.startswith(unstable) for name, _ in imported(path)), path


def test_the_version_is_that_of_the_installed_package_and_of_the_changelog():
    assert importlib.metadata.version("gru_jax") == gj.__version__
    assert f"## {gj.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_pre_commit_pins_the_linters_of_the_dev_extra():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    pins = dict(item.split("==") for item in optional()["dev"] if "==" in item)
    assert f"rev: v{pins['ruff']}" in hooks
    assert f"rev: v{pins['mypy']}" in hooks

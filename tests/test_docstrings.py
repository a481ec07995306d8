"""The examples in all docstrings run as printed."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import pytest

import gru_jax as gj

MODULES = {
    module.name: importlib.import_module(module.name)
    for module in pkgutil.walk_packages(gj.__path__, "gru_jax.")
    if not module.name.endswith("__main__")
}
WITH_EXAMPLES = [name for name, module in MODULES.items() if ">>>" in inspect.getsource(module)]
NEEDS = {"gru_jax.convert.keras_files": "h5py"}  # skipped where an extra was installed before it had this package
CORE = {
    "gru_jax.cell",
    "gru_jax.derivative",
    "gru_jax.ops",
    "gru_jax.unroll",
    "gru_jax.step",
    "gru_jax.truncated",
    "gru_jax._engine.layer",
    *(f"gru_jax.cells.{name}" for name in ("linear", "elman", "activations", "gru", "make_lstm", "letters", "initializers")),
    *(f"gru_jax.layers.{name}" for name in ("stack", "bidirectional", "feedforward", "dropout", "zoneout")),
}


@pytest.fixture
def float32_as_users_have_it():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", before)


def test_the_core_modules_have_examples():
    assert set(WITH_EXAMPLES) >= CORE


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run_as_printed(name, float32_as_users_have_it):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    failed, attempted = doctest.testmod(MODULES[name])
    assert attempted
    assert failed == 0


PUBLIC_FUNCTIONS = {
    f"{module.__name__}.{name}": value
    for module in (gj, gj.initializers, gj.ops, gj.heads, gj.flow, gj.plot, gj.convert, gj.train, gj.verify)
    for name, value in vars(module).items()
    if inspect.isfunction(value) and not name.startswith("_") and value.__module__.startswith("gru_jax")
}


@pytest.mark.parametrize("name", PUBLIC_FUNCTIONS)
def test_every_public_function_has_an_example(name):
    assert ">>>" in inspect.getdoc(PUBLIC_FUNCTIONS[name])

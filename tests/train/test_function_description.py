"""What can be known of functions: hyperparameters, names and the user's own code."""

import functools
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from gru_jax.train.function_description import describe_function, describe_functions, differences_of_functions

FACTOR = 3.0


def helper(x):
    return x * FACTOR


def make_loss(scale, table, cell=gj.gru()):
    def loss_fn(params, batch, key, *, power=2):
        """Computes a loss."""
        return (helper(gj.unroll(cell, params, batch)[0] * scale + table) ** power).mean(), {}

    return loss_fn


def edited_loss(scale, table, cell=gj.gru()):
    def loss_fn(params, batch, key, *, power=2):
        """Computes another loss."""
        return (helper(gj.unroll(cell, params, batch)[0] * scale - table) ** power).mean(), {}

    loss_fn.__qualname__ = "make_loss.<locals>.loss_fn"
    return loss_fn


TABLE = jnp.arange(3.0)
CASES = {
    "a rate": (optax.adam(1e-3), optax.adam(1e-2), r"update\.update_fns\[1\].*step_size was -0\.001 and is -0\.01"),
    "a schedule": (optax.sgd(optax.linear_schedule(0.1, 0.0, 10)), optax.sgd(optax.linear_schedule(0.1, 0.0, 20)), r"transition_steps was 10 and is 20"),
    "a rate in a wrapper": (optax.MultiSteps(optax.sgd(0.1), 2), optax.MultiSteps(optax.sgd(0.2), 2), r"step_size was -0\.1 and is -0\.2"),
    "an injected rate": (optax.inject_hyperparams(optax.sgd)(0.1), optax.inject_hyperparams(optax.sgd)(0.2), r"init\..*learning_rate'\] was 0\.1 and is 0\.2"),
    "another optimiser": (optax.adam(1e-3), optax.sgd(1e-3), r"scale_by_adam.* and is "),
    "a number in a closure": (make_loss(1.0, TABLE), make_loss(2.0, TABLE), r"scale was 1\.0 and is 2\.0"),
    "an array in a closure": (make_loss(1.0, TABLE), make_loss(1.0, TABLE + 1), r"table was 'float\d\d\[3\] \w{16}' and is"),
    "a cell in a closure": (make_loss(1.0, TABLE), make_loss(1.0, TABLE, gj.elman("relu")), r"cell\.\w+.* was .*elman"),
    "code": (make_loss(1.0, TABLE), edited_loss(1.0, TABLE), r"the code of the function has changed"),
    "an argument": (functools.partial(make_loss(1.0, TABLE), power=2), functools.partial(make_loss(1.0, TABLE), power=4), r"arguments\[1\]\['power'\] was 2 and is 4"),
    "in jit": (jax.jit(make_loss(1.0, TABLE)), jax.jit(make_loss(2.0, TABLE)), r"scale was 1\.0 and is 2\.0"),
    "nothing before": (None, make_loss(1.0, TABLE), r"the function was None and is"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_difference_is_named_and_equal_functions_are_equal(case):
    before, now, message = CASES[case]
    found = [json.loads(json.dumps(describe_functions(f=function))) for function in (before, now)]
    (differences,) = differences_of_functions(*found).values()
    assert any(re.search(message, difference) for difference in differences), differences
    assert differences_of_functions(found[0], found[0]) == {}


def test_functions_made_again_are_equal(monkeypatch):
    for make in (lambda: make_loss(1.0, TABLE), lambda: optax.chain(optax.clip(1.0), optax.adamw(1e-3)), lambda: optax.lbfgs()):
        assert describe_function(make()) == describe_function(make())
    before = describe_function(make_loss(1.0, TABLE))
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 4.0)  # a constant of the module that a helper uses
    (change,) = differences_of_functions({"f": before}, {"f": describe_function(make_loss(1.0, TABLE))})["f"]
    assert change == "helper.FACTOR was 3.0 and is 4.0"


def test_other_versions_are_not_compared():
    found = describe_functions(f=make_loss(1.0, TABLE))
    assert found["versions"].startswith(f"Python 3.{sys.version_info[1]}, optax ")
    other = describe_functions(f=make_loss(2.0, TABLE)) | {"versions": "Python 3.99, optax 9"}
    assert differences_of_functions(found, other) == {}


def test_cycles_and_unusual_values_end():
    def recursive(x):
        return recursive(x) if x in {"a", "b", "c"} else loop

    loop = [np.nan, {1: object}, 2**70, np.float32(1.5), jax.random.key(0), slice(1)]
    loop.append(loop)
    found = describe_function(recursive)
    assert found[".loop[0]"] == "nan"
    assert found[".loop[3]"] == 1.5
    json.dumps(found, allow_nan=False)


def is_a_letter(x):
    return x in {"a", "b", "c", "d", "e", "f", "g", "h"}  # in another order in each process


def description():
    return json.dumps(describe_functions(f=is_a_letter, g=make_loss(1.0, TABLE, gj.elman("relu")), h=optax.adamw(1e-3)))


def test_a_description_is_the_same_in_another_process():
    code = "import tests.train.test_function_description as t; print(t.description())"
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = os.environ | {"PYTHONHASHSEED": seed, "JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64))}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == description()
    assert "code" in run.stdout

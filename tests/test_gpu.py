"""On a GPU: the same values and gradients as on the CPU, with what is chosen by shape. Skipped where there is none."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from tests.engine.test_when import LENGTHS, RESETS
from tests.problems import assert_close, every_cell, gradients, normal_like, problem

pytestmark = [pytest.mark.gpu, pytest.mark.derivative]


@pytest.fixture
def gpu():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError as error:
        pytest.skip(f"JAX finds no GPU here: {error}")


@every_cell
@pytest.mark.parametrize("residuals", ["states", "gates"])
def test_values_and_gradients_are_those_of_the_cpu(cell, residuals, gpu):
    for options in ({}, {"block_size": 3, "lengths": LENGTHS, "resets": RESETS}, {"reverse": True, "outputs": "states"}):
        run = partial(gj.unroll, cell, residuals=residuals, **options)
        p = problem(cell)
        outputs = jax.eval_shape(run, p.params, p.xs, p.h0)
        p = p._replace(cotangents=normal_like(jax.random.key(7), outputs))
        there = jax.jit(partial(gradients, run))(jax.device_put(p, gpu))
        assert {leaf.devices().pop().platform for leaf in jax.tree.leaves(there)} == {"gpu"}
        assert_close(jax.device_get(there), jax.jit(partial(gradients, run))(jax.device_put(p, jax.devices("cpu")[0])))


@pytest.mark.parametrize("units", [64, 300])  # products side by side, states kept; products by gate, gates kept
@pytest.mark.parametrize("outputs", ["all", "last"])
def test_a_larger_gradient_is_autodiffs(units, outputs, gpu):
    cell, p = gj.gru(), problem(gj.gru(), steps=300, batch=(16,), input_size=32, hidden_size=units, dtype=jnp.float32)
    if outputs == "last":
        p = p._replace(cotangents=(p.cotangents[0], None))
    p = jax.device_put(p, gpu)
    by = lambda how: jax.jit(partial(gradients, partial(gj.unroll, cell, derivative=how, outputs=outputs)))(p)
    assert_close(by("adjoint"), by("autodiff"), tol=1e-4)

"""Values and gradients on a GPU equal those on the CPU. Skipped where there is no GPU."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from tests.conditions import LENGTHS, RESETS
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
def test_values_and_gradients_equal_those_on_the_cpu(cell, residuals, gpu):
    for block_size, options in (
        (None, {}),
        (3, {"lengths": LENGTHS, "resets": RESETS}),
        (None, {"reverse": True, "outputs": "states"}),
    ):
        derivative = gj.CustomVJP(residuals=residuals, block_size=block_size)
        run = partial(gj.unroll, cell, derivative=derivative, **options)
        p = problem(cell)
        outputs = jax.eval_shape(run, p.params, p.xs, p.h0)
        p = p._replace(cotangents=normal_like(7, outputs))
        on_gpu = jax.jit(partial(gradients, run))(jax.device_put(p, gpu))
        assert {leaf.devices().pop().platform for leaf in jax.tree.leaves(on_gpu)} == {"gpu"}
        on_cpu = jax.jit(partial(gradients, run))(jax.device_put(p, jax.devices("cpu")[0]))
        assert_close(jax.device_get(on_gpu), on_cpu)


@pytest.mark.parametrize("units", [64, 300])  # one plan saves states, the other saves gates
@pytest.mark.parametrize("outputs", ["all", "last"])
def test_a_larger_gradient_equals_autodiff(units, outputs, gpu):
    cell, p = gj.gru(), problem(gj.gru(), steps=300, batch=(16,), input_size=32, hidden_size=units, dtype=jnp.float32)
    if outputs == "last":
        p = p._replace(cotangents=(p.cotangents[0], None))
    p = jax.device_put(p, gpu)

    def gradients_by(derivative):
        return jax.jit(partial(gradients, partial(gj.unroll, cell, derivative=derivative, outputs=outputs)))(p)

    assert_close(gradients_by(gj.CustomVJP()), gradients_by(gj.Autodiff()), tol=1e-4)

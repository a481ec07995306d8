"""No cell relies on implicit rank promotion, which JAX can be configured to forbid."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, random_reset_state
from tests.problems import every_cell, gradients, problem

pytestmark = pytest.mark.derivative


@every_cell
def test_values_and_gradients_need_no_rank_promotion(cell):
    p = problem(cell)
    reset_state = random_reset_state(cell, p.params)
    run = partial(gj.unroll, cell, reset_state=reset_state, **ALL_THREE)
    with jax.numpy_rank_promotion("raise"):
        outputs, bars = jax.jit(partial(gradients, run))(p)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((outputs, bars)))

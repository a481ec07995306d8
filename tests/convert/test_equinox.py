"""Compares outputs, final states and gradients with Equinox's modules, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.convert.parity import XS, D, H, assert_close, assert_same_function, library, normal, random_params, random_state

pytestmark = [pytest.mark.derivative, pytest.mark.peers]

CELLS = {"GRUCell": gj.gru(reset_after=True), "LSTMCell": gj.lstm()}


@pytest.fixture
def eqx(needs_x64):
    return library("equinox")


def unrolled(module, xs, h0):
    """Runs an Equinox module over a batch of sequences. Returns (outputs, final state)."""

    def step(h, x):
        h = jax.vmap(module)(x, h)
        return h, jax.tree.leaves(h)[0]

    h_last, ys = jax.lax.scan(step, tuple(h0) if isinstance(h0, tuple) else h0, xs)
    return ys, jax.tree.leaves(h_last)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CELLS)
def test_outputs_states_and_gradients_are_those_of_equinox(eqx, name, bias):
    cell = CELLS[name]
    module = getattr(eqx.nn, name)(D, H, use_bias=bias, key=jax.random.key(0))
    arrays, static = eqx.partition(module, eqx.is_array)
    arrays = normal(arrays)
    h0 = random_state(cell, gj.convert.from_equinox(cell, arrays))

    def ours(arrays, xs, h0):
        h_last, ys = gj.unroll(cell, gj.convert.from_equinox(cell, arrays), xs, h0)
        return ys, jax.tree.leaves(h_last)

    assert_same_function(ours, lambda arrays, xs, h0: unrolled(eqx.combine(arrays, static), xs, h0), arrays, XS, h0)


@pytest.mark.parametrize("name", CELLS)
def test_converted_weights_compute_the_same_in_equinox(eqx, name):
    cell, params = CELLS[name], random_params(CELLS[name])
    fields = gj.convert.to_equinox(cell, params)
    module = getattr(eqx.nn, name)(D, H, key=jax.random.key(0))
    module = eqx.tree_at(lambda m: [getattr(m, field) for field in fields], module, list(fields.values()))
    h0 = random_state(cell, params)
    assert_close(gj.unroll(cell, params, XS, h0)[1], unrolled(module, jnp.asarray(XS), h0)[0])


def test_a_module_of_another_cell_raises(eqx):
    module = eqx.nn.LSTMCell(D, H, key=jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"missing 'bias_n'.*Pass the module that corresponds to gru\(reset_after=True\); got LSTMCell"
    ):
        gj.convert.from_equinox(gj.gru(reset_after=True), module)
    assert gj.convert.from_equinox(gj.lstm(), module, dtype=np.float32).W_i.dtype == np.float32

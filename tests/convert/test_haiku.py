"""Compares outputs, final states and gradients with Haiku's modules, in float64."""

import jax
import numpy as np
import pytest

import gru_jax as gj
from tests.convert.parity import XS, D, H, assert_close, assert_same_function, library, normal, random_params, random_state

pytestmark = [pytest.mark.derivative, pytest.mark.peers]

CELLS = {"GRU": gj.gru(), "LSTM": gj.lstm(), "VanillaRNN": gj.elman("relu")}


@pytest.fixture
def haiku(needs_x64):
    return library("haiku")


def transformed(haiku, name, cell_name=None, **options):
    """Transforms a module that runs over time and returns (outputs, final state)."""

    def run(xs, h0):
        module = getattr(haiku, name)(H, name=cell_name, **options)
        return haiku.dynamic_unroll(module, xs, haiku.LSTMState(h0.h, h0.c) if isinstance(h0, tuple) else h0)

    return haiku.without_apply_rng(haiku.transform(run))


@pytest.mark.parametrize("name", CELLS)
def test_outputs_states_and_gradients_are_those_of_haiku(haiku, name):
    cell = CELLS[name]
    run = transformed(haiku, name)
    h0 = random_state(cell, random_params(cell))
    tree = normal(run.init(jax.random.key(0), XS, h0))

    def ours(tree, xs, h0):
        h_last, ys = gj.unroll(cell, gj.convert.from_haiku(cell, tree), xs, h0)
        return ys, jax.tree.leaves(h_last)

    def theirs(tree, xs, h0):
        ys, h_last = run.apply(tree, xs, h0)
        return ys, jax.tree.leaves(h_last)

    assert_same_function(ours, theirs, tree, XS, h0)


@pytest.mark.parametrize("name", CELLS)
def test_converted_weights_compute_the_same_in_haiku(haiku, name):
    cell, params = CELLS[name], random_params(CELLS[name])
    h0 = random_state(cell, params)
    tree = gj.convert.to_haiku(cell, params, "mine")
    run = transformed(haiku, name, "mine")
    assert jax.tree.map(np.shape, run.init(jax.random.key(0), XS, h0)) == jax.tree.map(np.shape, tree)
    assert_close(gj.unroll(cell, params, XS, h0)[1], run.apply(tree, XS, h0)[0])


def test_a_module_is_found_among_others_and_a_vanilla_rnn_may_have_one_bias(haiku):
    run = transformed(haiku, "VanillaRNN", "core", double_bias=False)
    cell = gj.elman("relu")
    h0 = random_state(cell, random_params(cell))
    tree = normal(run.init(jax.random.key(0), XS, h0)) | {"other": {"w": np.ones(3)}, "core_2": {"w": np.ones(D)}}
    params = gj.convert.from_haiku(cell, tree, "core")
    assert_close(gj.unroll(cell, params, XS, h0)[1], run.apply(tree, XS, h0)[0])

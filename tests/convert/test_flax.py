"""Compares outputs, final states and gradients with Flax linen and NNX, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.convert.parity import (
    LENGTHS,
    XS,
    B,
    D,
    H,
    T,
    assert_close,
    assert_same_bits,
    assert_same_function,
    library,
    normal,
    random_params,
    random_state,
)

pytestmark = [pytest.mark.derivative, pytest.mark.peers]

LINEN = {
    "GRUCell": gj.gru(reset_after=True),
    "LSTMCell": gj.lstm(),
    "OptimizedLSTMCell": gj.lstm(),
    "SimpleCell": gj.elman("tanh"),
}
NNX = LINEN
# A name of LINEN, and the activations in each library.
WITH_ACTIVATIONS = {
    "GRUCell": (gj.gru(reset_after=True, gate_activation="hard_sigmoid", activation="softsign"), jax.nn.hard_sigmoid, jax.nn.soft_sign),
    "LSTMCell": (gj.lstm(gate_activation="softsign", activation="elu"), jax.nn.soft_sign, jax.nn.elu),
    "OptimizedLSTMCell": (gj.lstm(gate_activation="relu", activation="leaky_relu"), jax.nn.relu, jax.nn.leaky_relu),
    "SimpleCell": (gj.elman("softplus"), None, jax.nn.softplus),
}  # fmt: skip


@pytest.fixture
def linen(needs_x64):
    return library("flax.linen")


@pytest.fixture
def nnx(needs_x64):
    library("flax")
    from flax import nnx

    return nnx


def carry(state):
    """Returns a state as Flax carries it: (c, h) for an LSTM, the state itself otherwise."""
    return (state.c, state.h) if isinstance(state, tuple) else state


def valid_steps(lengths):
    """Returns the mask (T, B, 1) of the valid steps. Flax does not set padded outputs to zero."""
    return jnp.arange(T)[:, None, None] < (jnp.full((B, 1), T) if lengths is None else jnp.asarray(lengths)[:, None])


@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("name", LINEN)
def test_outputs_states_and_gradients_are_those_of_linen(linen, name, with_lengths):
    cell = LINEN[name]
    module = linen.RNN(getattr(linen, name)(H, param_dtype=jnp.float64), time_major=True, return_carry=True)
    tree = normal(module.init(jax.random.key(0), XS)["params"]["cell"])
    h0 = random_state(cell, gj.convert.from_flax_linen(cell, tree))
    lengths = LENGTHS if with_lengths else None
    valid = valid_steps(lengths)

    def ours(tree, xs, h0):
        h_last, ys = gj.unroll(cell, gj.convert.from_flax_linen(cell, tree), xs, h0, lengths=lengths)
        return carry(h_last), ys

    def theirs(tree, xs, h0):
        h_last, ys = module.apply({"params": {"cell": tree}}, xs, initial_carry=carry(h0), seq_lengths=lengths)
        return h_last, jnp.where(valid, ys, 0)

    assert_same_function(ours, theirs, tree, XS, h0)


@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("name", NNX)
def test_outputs_states_and_gradients_are_those_of_nnx(nnx, name, with_lengths):
    cell = NNX[name]
    module = getattr(nnx, name)(D, H, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    state = normal(state)
    params = gj.convert.from_flax_nnx(cell, state)
    h0 = random_state(cell, params)
    lengths = LENGTHS if with_lengths else None
    valid = valid_steps(lengths)

    def ours(state, xs, h0):
        h_last, ys = gj.unroll(cell, gj.convert.from_flax_nnx(cell, state), xs, h0, lengths=lengths)
        return carry(h_last), ys

    def theirs(state, xs, h0):
        rnn = nnx.RNN(nnx.merge(graph, state), time_major=True, return_carry=True, rngs=nnx.Rngs(0))
        h_last, ys = rnn(xs, initial_carry=carry(h0), seq_lengths=lengths)
        return h_last, jnp.where(valid, ys, 0)

    assert_same_function(ours, theirs, state, XS, h0)
    if name == "GRUCell":
        assert params.c_h is None  # the GRU of NNX has no such bias

    tree = gj.convert.to_flax_nnx(cell, params, **({"optimized": True} if name.startswith("Optimized") else {}))
    nnx.update(module, tree)
    assert_same_bits(gj.convert.from_flax_nnx(cell, nnx.state(module, nnx.Param)), params)


@pytest.mark.parametrize("name", WITH_ACTIVATIONS)
def test_outputs_and_gradients_with_other_activations_are_those_of_linen_and_nnx(linen, nnx, name):
    cell, gate_fn, activation_fn = WITH_ACTIVATIONS[name]
    functions = {"activation_fn": activation_fn} | ({"gate_fn": gate_fn} if gate_fn else {})
    module = linen.RNN(getattr(linen, name)(H, param_dtype=jnp.float64, **functions), time_major=True)
    tree = normal(module.init(jax.random.key(0), XS)["params"]["cell"])
    of_linen = lambda tree, xs: module.apply({"params": {"cell": tree}}, xs)
    assert_same_function(lambda tree, xs: gj.unroll(cell, gj.convert.from_flax_linen(cell, tree), xs)[1], of_linen, tree, XS)

    graph, state = nnx.split(
        getattr(nnx, name)(D, H, param_dtype=jnp.float64, dtype=jnp.float64, rngs=nnx.Rngs(0), **functions)
    )
    state = normal(state)
    of_nnx = lambda state, xs: nnx.RNN(nnx.merge(graph, state), time_major=True, rngs=nnx.Rngs(0))(xs)
    assert_same_function(lambda state, xs: gj.unroll(cell, gj.convert.from_flax_nnx(cell, state), xs)[1], of_nnx, state, XS)


@pytest.mark.parametrize("name", LINEN)
def test_converted_weights_compute_the_same_in_linen(linen, name):
    cell, params = LINEN[name], random_params(LINEN[name])
    module = linen.RNN(getattr(linen, name)(H, param_dtype=jnp.float64), time_major=True)
    tree = gj.convert.to_flax_linen(cell, params)
    assert jax.tree.structure(tree) == jax.tree.structure(module.init(jax.random.key(0), XS)["params"]["cell"])
    assert_close(gj.unroll(cell, params, XS)[1], module.apply({"params": {"cell": tree}}, XS))


def test_a_length_of_0_gives_h0_while_flax_gives_the_last_padded_state(linen):
    """Flax takes the state at index length − 1 = −1, which is the last padded step.

    In gru_jax padded steps keep the state, as in ONNX and Keras. So a sequence without valid steps
    ends in its initial state.
    """
    cell, params = gj.gru(reset_after=True), random_params(gj.gru(reset_after=True))
    module = linen.RNN(linen.GRUCell(H, param_dtype=jnp.float64), time_major=True, return_carry=True)
    variables = {"params": {"cell": gj.convert.to_flax_linen(cell, params)}}
    lengths, h0 = np.array([T, 3, 0]), random_state(cell, params)
    theirs, ys = module.apply(variables, XS, initial_carry=h0, seq_lengths=lengths)
    ours, _ = gj.unroll(cell, params, XS, h0, lengths=lengths)
    assert_close(ours[:2], theirs[:2])
    np.testing.assert_array_equal(ours[2], h0[2])
    np.testing.assert_array_equal(theirs[2], ys[-1, 2])

"""Compares outputs, final states and gradients with the layers of Keras 3 on its JAX backend.

In float32, because `keras.ops.matmul` computes in float32 for every dtype of the layer (keras issue
23704).
"""

import os

import jax
import numpy as np
import pytest

import gru_jax as gj
from tests.convert.parity import (
    XS,
    B,
    D,
    H,
    T,
    assert_close,
    assert_same_function,
    library,
    normal,
    random_params,
    random_state,
)

pytestmark = [
    pytest.mark.derivative,
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # raised by Keras itself under NumPy 2
]

CELLS = {
    "GRU reset before": gj.gru(),
    "GRU reset after": gj.gru(reset_after=True),
    "LSTM": gj.lstm(),
    "SimpleRNN tanh": gj.elman("tanh"),
    "SimpleRNN relu": gj.elman("relu"),
    "SimpleRNN sigmoid": gj.elman("sigmoid"),
    "SimpleRNN linear": gj.elman("identity"),
    "SimpleRNN softsign": gj.elman("softsign"),
    "SimpleRNN elu": gj.elman("elu"),
    "SimpleRNN softplus": gj.elman("softplus"),
    "SimpleRNN leaky_relu": gj.elman(gj.cells.Activation("leaky_relu", alpha=0.2)),  # the default of Keras
    "GRU hard_sigmoid relu before": gj.gru(gate_activation="hard_sigmoid", activation="relu"),
    "GRU hard_sigmoid softsign after": gj.gru(reset_after=True, gate_activation="hard_sigmoid", activation="softsign"),
    "LSTM hard_sigmoid relu": gj.lstm(gate_activation="hard_sigmoid", activation="relu"),
}
XS = XS.astype(np.float32)
LENGTHS = np.array([T, 3, 0])  # for a length of 0 Keras too returns the initial state


@pytest.fixture
def keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = library("keras")
    if keras.backend.backend() != "jax":
        pytest.skip(f"Keras runs on {keras.backend.backend()} here")
    return keras


def layer_of(keras, name, **options):
    """Makes the Keras layer of a name in CELLS."""
    kind, *form = name.split()
    if kind == "GRU":
        options["reset_after"] = form[-1] == "after"
    if kind == "SimpleRNN":
        options["activation"] = form[0]
    elif "hard_sigmoid" in form:
        options |= {"recurrent_activation": form[0], "activation": form[1]}
    options = {"return_sequences": True, "return_state": True, "zero_output_for_mask": True} | options
    return getattr(keras.layers, kind)(H, dtype="float32", **options)


@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("name", CELLS)
def test_outputs_states_and_gradients_are_those_of_keras(keras, name, with_lengths):
    cell, layer = CELLS[name], layer_of(keras, name)
    layer.build((B, T, D))
    weights = normal([np.asarray(w) for w in layer.get_weights()])
    lengths = LENGTHS if with_lengths else None
    mask = None if lengths is None else np.arange(T)[None] < lengths[:, None]
    h0 = random_state(cell, gj.convert.from_keras(cell, weights))

    def ours(weights, xs, h0):
        h_last, ys = gj.unroll(cell, gj.convert.from_keras(cell, weights), xs, h0, lengths=lengths, time_major=False)
        return ys, jax.tree.leaves(h_last)

    def theirs(weights, xs, h0):
        start = jax.tree.leaves(h0)
        (ys, *h_last), _ = layer.stateless_call(
            weights, [v.value for v in layer.non_trainable_variables], xs, initial_state=start, mask=mask
        )
        return ys, h_last

    assert_same_function(ours, theirs, weights, XS.swapaxes(0, 1), h0)


MERGES = {"concat": "concat", "sum": "sum", "mean": "ave", "mul": "mul"}


@pytest.mark.parametrize(
    ("merge", "name"),
    [(merge, "GRU reset after") for merge in MERGES]
    + [("concat", "GRU reset before"), ("concat", "LSTM"), ("sum", "SimpleRNN relu")],
)
def test_layers_and_directions_convert_in_both_directions(keras, name, merge):
    """Moves the weights of two bidirectional layers out of a Keras model, and others into it."""
    of_layer = lambda: keras.layers.Bidirectional(layer_of(keras, name, return_state=False), merge_mode=MERGES[merge])
    model = keras.Sequential([keras.Input((T, D), dtype="float32"), of_layer(), of_layer()])
    cell = gj.stack([gj.bidirectional(CELLS[name], merge=merge)] * 2)
    model.set_weights(normal([np.asarray(w) for w in model.get_weights()]))
    xs = XS.swapaxes(0, 1)
    _, ys = gj.unroll(cell, gj.convert.from_keras(cell, model.get_weights()), xs, time_major=False)
    assert_close(np.asarray(ys), np.asarray(model(xs)))

    params = random_params(cell, np.float32, seed=3)
    model.set_weights(gj.convert.to_keras(cell, params))
    _, ys = gj.unroll(cell, params, xs, time_major=False)
    assert_close(np.asarray(ys), np.asarray(model(xs)))


def test_layers_without_biases_convert(keras):
    layer = layer_of(keras, "LSTM", use_bias=False)
    layer.build((B, T, D))
    params = gj.convert.from_keras(gj.lstm(), layer.get_weights())
    assert params.b_i is None
    ys, *_ = layer(XS.swapaxes(0, 1))
    assert_close(np.asarray(gj.unroll(gj.lstm(), params, XS)[1]), np.asarray(ys).swapaxes(0, 1))
    layer.set_weights(gj.convert.to_keras(gj.lstm(), random_params(gj.lstm(), np.float32, bias=False)))


def test_both_directions_apart_are_those_of_keras(keras):
    layer = keras.layers.Bidirectional(layer_of(keras, "LSTM", return_state=False), merge_mode=None)
    layer.build((B, T, D))
    cell = gj.bidirectional(gj.lstm(), merge=None)
    _, ys = gj.unroll(cell, gj.convert.from_keras(cell, layer.get_weights()), XS.swapaxes(0, 1), time_major=False)
    assert_close(tuple(map(np.asarray, ys)), tuple(map(np.asarray, layer(XS.swapaxes(0, 1)))))


@pytest.mark.parametrize("reset_after", [False, True])
def test_a_gru_without_biases_converts_in_the_form_that_the_layer_names(keras, reset_after):
    with jax.enable_x64(False):  # without a bias Keras adds zeros of JAX's default dtype
        layer = keras.layers.GRU(H, reset_after=reset_after, use_bias=False, return_sequences=True, dtype="float32")
        layer.build((B, T, D))
        cell = gj.gru(reset_after=reset_after)
        params = gj.convert.from_keras(cell, layer.get_weights(), reset_after=layer.reset_after)
        assert_close(np.asarray(gj.unroll(cell, params, XS)[1]), np.asarray(layer(XS.swapaxes(0, 1))).swapaxes(0, 1))


def test_padding_gives_0_while_keras_repeats_the_last_output_by_default(keras):
    """By default, with `zero_output_for_mask=False`, Keras repeats the state at padded steps."""
    layer = layer_of(keras, "GRU reset after", zero_output_for_mask=False)
    layer.build((B, T, D))
    layer.set_weights(normal([np.asarray(w) for w in layer.get_weights()]))
    ys, _ = layer(XS.swapaxes(0, 1), mask=np.arange(T)[None] < LENGTHS[:, None])
    cell = gj.gru(reset_after=True)
    _, ours = gj.unroll(cell, gj.convert.from_keras(cell, layer.get_weights()), XS, lengths=LENGTHS)
    assert not ours[3:, 1].any()
    assert_close(np.asarray(ys)[1, 3:], np.broadcast_to(np.asarray(ours)[2, 1], (T - 3, H)))

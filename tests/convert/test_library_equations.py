"""Converted weights compute what each library's documentation says, in NumPy and without the library.

The tests of each library compare with the library itself where it is installed.
"""

import numpy as np
import pytest

import gru_jax as gj
from tests.problems import B, D, H

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def parts(matrix, number):
    """Splits the last axis."""
    return np.split(matrix, number, -1)


def lstm_step(i, f, g, o, c):
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def pytorch_weights(gates):
    return {
        "weight_ih": normal(gates * H, D),
        "weight_hh": normal(gates * H, H),
        "bias_ih": normal(gates * H),
        "bias_hh": normal(gates * H),
    }


def pytorch_gru(w, x, h, c):
    (r_x, z_x, n_x), (r_h, z_h, n_h) = (
        parts(x @ w["weight_ih"].T + w["bias_ih"], 3),
        parts(h @ w["weight_hh"].T + w["bias_hh"], 3),
    )
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
    return (1 - z) * np.tanh(n_x + r * n_h) + z * h


def pytorch_lstm(w, x, h, c):
    i, f, g, o = parts(x @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"], 4)
    return lstm_step(i, f, g, o, c)


def pytorch_rnn(w, x, h, c):
    return np.tanh(x @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"])


def keras_gru(w, x, h, c):
    kernel, recurrent, bias = w
    (z_x, r_x, h_x), (W_z, W_r, W_h) = parts(x @ kernel + bias, 3), parts(recurrent, 3)
    z, r = sigmoid(z_x + h @ W_z), sigmoid(r_x + h @ W_r)
    return z * h + (1 - z) * np.tanh(h_x + (r * h) @ W_h)


def keras_gru_reset_after(w, x, h, c):
    kernel, recurrent, (bias, recurrent_bias) = w
    (z_x, r_x, h_x), (z_h, r_h, h_h) = parts(x @ kernel + bias, 3), parts(h @ recurrent + recurrent_bias, 3)
    z, r = sigmoid(z_x + z_h), sigmoid(r_x + r_h)
    return z * h + (1 - z) * np.tanh(h_x + r * h_h)


def keras_lstm(w, x, h, c):
    kernel, recurrent, bias = w
    return lstm_step(*parts(x @ kernel + h @ recurrent + bias, 4), c)  # i, f, c, o


def keras_simple_rnn(w, x, h, c):
    kernel, recurrent, bias = w
    return np.tanh(x @ kernel + h @ recurrent + bias)


def haiku_gru(w, x, h, c):
    w = w["gru"]
    (W_z, W_r, W_a), (U_z, U_r, U_a), (b_z, b_r, b_a) = parts(w["w_i"], 3), parts(w["w_h"], 3), parts(w["b"], 3)
    z, r = sigmoid(x @ W_z + h @ U_z + b_z), sigmoid(x @ W_r + h @ U_r + b_r)
    return (1 - z) * h + z * np.tanh(x @ W_a + (r * h) @ U_a + b_a)


def haiku_lstm(w, x, h, c):
    w = w["lstm/linear"]
    i, g, f, o = parts(np.concatenate([x, h], -1) @ w["w"] + w["b"], 4)
    return lstm_step(i, f + 1, g, o, c)


def haiku_rnn(w, x, h, c):
    of_x, of_h = w["vanilla_rnn/linear"], w["vanilla_rnn/linear_1"]
    return np.maximum(x @ of_x["w"] + of_x["b"] + h @ of_h["w"] + of_h["b"], 0)


def kernels(size, *names):
    return {name: {"kernel": normal(size, H)} for name in names}


def with_bias(layers):
    return {name: layer | {"bias": normal(H)} for name, layer in layers.items()}


def linen_dense(w, name, x):
    return x @ w[name]["kernel"] + w[name].get("bias", 0)


def linen_gru(w, x, h, c):
    dense = lambda name, x: linen_dense(w, name, x)
    r, z = sigmoid(dense("ir", x) + dense("hr", h)), sigmoid(dense("iz", x) + dense("hz", h))
    return (1 - z) * np.tanh(dense("in", x) + r * dense("hn", h)) + z * h


def linen_lstm(w, x, h, c):
    return lstm_step(*(linen_dense(w, f"i{gate}", x) + linen_dense(w, f"h{gate}", h) for gate in "ifgo"), c)


def nnx_gru(w, x, h, c):
    (r_x, z_x, n_x), (r_h, z_h, n_h) = parts(linen_dense(w, "dense_i", x), 3), parts(linen_dense(w, "dense_h", h), 3)
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
    return (1 - z) * np.tanh(n_x + r * n_h) + z * h


def nnx_optimized_lstm(w, x, h, c):
    return lstm_step(*parts(linen_dense(w, "dense_i", x) + linen_dense(w, "dense_h", h), 4), c)


def equinox_gru(w, x, h, c):
    (r_x, z_x, n_x), (r_h, z_h, n_h) = parts(x @ w["weight_ih"].T + w["bias"], 3), parts(h @ w["weight_hh"].T, 3)
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
    new = np.tanh(n_x + r * (n_h + w["bias_n"]))
    return new + z * (h - new)


def equinox_lstm(w, x, h, c):
    return lstm_step(*parts(x @ w["weight_ih"].T + h @ w["weight_hh"].T + w["bias"], 4), c)


AFTER, BEFORE, LSTM = gj.gru(reset_after=True), gj.gru(), gj.lstm()
LINEN_GRU = with_bias(kernels(D, "ir", "iz", "in")) | kernels(H, "hr", "hz") | with_bias(kernels(H, "hn"))
LINEN_LSTM = kernels(D, "ii", "if", "ig", "io") | with_bias(kernels(H, "hi", "hf", "hg", "ho"))
HAIKU_RNN = {"linear": {"w": normal(D, H), "b": normal(H)}, "linear_1": {"w": normal(H, H), "b": normal(H)}}
EQUINOX_LSTM = {"weight_ih": normal(4 * H, D), "weight_hh": normal(4 * H, H), "bias": normal(4 * H)}
EQUINOX_GRU = {"weight_ih": normal(3 * H, D), "weight_hh": normal(3 * H, H), "bias": normal(3 * H), "bias_n": normal(H)}

# name: (from_…, cell, weights, step of the library)
CASES = {
    "PyTorch GRU": (gj.convert.from_pytorch, AFTER, pytorch_weights(3), pytorch_gru),
    "PyTorch LSTM": (gj.convert.from_pytorch, LSTM, pytorch_weights(4), pytorch_lstm),
    "PyTorch RNN": (gj.convert.from_pytorch, gj.elman(), pytorch_weights(1), pytorch_rnn),
    "Keras GRU": (gj.convert.from_keras, BEFORE, [normal(D, 3 * H), normal(H, 3 * H), normal(3 * H)], keras_gru),
    "Keras GRU, reset after": (gj.convert.from_keras, AFTER, [normal(D, 3 * H), normal(H, 3 * H), normal(2, 3 * H)], keras_gru_reset_after),
    "Keras LSTM": (gj.convert.from_keras, LSTM, [normal(D, 4 * H), normal(H, 4 * H), normal(4 * H)], keras_lstm),
    "Keras SimpleRNN": (gj.convert.from_keras, gj.elman(), [normal(D, H), normal(H, H), normal(H)], keras_simple_rnn),
    "Haiku GRU": (gj.convert.from_haiku, BEFORE, {"gru": {"w_i": normal(D, 3 * H), "w_h": normal(H, 3 * H), "b": normal(3 * H)}}, haiku_gru),
    "Haiku LSTM": (gj.convert.from_haiku, LSTM, {"lstm/linear": {"w": normal(D + H, 4 * H), "b": normal(4 * H)}}, haiku_lstm),
    "Haiku VanillaRNN": (gj.convert.from_haiku, gj.elman("relu"), {f"vanilla_rnn/{name}": leaves for name, leaves in HAIKU_RNN.items()}, haiku_rnn),
    "linen GRUCell": (gj.convert.from_flax_linen, AFTER, LINEN_GRU, linen_gru),
    "linen LSTMCell": (gj.convert.from_flax_linen, LSTM, LINEN_LSTM, linen_lstm),
    "NNX GRUCell": (gj.convert.from_flax_nnx, AFTER, {"dense_i": {"kernel": normal(D, 3 * H), "bias": normal(3 * H)}, "dense_h": {"kernel": normal(H, 3 * H)}}, nnx_gru),
    "NNX OptimizedLSTMCell": (gj.convert.from_flax_nnx, LSTM, {"dense_i": {"kernel": normal(D, 4 * H)}, "dense_h": {"kernel": normal(H, 4 * H), "bias": normal(4 * H)}}, nnx_optimized_lstm),
    "Equinox GRUCell": (gj.convert.from_equinox, AFTER, EQUINOX_GRU, equinox_gru),
    "Equinox LSTMCell": (gj.convert.from_equinox, LSTM, EQUINOX_LSTM, equinox_lstm),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_step_with_converted_weights_is_that_of_the_library(name):
    load, cell, weights, step = CASES[name]
    x, h, c = normal(B, D), normal(B, H), normal(B, H)
    state = gj.cells.LSTMState(h, c) if cell == LSTM else h
    new, _ = cell.step(load(cell, weights), state, x)
    np.testing.assert_allclose(np.asarray(new), np.asarray(step(weights, x, h, c)), rtol=1e-5, atol=1e-6)

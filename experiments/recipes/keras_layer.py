"""A Keras layer's weights in and out: train it on either side.

Keras' own backward pass keeps every gate of every step; here the derived one saves the states only. The layer goes on with the result.
"""

from typing import Any

import jax
import optax

import gru_jax as gj


def cell_of(layer: Any) -> gj.Cell:
    """The cell that a `keras.layers.GRU`, `LSTM` or `SimpleRNN` is.

    Raises:
        TypeError: another layer, or activations that no cell here has.
    """
    config = layer.get_config()
    kind, inner, gates = type(layer).__name__, config.get("activation"), config.get("recurrent_activation")
    if kind == "SimpleRNN" and inner in ("tanh", "relu", "sigmoid", "linear"):
        return gj.elman("identity" if inner == "linear" else inner)
    if kind in ("GRU", "LSTM") and (inner, gates) == ("tanh", "sigmoid"):
        return gj.lstm() if kind == "LSTM" else gj.gru(reset_after=config["reset_after"])
    raise TypeError(f"layer: got {kind} with {inner}, {gates}, expected GRU, LSTM (tanh, sigmoid) or SimpleRNN.")


def trained(layer: Any, xs: Any, ys: Any, steps: int = 50, learning_rate: float = 0.01) -> list[float]:
    """Trains a built Keras layer here, on squared error of its outputs `ys` for `xs` (B, T, D), and puts the weights back.

    Returns the losses.
    """
    cell = cell_of(layer)
    params = gj.convert.from_keras(cell, layer.get_weights())

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        _, outputs = gj.unroll(cell, params, batch[0], time_major=False)
        return gj.heads.squared_error(outputs, batch[1]).mean(), {}

    fitted = gj.train.fit(loss_fn, params, optax.adam(learning_rate), (xs, ys), key=jax.random.key(0), steps=steps)
    layer.set_weights(gj.convert.to_keras(cell, fitted.params))
    return fitted.history["loss"].tolist()

"""Shows how to train a Keras layer with gru_jax, and put its weights back.

The backward pass of Keras saves every gate of every step; that of gru_jax can recompute them. The
trained layer stays a Keras layer.
"""

from typing import Any

import jax
import optax

import gru_jax as gj


def cell_for(layer: Any) -> gj.Cell:
    """Returns the cell that is equivalent to a `keras.layers.GRU`, `LSTM` or `SimpleRNN`.

    Raises:
        TypeError: If the layer is of another kind, or no cell has its activations.
    """
    config = layer.get_config()
    kind, activation, gate_activation = type(layer).__name__, config.get("activation"), config.get("recurrent_activation")
    if kind == "SimpleRNN" and activation in ("tanh", "relu", "sigmoid", "linear"):
        return gj.elman("identity" if activation == "linear" else activation)
    if kind in ("GRU", "LSTM") and (activation, gate_activation) == ("tanh", "sigmoid"):
        return gj.lstm() if kind == "LSTM" else gj.gru(reset_after=config["reset_after"])
    raise TypeError(
        f"layer: got {kind} with activation={activation!r} and recurrent_activation={gate_activation!r}, expected a GRU or LSTM "
        "with tanh and sigmoid, or a SimpleRNN with tanh, relu, sigmoid or linear."
    )


def train_layer(layer: Any, xs: Any, targets: Any, steps: int = 50, learning_rate: float = 0.01) -> list[float]:
    """Trains a built Keras layer on the squared error of its outputs, and puts the weights back.

    Args:
        layer: The Keras layer, built for the inputs. Its weights are replaced.
        xs: The inputs, of shape (B, T, D).
        targets: The target outputs, of shape (B, T, H).
        steps: The number of Adam updates. Defaults to 50.
        learning_rate: The learning rate of Adam. Defaults to 0.01.

    Returns:
        The loss before each update.
    """
    cell = cell_for(layer)
    params = gj.convert.from_keras(cell, layer.get_weights())

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        _, outputs = gj.unroll(cell, params, batch[0], time_major=False)
        return gj.heads.squared_error(outputs, batch[1]).mean(), {}

    result = gj.train.fit(loss_fn, params, optax.adam(learning_rate), (xs, targets), key=jax.random.key(0), steps=steps)
    layer.set_weights(gj.convert.to_keras(cell, result.params))
    return result.history["loss"].tolist()

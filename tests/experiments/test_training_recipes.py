"""Tests the recipes for training: what callbacks log, and a training loop of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from experiments.recipes.logging_callbacks import to_tensorboard, to_wandb

KEY = jax.random.key(0)


class Recorder:
    """Stands for a `SummaryWriter` of TensorBoard and for a run of Weights & Biases."""

    def __init__(self):
        self.scalars, self.logged = [], []

    def add_scalar(self, name, value, step):
        self.scalars.append((name, float(value), step))

    def log(self, values, *, step):
        self.logged.append((step, {name: np.asarray(value).tolist() for name, value in values.items()}))


def test_the_callbacks_log_every_step_and_every_evaluation():
    """The parameter counts the steps."""
    recorder = Recorder()
    gj.train.fit(
        lambda params, batch, key: (-params, {"double": 2 * params, "array": jnp.ones(2)}),
        jnp.float32(0),
        optax.sgd(1.0),
        jnp.ones(2),
        key=KEY,
        steps=5,
        evaluate=lambda params: {"size": params, "array": jnp.ones(3)},
        evaluate_every=3,
        callbacks=[to_tensorboard(recorder), to_wandb(recorder)],
    )
    of = lambda name: [(step, value) for found, value, step in recorder.scalars if found == name]
    assert of("loss") == [(step, -step) for step in range(5)]
    assert of("double") == [(step, 2 * step) for step in range(5)]
    assert of("size") == [(3, 3), (5, 5)]
    assert of("array") == []
    first, last = recorder.logged
    assert first == (3, {"loss": -1.0, "double": 2.0, "size": 3.0, "array": [1.0, 1.0, 1.0]})
    assert last == (5, {"loss": -3.5, "double": 7.0, "size": 5.0, "array": [1.0, 1.0, 1.0]})

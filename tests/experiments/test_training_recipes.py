"""Tests the recipes for training: what callbacks log, and a custom training loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from experiments.recipes.logging_callbacks import to_tensorboard, to_wandb
from experiments.recipes.own_training_loop import train
from tests.problems import assert_close, assert_raises

KEY = jax.random.key(0)


class Recorder:
    """Imitates a `SummaryWriter` of TensorBoard and a run of Weights & Biases."""

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


XS = jax.random.normal(KEY, (22, 5))
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05))


def squares(params, batch, key):
    return ((batch @ params["w"] - params["b"]) ** 2).mean(), {}


PARAMS = {"w": jnp.arange(15.0).reshape(5, 3) / 7, "b": jnp.ones(3)}
run = partial(train, squares, PARAMS, OPTIMIZER, XS, key=KEY, batch_size=8, save_every=4)


def test_a_custom_loop_computes_what_fit_does_and_resumes_bit_for_bit(tmp_path):
    state, losses = run(steps=13, checkpoint_dir=tmp_path / "straight")
    fitted = gj.train.fit(squares, PARAMS, OPTIMIZER, XS, key=KEY, steps=13, batch_size=8)
    np.testing.assert_allclose(list(losses.values()), fitted.history["loss"], rtol=1e-5)
    assert_close(state.params, fitted.params, tol=1e-5)
    run(steps=6, checkpoint_dir=tmp_path / "resumed")
    resumed, rest = run(steps=13, checkpoint_dir=tmp_path / "resumed")
    assert list(rest) == list(range(6, 13))
    for ours, theirs in zip(*map(jax.tree.leaves, (resumed, state)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_the_loop_skips_updates_that_are_not_finite_and_ends_after_too_many(tmp_path):
    bad = XS.at[3].set(jnp.nan)
    state, losses = train(squares, PARAMS, OPTIMIZER, bad, key=KEY, steps=11, batch_size=2, checkpoint_dir=tmp_path / "one")
    assert np.isnan(list(losses.values())).sum() == 1
    assert gj.train.all_finite(state)
    all_bad = lambda: train(
        squares,
        PARAMS,
        OPTIMIZER,
        XS * jnp.nan,
        key=KEY,
        steps=12,
        batch_size=2,
        checkpoint_dir=tmp_path / "all",
        save_every=12,
    )
    assert_raises(all_bad, FloatingPointError, "12 consecutive updates, up to step 11, were not finite")

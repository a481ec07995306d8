"""What a user sees while training: the progress bar, and what callbacks receive."""

import re
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tqdm.auto import tqdm

import gru_jax as gj
from tests.train.problem import KEY

evaluate = lambda params: {"distance": jnp.abs(params - 4), "parts": jnp.ones(2), "twice": 2 * params}
drift = lambda params, batch, key: (-params, {})  # the parameter counts the steps
fit = partial(
    gj.train.fit, drift, jnp.float32(0), optax.sgd(1.0), jnp.ones(2), key=KEY, evaluate=evaluate, steps_per_execution=2
)


def shown(capsys):
    """Returns the states of the bar that tqdm has drawn."""
    return re.split(r"\r", capsys.readouterr().err)


@pytest.fixture(autouse=True)
def draws_at_once(monkeypatch):
    monkeypatch.setattr("tqdm.auto.tqdm", partial(tqdm, mininterval=0, miniters=1, ncols=160))


def test_the_bar_shows_the_loss_the_best_evaluation_the_rate_and_the_time_left(capsys):
    fit(steps=8, evaluate_every=2, early_stopping=gj.train.EarlyStopping("distance"), progress=True)
    states = shown(capsys)
    half = next(state for state in states if " 6/8 " in state and "loss" in state)
    assert re.search(r"75%.*6/8 \[\d+:\d+<\d+:\d+, .*step.*loss=-5, best distance=0 at 4\]", half), states
    assert "best distance=0 at 4" in states[-1]
    assert "8/8" in states[-1]


def test_without_early_stopping_the_bar_shows_the_numbers_of_the_last_evaluation(capsys):
    fit(steps=6, evaluate_every=4, progress=True)
    states = shown(capsys)
    assert any("loss=-3, distance=0, twice=8" in state for state in states), states
    assert "distance=2, twice=12" in states[-1]


def test_after_a_resume_the_bar_counts_from_the_checkpoint(capsys, tmp_path):
    fit(steps=4, checkpoint_dir=tmp_path)
    capsys.readouterr()
    fit(steps=6, checkpoint_dir=tmp_path, progress=True)
    states = shown(capsys)
    assert any(" 4/6 " in state for state in states)
    assert "6/6" in states[-1]


def test_a_callback_receives_the_evaluation_of_its_step_and_the_average():
    seen = []
    fit(
        steps=7,
        evaluate_every=4,
        ema=0.5,
        callbacks=[lambda info: seen.append((info.step, dict(info.evaluation), float(info.ema_params)))],
    )
    assert [step for step, _, _ in seen] == [2, 4, 6, 7]
    assert [sorted(evaluation) for _, evaluation, _ in seen] == [
        [],
        ["distance", "parts", "twice"],
        [],
        ["distance", "parts", "twice"],
    ]
    averages = [average for _, _, average in seen]
    np.testing.assert_allclose(averages[0], (0.5 * 1 + 2) / 1.5)
    np.testing.assert_allclose([seen[1][1]["twice"], seen[3][1]["twice"]], [2 * averages[1], 2 * averages[3]])
    seen.clear()
    gj.train.fit(drift, jnp.float32(0), optax.sgd(1.0), jnp.ones(2), key=KEY, steps=1, callbacks=[seen.append])
    assert (dict(seen[0].evaluation), seen[0].ema_params) == ({}, None)

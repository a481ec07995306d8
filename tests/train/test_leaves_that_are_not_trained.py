"""Params with integer and boolean leaves: `fit` leaves these as they are, and trains the others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.problems import assert_close, assert_raises

KEY = jax.random.key(0)
N, D, STEPS = 8, 3, 6
XS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
PARAMS = {
    "W": jax.random.normal(KEY, (D,), jnp.float32),
    "order": jnp.array([2, 0, 1]),
    "is_used": jnp.array([True, True, False]),
}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


def loss_fn(params, xs, key):
    y = jnp.where(params["is_used"], params["W"] * xs[:, params["order"]], 0).sum(-1)
    return ((y - 1) ** 2).mean(), {}


def by_hand(W):
    """Trains W by a plain loop over the whole data."""

    @jax.jit
    def step(W, state):
        gradient = jax.grad(lambda W: loss_fn(PARAMS | {"W": W}, XS, None)[0])(W)
        updates, state = OPTIMIZER.update(gradient, state, W)
        return optax.apply_updates(W, updates), state

    state = OPTIMIZER.init(W)
    for _ in range(STEPS):
        W, state = step(W, state)
    return W


@pytest.mark.parametrize("options", [{}, {"grad_accumulation_steps": 2}], ids=["whole batch", "microbatches"])
def test_fit_trains_the_floats_and_keeps_the_rest(options):
    result = gj.train.fit(loss_fn, PARAMS, OPTIMIZER, XS, key=KEY, steps=STEPS, **options)
    assert_close(result.params["W"], by_hand(PARAMS["W"]), tol=1e-5)
    for name in ("order", "is_used"):
        assert_close(result.params[name], PARAMS[name], tol=0)
        assert result.params[name].dtype == PARAMS[name].dtype


def test_models_of_an_ensemble_have_their_own_constants():
    other = PARAMS | {"W": -PARAMS["W"], "order": jnp.array([0, 1, 2])}
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), PARAMS, other)
    result = gj.train.fit_ensemble(loss_fn, both, OPTIMIZER, XS, keys=jax.random.split(KEY, 2), steps=STEPS)
    for i, params in enumerate((PARAMS, other)):
        alone = gj.train.fit(loss_fn, params, OPTIMIZER, XS, key=KEY, steps=STEPS).params
        assert_close(result.params["W"][i], alone["W"], tol=1e-5)
        assert_close(result.params["order"][i], params["order"], tol=0)


def test_a_run_with_constants_resumes(tmp_path):
    run = lambda steps, **options: gj.train.fit(loss_fn, PARAMS, OPTIMIZER, XS, key=KEY, steps=steps, **options).params
    options = {"checkpoint_dir": tmp_path / "run", "save_every": 3, "steps_per_execution": 3}
    run(3, **options)
    assert_close(run(STEPS, **options), run(STEPS), tol=0)


def test_the_report_of_a_nan_names_the_leaves_that_are_trained():
    bad = PARAMS | {"W": PARAMS["W"] * jnp.nan}
    run = lambda: gj.train.fit(loss_fn, bad, OPTIMIZER, XS, key=KEY, steps=STEPS, max_consecutive_nonfinite=1)
    assert_raises(run, Exception, r"Norms: \W*W\W*: gradient nan, parameter nan\. ")

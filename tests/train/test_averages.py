"""Averages of the parameters: kept, evaluated, chosen by early stopping, saved and restored."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.problems import assert_close, assert_raises
from tests.train.problem import KEY, data, digests, init_readout, readout_loss_fn

DECAY, STEPS = 0.8, 7
PARAMS = {"w": jnp.array([1.0, -2.0]), "half": jnp.array([3.0], jnp.bfloat16), "order": jnp.array([1, 0])}


def shrink(params, batch, key):
    """A loss whose gradient is NaN at the batches of NaN."""
    return (params["w"] ** 2).sum() * batch.mean() + (params["half"] ** 2).sum().astype(float), {}


def evaluate(params):
    assert params["half"].dtype == jnp.bfloat16
    return {"w": params["w"], "half": params["half"], "order": params["order"]}


OPTIMIZER = optax.sgd(0.1)
RECORDED = partial(gj.train.fit, shrink, PARAMS, OPTIMIZER, jnp.ones(4), key=KEY, evaluate=evaluate, evaluate_every=1)


def averages(iterates, decay=DECAY):
    """Returns the averages after each update: the weighted means of the parameters so far."""
    weights = [decay ** np.arange(n)[::-1] for n in range(1, len(iterates) + 1)]
    return [np.average(iterates[: len(w)], axis=0, weights=w) for w in weights]


@pytest.mark.parametrize("ema", [DECAY, optax.ema(DECAY)], ids=["a decay", "a transformation"])
def test_evaluations_see_the_average_whose_weights_decay(ema):
    plain, averaged = RECORDED(steps=STEPS), RECORDED(steps=STEPS, ema=ema)
    for name, tol in (("w", 1e-6), ("half", 0.01)):
        iterates = np.asarray(plain.evaluations[name], float)
        np.testing.assert_allclose(averaged.evaluations[name][0].astype(float), iterates[0])  # before any update
        np.testing.assert_allclose(averaged.evaluations[name][1:].astype(float), averages(iterates[1:]), rtol=tol)
        np.testing.assert_array_equal(averaged.ema_params[name], averaged.evaluations[name][-1])
    assert (averaged.evaluations["order"] == PARAMS["order"]).all()
    assert_close(averaged.params["w"], plain.params["w"], tol=0)
    assert plain.ema_params is None


def test_an_average_in_half_precision_does_not_stand_still():
    drift = lambda params, batch, key: (-params.astype(float), {})
    run = partial(gj.train.fit, drift, jnp.bfloat16(0), optax.sgd(1.0), jnp.ones(2), key=KEY, steps=100)
    expected = averages(np.arange(1.0, 101), 0.999)[-1]  # the parameter counts the steps
    np.testing.assert_allclose(float(run(ema=0.999).ema_params), expected, rtol=0.01)


def test_a_skipped_update_does_not_change_the_average():
    rows = jnp.array([1.0, jnp.nan, 1.0, 1.0])
    run = lambda rows, steps: gj.train.fit(
        shrink, PARAMS, OPTIMIZER, rows, key=KEY, steps=steps, batch_size=1, ema=DECAY, steps_per_execution=3
    )
    skipping = run(rows, 4)
    assert skipping.skipped_updates == 1
    assert_close(skipping.ema_params["w"], run(jnp.ones(3), 3).ema_params["w"], tol=1e-12)


def test_the_best_parameters_are_an_average_and_all_is_restored(tmp_path):
    """The loss is noisy, so that the parameters and their averages are best at different steps."""
    score = lambda params: {"error": readout_loss_fn(params, data(2), KEY)[0]}
    options = {"evaluate": score, "evaluate_every": 1, "early_stopping": gj.train.EarlyStopping("error"), "ema": 0.9}
    run = partial(
        gj.train.fit, readout_loss_fn, init_readout(), optax.adam(3e-2), data(), key=KEY, batch_size=2, steps_per_execution=5
    )
    whole = run(steps=20, **options)
    run(steps=10, checkpoint_dir=tmp_path, **options)
    resumed = run(steps=20, checkpoint_dir=tmp_path, **options)
    assert digests(resumed) == digests(whole)
    assert_close(resumed.ema_params, whole.ema_params, tol=0)
    assert float(score(whole.best_params)["error"]) == pytest.approx(whole.evaluations["error"].min(), rel=1e-5)
    assert_close(gj.train.load_params(tmp_path, init_readout(), best=True), whole.best_params, tol=0)
    assert_raises(
        lambda: run(steps=21, checkpoint_dir=tmp_path, **(options | {"ema": None})),
        ValueError,
        r"ema: .*update\.decay was 0\.9 and is None",
    )


def test_eval_params_gives_the_average_that_an_optimiser_keeps():
    optimizer = optax.contrib.schedule_free_sgd(0.1)
    evaluate = lambda params: {"w": params["w"], "order": params["order"]}
    params = PARAMS | {"half": jnp.zeros(1)}
    result = gj.train.fit(
        shrink, params, optimizer, jnp.ones(4), key=KEY, steps=STEPS, evaluate=evaluate, evaluate_every=2,
        eval_params=optax.contrib.schedule_free_eval_params,
    )  # fmt: skip
    trained = {name: result.params[name] for name in ("w", "half")}
    expected = optax.contrib.schedule_free_eval_params(result.opt_state, trained | {"order": None})
    np.testing.assert_allclose(result.evaluations["w"][-1], expected["w"], rtol=1e-6)
    assert np.abs(result.evaluations["w"][-1] - result.params["w"]).max() > 1e-3
    assert (result.evaluations["order"] == PARAMS["order"]).all()


@pytest.mark.slow
def test_every_model_of_an_ensemble_has_its_own_average():
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, -2 * leaf]), PARAMS)
    run = partial(gj.train.fit_ensemble, shrink, both, OPTIMIZER, jnp.ones(4), keys=jax.random.split(KEY), steps=STEPS)
    result = run(ema=DECAY, evaluate=evaluate)
    for i, params in enumerate((PARAMS, jax.tree.map(lambda leaf: -2 * leaf, PARAMS))):
        alone = gj.train.fit(shrink, params, OPTIMIZER, jnp.ones(4), key=KEY, steps=STEPS, ema=DECAY)
        assert_close(result.ema_params["w"][i], alone.ema_params["w"], tol=1e-12)
    assert_close(result.evaluations["w"][-1], result.ema_params["w"], tol=0)
    held = run(evaluate=evaluate, eval_params=lambda opt_state, params: jax.tree.map(lambda leaf: leaf + 1, params))
    assert_close(held.evaluations["w"][-1], held.params["w"] + 1, tol=0)


BAD = {
    "a decay of one": ({"ema": 1.0}, ValueError, r"ema: got 1.0, expected a decay of at least 0 and below 1"),
    "a string": ({"ema": "0.9"}, TypeError, r"ema: got str, expected a decay such as 0.999, or an optax"),
    "a flag": ({"ema": True}, TypeError, r"ema: got bool"),
    "eval_params with ema": ({"ema": 0.9, "eval_params": lambda s, p: p}, ValueError, r"eval_params: got a function with ema"),
    "eval_params alone": ({"evaluate": None, "evaluate_every": None, "eval_params": lambda s, p: p}, ValueError, r"eval_params: got a function without evaluate"),
    "eval_params as a dict": ({"eval_params": {}}, TypeError, r"eval_params: got dict, expected a function eval_params\(opt_state, params\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    options, error, message = BAD[case]
    assert_raises(lambda: RECORDED(steps=2, **options), error, message)

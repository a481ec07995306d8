"""`fit_ensemble` trains each model as `fit` would train it alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.problems import assert_raises
from tests.train.problem import counted, data, init_readout
from tests.train.problem import readout_loss_fn as loss_fn

KEYS = jax.random.split(jax.random.key(3), 3)
RATES = jnp.array([1e-3, 1e-2, 3e-2])
PARAMS = jax.vmap(lambda seed: jax.tree.map(lambda leaf: leaf * (1 + 0.1 * seed), init_readout()))(jnp.arange(3.0))
DATA = data()
run = partial(gj.train.fit_ensemble, loss_fn, PARAMS, optax.adam, DATA, keys=KEYS, hyperparameters={"learning_rate": RATES}, batch_size=6, steps_per_execution=5)  # fmt: skip


def model_of(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def assert_near(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_each_model_equals_a_fit_with_the_same_key_learning_rate_and_parameters():
    evaluate = lambda params: {"size": jnp.abs(params.V).sum()}
    found = run(steps=12, evaluate=evaluate, evaluate_every=4)
    assert found.history["loss"].shape == (12, 3)
    assert found.evaluations["size"].shape == (4, 3)
    assert found.skipped_updates.tolist() == [0, 0, 0]
    for i in range(3):
        alone = gj.train.fit(
            loss_fn,
            model_of(PARAMS, i),
            optax.adam(RATES[i]),
            DATA,
            key=KEYS[i],
            steps=12,
            batch_size=6,
            evaluate=evaluate,
            evaluate_every=4,
        )
        assert_near(model_of(found.params, i), alone.params)
        assert_near(found.history["loss"][:, i], alone.history["loss"])
        assert_near(found.evaluations["size"][:, i], alone.evaluations["size"])
    assert len({float(loss) for loss in found.history["loss"][0]}) == 3


def test_an_ensemble_of_seeds_is_traced_once():
    counting, traces = counted(loss_fn)
    found = gj.train.fit_ensemble(counting, PARAMS, optax.sgd(1e-3), DATA, keys=KEYS, steps=4)
    assert len(traces) == 1
    for i in range(3):
        assert_near(
            model_of(found.params, i),
            gj.train.fit(loss_fn, model_of(PARAMS, i), optax.sgd(1e-3), DATA, key=KEYS[i], steps=4).params,
        )


def test_a_model_with_nan_updates_keeps_its_parameters_and_the_others_continue():
    rates = jnp.array([1e-3, jnp.nan, 1e-2])
    found = run(steps=6, hyperparameters={"learning_rate": rates})
    assert found.skipped_updates.tolist() == [0, 6, 0]
    jax.tree.map(np.testing.assert_array_equal, model_of(found.params, 1), model_of(PARAMS, 1))
    assert np.isfinite(found.history["loss"]).all()


def test_an_ensemble_resumes_bit_for_bit(tmp_path):
    whole = run(steps=10)
    run(steps=5, checkpoint_dir=tmp_path)
    resumed = run(steps=10, checkpoint_dir=tmp_path)
    for ours, theirs in zip(jax.tree.leaves(resumed[:3]), jax.tree.leaves(whole[:3]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (tmp_path / "history.jsonl").unlink()
    with pytest.warns(UserWarning, match="the metrics of these steps are lost, and are NaN in the history: 0 to 9"):
        lost = run(steps=12, checkpoint_dir=tmp_path)
    assert np.isnan(lost.history["loss"][:10]).all()
    assert np.isfinite(lost.history["loss"][10:]).all()
    assert_raises(
        lambda: run(steps=10, checkpoint_dir=tmp_path, hyperparameters={"learning_rate": RATES * 2}),
        ValueError,
        "hyperparameters: ",
    )


def test_an_ensemble_trains_on_buckets_in_the_order_of_the_first_key():
    sequences = [np.ones((length, 2), np.float32) * length for length in (2, 5, 3, 6, 4)]
    source = gj.train.bucketed(sequences, 2, num_buckets=2)

    def mean_of(params, batch, key):
        return jnp.where(batch.mask[..., None], (batch.sequences * params - 1) ** 2, 0).sum() / batch.mask.sum(), {}

    params = jnp.array([0.1, 0.2, 0.3])
    found = gj.train.fit_ensemble(
        mean_of, params, optax.sgd, source, keys=KEYS, hyperparameters={"learning_rate": RATES}, steps=7
    )
    for i in range(3):
        alone = gj.train.fit(mean_of, params[i], optax.sgd(RATES[i]), source, key=KEYS[0], steps=7)
        assert_near(found.params[i], alone.params)


@pytest.mark.parametrize("wrong", ["params", "rates"])
def test_leading_axes_must_equal_the_number_of_keys(wrong):
    change = {"hyperparameters": {"learning_rate": RATES[:2]}} if wrong == "rates" else {}
    keys = KEYS if wrong == "rates" else KEYS[:2]
    message = (
        r"hyperparameters\['learning_rate'\]: got shape \(2,\), expected a first axis of length 3"
        if wrong == "rates"
        else r"params: got shape \(3, .*expected a first axis of length 2"
    )
    assert_raises(lambda: run(steps=1, keys=keys, **change), ValueError, message)


def test_a_single_key_raises():
    assert_raises(lambda: run(steps=1, keys=KEYS[0]), TypeError, r"keys: got key<fry>\[\], expected one key per model")


@pytest.mark.slow
def test_an_ensemble_trains_under_strict_dtype_and_rank_promotion():
    linear = lambda w, batch, key: (jnp.square((batch[0] * w[None, None]).sum((1, 2)) - batch[1][:, 0]).mean(), {})
    options = {"keys": KEYS, "hyperparameters": {"learning_rate": RATES.astype(jnp.float32)}, "steps": 3, "batch_size": 6}
    run = lambda: gj.train.fit_ensemble(linear, jnp.ones((3, 2), DATA[0].dtype), optax.sgd, DATA, **options)
    expected = run()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = run()
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)

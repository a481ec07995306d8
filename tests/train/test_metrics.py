"""Metrics that are arrays or nested: recorded with their shapes, averaged, saved and restored."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.train.problem import KEY

XS = jnp.arange(12.0).reshape(4, 3)


def loss_fn(params, batch, key):
    per_feature = batch.mean(0) * params
    return per_feature.sum(), {"by": {"feature": per_feature, "count": {"positive": (batch > 0).sum(0)}}, "number": 2.5}


def evaluate(params):
    confusion = jnp.array([[1, 2, 3], [4, 5, 6]]) + params.astype(int)
    return {"confusion": confusion, "of": {"mean": params + 0.25, "none": jnp.zeros((2, 0)), "bad": jnp.array([jnp.nan, 1.0])}}


fit = partial(
    gj.train.fit, loss_fn, jnp.float32(0), optax.sgd(-1.0 / float(XS.mean(0).sum())), XS, key=KEY, evaluate=evaluate
)  # the parameter counts the steps


def check(result, steps):
    np.testing.assert_allclose(result.history["by/feature"], np.arange(steps)[:, None] * XS.mean(0), rtol=1e-6)
    assert result.history["by/count/positive"].tolist() == [[3, 4, 4]] * steps
    assert np.issubdtype(result.history["by/count/positive"].dtype, np.integer)
    assert result.history["number"].tolist() == [2.5] * steps
    assert set(result.history) == {"loss", "by/feature", "by/count/positive", "number"}
    found = result.evaluations
    assert set(found) == {"step", "confusion", "of/mean", "of/none", "of/bad"}
    expected = np.array([[1, 2, 3], [4, 5, 6]]) + found["step"][:, None, None]
    np.testing.assert_array_equal(found["confusion"], expected)
    assert np.issubdtype(found["confusion"].dtype, np.integer)
    np.testing.assert_allclose(found["of/mean"], found["step"] + 0.25)
    assert found["of/none"].shape == (len(found["step"]), 2, 0)
    np.testing.assert_array_equal(found["of/bad"], np.tile([np.nan, 1], (len(found["step"]), 1)))


def test_arrays_and_nested_metrics_keep_their_shapes_also_after_a_resume(tmp_path):
    run = partial(fit, evaluate_every=2, checkpoint_dir=tmp_path, steps_per_execution=3)
    check(run(steps=4), 4)
    resumed = run(steps=7)
    check(resumed, 7)
    assert resumed.evaluations["step"].tolist() == [0, 2, 4, 6, 7]


def test_arrays_are_averaged_over_microbatches():
    whole, parts = fit(steps=2), fit(steps=2, grad_accumulation_steps=2)
    np.testing.assert_allclose(parts.history["by/feature"], whole.history["by/feature"], rtol=1e-6)
    np.testing.assert_allclose(parts.history["by/count/positive"], whole.history["by/count/positive"] / 2, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_ensemble_records_the_arrays_of_all_models(weighted):
    weight_fn = (lambda batch: batch.mean()) if weighted else None
    run = partial(gj.train.fit_ensemble, loss_fn, jnp.arange(2.0), optax.sgd(0.0), XS, keys=jax.random.split(KEY))
    result = run(steps=5, evaluate=evaluate, weight_fn=weight_fn)
    assert result.history["by/feature"].shape == (5, 2, 3)
    np.testing.assert_allclose(result.history["by/feature"][2], np.arange(2)[:, None] * XS.mean(0), rtol=1e-6)
    assert result.evaluations["confusion"].shape == (2, 2, 2, 3)

"""Updates with NaN or infinity are skipped and counted. Too many consecutive ones raise."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from gru_jax.train.batch_sources import BatchMaker, StepIndices
from tests.problems import assert_raises
from tests.train.problem import KEY, digest


def quadratic(values, kind="loss"):
    """Makes a loss function that is finite only at steps where `values` is.

    If `kind` is "gradient", the loss itself is finite, and the gradient is not.
    """

    def loss_fn(params, batch, key):
        (step,) = batch
        bad = jnp.asarray(values)[step.astype(int)]
        loss = (params["a"] ** 2).sum() + (params["b"] - 1) ** 2
        if kind == "loss":
            return loss + 0 * bad, {"seen": bad}
        # the loss is finite, but the gradient of one leaf is not
        return loss + jnp.sqrt(
            jnp.where(jnp.isfinite(bad), 1.0, 0.0) * params["b"] ** 2 + jnp.where(jnp.isfinite(bad), 1.0, 0.0)
        ), {"seen": bad}

    return loss_fn


PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}


def run(values, kind="loss", optimizer=None, **options):
    steps = jnp.arange(len(values), dtype=jnp.float32)
    optimizer = optimizer or optax.adam(0.1)
    return gj.train.fit(
        quadratic(values, kind), PARAMS, optimizer, Counter(steps), key=KEY, steps=len(values), steps_per_execution=4, **options
    )


class Counter:
    """A batch source in which each batch is the number of its step."""

    def __init__(self, steps):
        self.bucket_data = (steps,)

    def batch_makers(self):
        return (MAKER,)

    def step_indices(self, key, step, steps):
        return StepIndices(np.zeros(steps, np.int32), step + np.arange(steps, dtype=np.int32))

    def describe(self):
        return {"source": "counter"}


MAKER = BatchMaker(lambda data, number, key, shard: (number,))


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (np.nan, "loss"),
        (-np.inf, "loss"),
        (np.nan, "gradient"),
        (np.inf, "gradient"),
        pytest.param(np.inf, "loss", marks=pytest.mark.slow),
        pytest.param(-np.inf, "gradient", marks=pytest.mark.slow),
    ],
)
def test_an_update_with_nan_or_infinity_is_skipped_and_counted(bad, kind):
    values = [0.0, bad, 0.0, 0.0, bad, bad, 0.0, 0.0, 0.0]
    fitted = run(values, kind)
    finite = [value for value in values if np.isfinite(value)]
    assert fitted.skipped_updates == 3
    assert fitted.steps == 9
    assert digest((fitted.params, fitted.opt_state)) == digest(run(finite, kind)[:2])
    if kind == "loss":
        np.testing.assert_array_equal(np.isfinite(fitted.history["loss"]), np.isfinite(values))


def test_an_update_that_overflows_the_parameters_is_skipped():
    """The loss and the gradient are finite, but the new parameters would not be."""
    too_large = jnp.finfo(PARAMS["a"].dtype).max / 2  # the gradients are 2, −4 and 4
    fitted = run([0.0, 0.0, 0.0], optimizer=optax.sgd(too_large))
    assert fitted.skipped_updates == 3
    assert np.isfinite(fitted.history["loss"]).all()
    assert digest(fitted.params) == digest(PARAMS)


def test_a_skipped_update_keeps_the_carry():
    def counting(params, batch, key, carry):
        (step,) = batch
        return params * jnp.where(step == 1, jnp.nan, 1), {}, carry + 1

    source = Counter(jnp.arange(4.0))
    fitted = gj.train.fit(counting, jnp.ones(()), optax.sgd(0.1), source, key=KEY, steps=4, carry=jnp.zeros(2))
    assert fitted.carry.tolist() == [3, 3]


def test_the_history_file_has_null_for_nan_and_skipped_updates_are_counted_across_a_resume(tmp_path):
    values = [0.0, np.nan, 0.0, np.nan, np.nan, 0.0]
    run(values[:4], checkpoint_dir=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["loss"] is None for line in lines] == [False, True, False, True]

    def fit(steps):
        loss_fn = quadratic(values)
        return gj.train.fit(
            loss_fn,
            PARAMS,
            optax.adam(0.1),
            Counter(jnp.arange(6.0)),
            key=KEY,
            steps=steps,
            checkpoint_dir=tmp_path / "two",
            max_consecutive_nonfinite=4,
        )

    fit(4)
    resumed = fit(6)
    assert resumed.skipped_updates == 3
    assert np.isnan(resumed.history["loss"][[1, 3, 4]]).all()


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_too_many_consecutive_skipped_updates_raise_with_the_step_the_batch_and_the_norms(kind):
    values = [0.0, np.nan, 0.0, 0.0, 0.0, np.nan, np.nan, np.nan, np.nan, 0.0]
    message = r"3 consecutive updates, up to step 7.*At step 7 the loss was .*, and the batch was examples 7.*\['a'\]: gradient .*\['b'\]: gradient nan, parameter"
    if kind == "loss":
        message = message.replace("gradient nan", r"gradient \S+")
    with pytest.raises(FloatingPointError, match=message):
        run(values, kind, max_consecutive_nonfinite=3)
    assert run(values, kind, max_consecutive_nonfinite=5).skipped_updates == 5


SEQUENCES = [np.full((length, 1), 2.0, np.float32) for length in (5, 2, 9)]
BATCHES = {
    "arrays": (np.ones((3, 1), np.float32), {"batch_size": 3}, r"examples \[\d, \d, \d\]\."),
    "whole": (np.ones((3, 1), np.float32), {}, "all of data, or generated"),
    "buckets": (gj.train.bucketed(SEQUENCES, 1, num_buckets=3), {}, r"rows \(in order of length\) \[0\] of bucket [012]\."),
    "windows": (gj.train.windows(SEQUENCES, 2, 4), {}, r"window 1\."),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_the_error_names_the_batch_in_the_terms_of_its_source(kind):
    source, options, name = BATCHES[kind]
    loss_fn = lambda params, batch, key: (params * jnp.nan, {})
    fit = lambda: gj.train.fit(
        loss_fn, jnp.ones(()), optax.sgd(0.1), source, key=KEY, steps=5, max_consecutive_nonfinite=2, **options
    )
    assert_raises(fit, FloatingPointError, f"and the batch was {name}")


def test_the_last_checkpoint_before_the_error_is_finite(tmp_path):
    values = [0.0] * 4 + [np.nan] * 6
    with pytest.raises(FloatingPointError, match="up to step 6"):
        run(values, max_consecutive_nonfinite=3, checkpoint_dir=tmp_path, save_every=2)
    found = gj.train.load_params(tmp_path, PARAMS)
    assert digest(found) == digest(run(values[:4]).params)


def test_updates_are_also_skipped_with_microbatches():
    batch = jnp.array([1.0, 2.0, jnp.nan, 4.0])
    loss_fn = lambda params, batch, key: ((params * batch).mean(), {})
    fitted = gj.train.fit(loss_fn, jnp.ones(()), optax.sgd(0.1), batch, key=KEY, steps=3, grad_accumulation_steps=2)
    assert (fitted.skipped_updates, float(fitted.params)) == (3, 1.0)

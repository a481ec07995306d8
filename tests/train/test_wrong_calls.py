"""Wrong calls of gj.train: each raises at once and names the argument, or does what was meant."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from gru_jax.train.gradients import keys_of_step
from gru_jax.train.make_plan import make_training_plan
from gru_jax.train.tree_paths import named_leaves
from tests.problems import assert_raises
from tests.train.problem import KEY

W, DATA = jnp.ones(2), np.arange(24, dtype=np.float32).reshape(8, 3)
SEQUENCES = [np.ones((steps, 2), np.float32) for steps in (3, 5, 4, 6)]
KEYS = jax.random.split(KEY, 8)


def loss_fn(params, batch, key):
    return jnp.square(params).sum(), {}


def fit(data=DATA, params=W, optimizer=None, loss_fn=loss_fn, **options):
    return gj.train.fit(loss_fn, params, optimizer or optax.sgd(0.1), data, **({"key": KEY, "steps": 2} | options))


def evaluated(value):
    return fit(evaluate=lambda params: value)


WRONG = {
    "a key that is a number": (lambda: fit(key=0), TypeError, "key: got int, expected a jax.random key"),
    "a key that is None": (lambda: fit(key=None), TypeError, "key: got NoneType, expected a jax.random key"),
    "a batch of keys": (lambda: fit(key=KEYS), TypeError, r"key: got key<fry>\[8\].*Pass one of these keys"),
    "one key for an ensemble": (lambda: gj.train.fit_ensemble(loss_fn, jnp.ones((2, 2)), optax.sgd(0.1), DATA, keys=KEY, steps=1), TypeError, "keys: got .*expected one key per model"),
    "batch_size": (lambda: fit(batch_size=4.0), TypeError, r"batch_size: got 4.0 \(float\), expected an integer.*Pass int\(4.0\)"),
    "window": (lambda: gj.train.windows([DATA], 2, 2.5), TypeError, r"window: got 2.5 \(float\)"),
    "num_buckets": (lambda: gj.train.bucketed(SEQUENCES, 2, num_buckets=2.0), TypeError, "num_buckets: got 2.0"),
    "save_every": (lambda: fit(save_every=0.5, checkpoint_dir="x"), TypeError, "save_every: got 0.5"),
    "patience of 0": (lambda: gj.train.EarlyStopping("a", patience=0), ValueError, "patience: got 0, expected at least 1"),
    "patience as text": (lambda: gj.train.EarlyStopping("a", patience="2"), TypeError, "patience: got '2'"),
    "a metric by number": (lambda: gj.train.EarlyStopping(3), TypeError, "metric: got 3, expected the name of a metric"),
    "min_delta as text": (lambda: gj.train.EarlyStopping("a", min_delta="1"), TypeError, "min_delta: got '1'"),
    "min_delta of None": (lambda: gj.train.EarlyStopping("a", min_delta=None), TypeError, "min_delta: got None"),
    "resume as text": (lambda: fit(resume="no", checkpoint_dir="x"), TypeError, "resume: got 'no'.*expected True or False"),
    "progress as text": (lambda: fit(progress="no"), TypeError, "progress: got 'no'.*expected True or False"),
    "keys as data": (lambda: fit(KEYS), TypeError, "data: got dtype key<fry>, expected numbers.*key_data"),
    "keys in a tree": (lambda: fit({"xs": DATA, "ks": KEYS}), TypeError, r"data\['ks'\]: got dtype key<fry>"),
    "keys as sequences": (lambda: gj.train.bucketed([KEYS], 2), TypeError, r"sequences\[0\]: got dtype key<fry>"),
    "keys in windows": (lambda: gj.train.windows([KEYS], 2, 2), TypeError, r"sequences\[0\]: got dtype key<fry>"),
    "text as data": (lambda: fit(np.array(["a", "b"])), TypeError, "data: got dtype <U1, expected numbers"),
    "objects as data": (lambda: fit(np.array([object()] * 4)), TypeError, "data: got dtype object, expected numbers"),
    "other numbers of examples": (lambda: fit((DATA, DATA[:7])), ValueError, r"data: got leading axes \[7, 8\]"),
    "no data": (lambda: fit(None), TypeError, "data: got NoneType, expected arrays"),
    "another structure": (lambda: gj.train.bucketed([SEQUENCES[0], (SEQUENCES[1], SEQUENCES[1])], 2), ValueError, r"sequences\[1\]: got the structure .* like sequences\[0\]"),
    "other names": (lambda: gj.train.windows([{"a": DATA}, {"b": DATA}], 2, 2), ValueError, r"sequences\[1\]: got the structure"),
    "other features": (lambda: gj.train.bucketed([SEQUENCES[0], np.ones((3, 5))], 2), ValueError, r"sequences\[1\]: got features of shape \[\(5,\)\], expected \[\(2,\)\]"),
    "other features in windows": (lambda: gj.train.windows([DATA, np.ones((3, 5))], 2, 2), ValueError, r"sequences\[1\]: got features"),
    "other labels": (lambda: gj.train.bucketed(SEQUENCES, 2, labels=[1, 2, (3, 4), 5]), ValueError, r"labels\[2\]: got the structure"),
    "labels of other shapes": (lambda: gj.train.bucketed(SEQUENCES, 2, labels=[np.ones(2), np.ones(3), np.ones(2), np.ones(2)]), ValueError, r"labels\[1\]: got features of shape \[\(3,\)\]"),
    "a pair for one sequence": (lambda: gj.train.windows((DATA, DATA), 2, 2), TypeError, r"sequences: got tuple, expected a list.*\[\(xs, ys\)\]"),
    "an array for one sequence": (lambda: gj.train.windows(DATA, 2, 2), TypeError, r"sequences: got an array of shape \(8, 3\), expected a list"),
    "an array of sequences": (lambda: gj.train.bucketed(np.ones((4, 5, 2)), 2), TypeError, r"sequences: got an array of shape \(4, 5, 2\)"),
    "a metric that is text": (lambda: fit(loss_fn=lambda w, b, k: (w.sum(), {"a": "x"})), TypeError, "loss_fn: got the metric 'a' of type str"),
    "an evaluation that is text": (lambda: evaluated({"a": "x"}), TypeError, "evaluate: got the metric 'a' of type str"),
    "no evaluation": (lambda: evaluated(None), TypeError, "evaluate: got metrics of type NoneType"),
    "a loss that is text": (lambda: fit(loss_fn=lambda w, b, k: ("x", {})), TypeError, "loss_fn: got a loss of type str"),
    "a loss that is an integer": (lambda: fit(loss_fn=lambda w, b, k: (jnp.int32(3), {})), TypeError, "loss_fn: got a loss of dtype int32"),
    "a loss that is None": (lambda: fit(loss_fn=lambda w, b, k: (None, {})), TypeError, "loss_fn: got a loss of type NoneType"),
    "params that are text": (lambda: fit(params={"a": "x"}), TypeError, r"params\['a'\]: got str, expected an array"),
    "params that are integers": (lambda: fit(params=jnp.arange(3)), TypeError, "params: got .*without floating-point numbers"),
    "no params": (lambda: fit(params=None), TypeError, "params: got NoneType without floating-point numbers"),
    "an optimiser that is not called": (lambda: fit(optimizer=optax.sgd), TypeError, "optimizer: got function.*Call it"),
    "devices by name": (lambda: gj.train.data_mesh(["cpu"]), TypeError, "devices: got .*expected a list of devices"),
    "devices by number": (lambda: gj.train.data_mesh(2), TypeError, "devices: got 2, expected a list of devices"),
    "no devices": (lambda: gj.train.data_mesh([]), TypeError, r"devices: got \[\], expected a list of devices"),
    "a directory by number": (lambda: fit(checkpoint_dir=3), TypeError, "checkpoint_dir: got int, expected the path"),
    "a path by number": (lambda: gj.train.load_params(3, W), TypeError, "path: got int, expected the path"),
    "a path of None": (lambda: gj.train.save_params(None, W), TypeError, "path: got NoneType, expected the path"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_raises_and_names_the_argument(name):
    assert_raises(*WRONG[name])


def test_paths_that_are_something_else_raise(tmp_path):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "run"):
        message = "checkpoint_dir: got .*which is or lies in something else than a directory"
        assert_raises(lambda directory=directory: fit(checkpoint_dir=directory), NotADirectoryError, message)
    assert_raises(lambda: gj.train.save_params(tmp_path, W), IsADirectoryError, "path: got .*, a directory, expected")
    missing = tmp_path / "missing" / "params.safetensors"
    assert_raises(lambda: gj.train.save_params(missing, W), FileNotFoundError, "path: got .*Make .*missing first")
    assert_raises(lambda: gj.train.load_params(missing, W), FileNotFoundError, "path: got .*does not exist")


def drawn_by_default_rng(key):
    return jax.random.normal(key, (4,)) + np.random.default_rng().normal(size=4)


COUNT = itertools.count()
IMPURE = {
    "NumPy": lambda key: np.random.normal(size=3),  # noqa: NPY002
    "a number of NumPy": lambda key: jax.random.normal(key) * np.random.normal(),  # noqa: NPY002
    "a generator of NumPy": drawn_by_default_rng,
    "jit": jax.jit(drawn_by_default_rng),
    "Python": lambda key: jax.random.normal(key) + random.random(),
    "a size": lambda key: jax.random.normal(key, (random.randint(1, 10**6),)),
    "a number of operations": lambda key: jax.random.normal(key) + sum([1.0] * next(COUNT), jnp.zeros(())),
    "a loop": lambda key: jax.lax.scan(lambda c, x: (c + random.random(), x), 0.0, jnp.arange(3))[0],
}
PURE = {
    "a constant": lambda key: (jnp.ones(3), np.arange(4)),
    "a table": lambda key: jnp.asarray(np.arange(5.0))[jax.random.randint(key, (2,), 0, 5)],
    "jit": jax.jit(lambda key: jax.random.normal(key) * 2.5),
    "NaN": lambda key: jnp.nan * jax.random.normal(key),
    "keys": lambda key: {"split": jax.random.split(key), "constant": jax.random.key(3)},
    "an activation": lambda key: jax.nn.relu(jax.random.normal(key, (3,))),
}


@pytest.mark.parametrize("name", IMPURE)
def test_data_that_are_drawn_without_the_key_raise(name):
    message = "data: got a function that returns something else.*Draw with jax.random and the key"
    assert_raises(lambda: gj.train.batches(IMPURE[name], key=KEY), ValueError, message)


@pytest.mark.parametrize("name", PURE)
def test_data_that_are_drawn_with_the_key_are_accepted(name):
    step_key = jax.random.split(KEY)[1]
    for step, batch in enumerate(itertools.islice(gj.train.batches(PURE[name], key=KEY), 2)):
        expected = PURE[name](keys_of_step(step_key, step).data)
        assert jax.tree.structure(batch) == jax.tree.structure(expected)
        for ours, theirs in zip(named_leaves(batch).values(), named_leaves(expected).values(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "dtype"),
    [
        (np.int64(1), 1.5, np.float64),
        (np.uint8(1), np.int64(300), np.int64),
        (np.float32(1), 2.5, np.float64),
        (True, 3, np.int64),
    ],
)
def test_sequences_and_labels_of_different_dtypes_keep_their_values(first, second, dtype):
    sequences = [np.full((3, 2), first), np.full((3, 2), second)]
    for num_buckets in (1, 2):
        source = gj.train.bucketed(sequences, 2, labels=[first, second], num_buckets=num_buckets)
        found = np.concatenate([np.asarray(bucket.sequences)[:, 0, 0] for bucket in source.bucket_data])
        assert found.tolist() == [first, second]
        assert {bucket.sequences.dtype for bucket in source.bucket_data} == {np.dtype(dtype)}
    assert source.bucket_data[1].labels.tolist() == [second]


def test_a_callback_may_keep_what_it_receives():
    kept = []
    fitted = fit(steps=3, steps_per_execution=1, callbacks=[kept.append], optimizer=optax.adam(0.1), ema=0.5)
    assert [info.step for info in kept] == [1, 2, 3]
    for info in kept:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((info.params, info.opt_state, info.ema_params)))
    np.testing.assert_array_equal(kept[-1].params, fitted.params)
    assert not np.array_equal(kept[0].params, kept[1].params)


@pytest.mark.parametrize(
    ("steps", "steps_per_execution", "every", "expected"),
    [(20, 100, None, 100), (20, 10**9, None, 1000), (5000, 10**9, None, 5000), (10**9, 10**9, 2000, 2000), (10**9, 7, None, 7)],
)
def test_an_execution_has_room_for_no_more_steps_than_it_may_take(steps, steps_per_execution, every, expected):
    plan = make_training_plan(
        loss_fn=loss_fn, optimizer=optax.sgd(0.1), data=DATA, key=KEY, steps=steps, batch_size=None, grad_accumulation_steps=1,
        weight_fn=None, evaluate=every and (lambda params: {"a": params.sum()}), evaluate_every=every, callbacks=(), progress=False,
        checkpoint_dir=None, save_every=None, max_to_keep=2, config=None, resume=True, mesh=None,
        steps_per_execution=steps_per_execution, per_example_keys=False, allow_changes=(),
    )  # fmt: skip
    assert plan.indices_per_execution == expected

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


def batches_without_argument():
    yield DATA


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
    "a loss of two arguments": (lambda: fit(loss_fn=lambda w, b: (w.sum(), {})), TypeError, r"loss_fn: got a function that cannot be called with 3 arguments .*expected a function loss_fn\(params, batch, key\)"),
    "a carry that the loss does not take": (lambda: fit(carry=jnp.zeros((8, 2))), TypeError, r"loss_fn: .*with 4 arguments .*loss_fn\(params, batch, key, carry\)"),
    "a callback of no argument": (lambda: fit(callbacks=[lambda: None]), TypeError, r"callbacks\[0\]: .*with 1 argument \("),
    "an evaluation of two arguments": (lambda: fit(evaluate=lambda w, x: {}), TypeError, r"evaluate: .*expected a function evaluate\(params\)"),
    "eval_params of one argument": (lambda: fit(evaluate=lambda w: {}, eval_params=lambda p: p), TypeError, "eval_params: .*with 2 arguments"),
    "a data function of two arguments": (lambda: fit(lambda a, b: DATA), TypeError, r"data: .*with 1 argument .*data\(key\)"),
    "a generator function": (lambda: fit(batches_without_argument), TypeError, "data: .*Call it, to pass the batches that it yields"),
    "a data function of no arrays": (lambda: fit(lambda key: None), TypeError, "data: got a function that returns no arrays"),
    "no examples": (lambda: fit(DATA[:0]), ValueError, "data: got arrays of 0 examples"),
    "a weight for each number": (lambda: fit(weight_fn=lambda b: b, grad_accumulation_steps=2), TypeError, r"weight_fn: got float32\[4, 3\] as its result, expected a real scalar"),
    "no weight": (lambda: fit(weight_fn=lambda b: None, grad_accumulation_steps=2), TypeError, "weight_fn: got NoneType as its result"),
    "patience without evaluate_every": (lambda: fit(evaluate=lambda w: {"a": w.sum()}, early_stopping=gj.train.EarlyStopping("a", patience=2)), ValueError, "early_stopping: got patience=2 without evaluate_every"),
    "min_delta of infinity": (lambda: gj.train.EarlyStopping("a", min_delta=float("inf")), ValueError, "min_delta: got inf, expected a finite number"),
    "hyperparameters in a list": (lambda: gj.train.fit_ensemble(loss_fn, jnp.ones((8, 2)), optax.sgd, DATA, keys=KEYS, steps=1, hyperparameters=[0.1]), TypeError, "hyperparameters: got list, expected a dict"),
    "hyperparameters of other names": (lambda: gj.train.fit_ensemble(loss_fn, jnp.ones((8, 2)), optax.sgd, DATA, keys=KEYS, steps=1, hyperparameters={"lr": jnp.ones(8)}), TypeError, "optimizer: got a function without the parameters lr"),
    "labels that are text": (lambda: gj.train.bucketed(SEQUENCES, 2, labels=list("abcd")), TypeError, r"labels\[0\]: got str"),
    "a position that is text": (lambda: gj.train.batches(DATA, 2, key=KEY).set_state("a"), TypeError, "state: got 'a', expected what get_state returned"),
    "a position before the start": (lambda: gj.train.batches(DATA, 2, key=KEY).set_state({"step": -1}), ValueError, r"state\['step'\]: got -1"),
    "finite text": (lambda: gj.train.all_finite({"a": "x"}), TypeError, r"tree\['a'\]: got str"),
    "an empty path": (lambda: fit(checkpoint_dir=""), ValueError, "checkpoint_dir: got '', expected the path"),
    "a path with a null": (lambda: fit(checkpoint_dir="a\0b"), ValueError, "checkpoint_dir: got 'a.x00b', expected the path"),
    "a path in the home directory": (lambda: fit(checkpoint_dir="~/run"), ValueError, r"checkpoint_dir: got '~/run'.*os.path.expanduser"),
    "a path that is too long": (lambda: fit(checkpoint_dir=5000 * "x"), OSError, "checkpoint_dir: .*xx.* cannot be made"),
    "no directory to save to": (lambda: gj.train.save_checkpoint(None, W, 1), TypeError, "checkpoint_dir: got NoneType, expected the path"),
    "no state to save": (lambda: gj.train.save_checkpoint("x", None, 1), ValueError, "state: got NoneType without arrays"),
    "objects to save": (lambda: gj.train.save_checkpoint("x", np.array([object()]), 1), TypeError, "state: got ndarray, expected an array of numbers"),
    "objects as params to save": (lambda: gj.train.save_params("x", np.array([object()])), TypeError, "params: got ndarray at params"),
    "a step beyond names": (lambda: gj.train.save_checkpoint("x", W, 10**12), ValueError, "step: got 1000000000000, expected at most 999999999999"),
    "no directory to restore": (lambda: gj.train.restore_checkpoint(None, W), TypeError, "checkpoint_dir: got NoneType, expected the path"),
    "a file to restore": (lambda: gj.train.restore_checkpoint(__file__, W), NotADirectoryError, "checkpoint_dir: got .*which is not a directory"),
    "text to restore": (lambda: gj.train.restore_checkpoint("x", {"a": "x"}), TypeError, r"like: got str at \['a'\], expected an array"),
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


def test_checkpoints_of_other_functions_and_of_later_steps_are_told(tmp_path):
    gj.train.save_checkpoint(tmp_path / "own", W, 1)
    message = "path: got .*own, which save_checkpoint wrote, expected a run of fit. Call restore_checkpoint"
    assert_raises(lambda: gj.train.load_params(tmp_path / "own", W), ValueError, message)
    found = gj.train.restore_checkpoint(tmp_path / "own", jax.eval_shape(lambda: W))  # a description is enough
    np.testing.assert_array_equal(found.state, W)
    fit(checkpoint_dir=tmp_path / "run", steps=3)
    with pytest.warns(UserWarning, match="steps: got 2, but the run in .*run has already taken 3 steps"):
        assert fit(checkpoint_dir=tmp_path / "run", steps=2).steps == 3


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

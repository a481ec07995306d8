"""`fit` learns, is reproducible, sees every example, compiles once, and rejects bad input."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from gru_jax.train.epoch_order import batch_rows
from tests.problems import assert_raises
from tests.train.problem import KEY, D, N, T, counted, data, init, init_readout, readout_loss_fn

DATA = data()
XS = DATA[0]


def loss_fn(params, batch, key):
    xs, targets = batch
    h_last, _ = gj.unroll(gj.gru(), params.cell, xs, time_major=False)
    loss = gj.heads.squared_error(gj.heads.dense(params.readout, h_last), targets).mean()
    return loss, {"root": jnp.sqrt(loss)}


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
fit = partial(gj.train.fit, loss_fn, init(), OPTIMIZER, DATA, key=KEY)


def identical(a, b):
    return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.slow
def test_fit_learns_to_count_ones():
    fitted = fit(steps=600, batch_size=10)
    assert fitted.history["loss"].shape == fitted.history["root"].shape == (600,)
    assert fitted.history["loss"][0] > 10
    assert fitted.history["loss"][-50:].mean() < 0.1


def test_fit_takes_the_same_steps_as_a_plain_loop():
    params, opt_state = init(), OPTIMIZER.init(init())
    losses = []

    @jax.jit
    def step(params, opt_state):
        (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, DATA, KEY)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for _ in range(7):
        params, opt_state, loss = step(params, opt_state)
        losses.append(loss)
    fitted = fit(steps=7, steps_per_execution=3)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-4)
    for ours, plain in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-5)


def test_steps_per_execution_does_not_change_the_losses():
    one, many = fit(steps=11, batch_size=10), fit(steps=11, batch_size=10, steps_per_execution=3)
    np.testing.assert_allclose(one.history["loss"], many.history["loss"], rtol=1e-5)


def test_a_run_is_reproducible_bit_for_bit_and_depends_on_the_key():
    first, second = fit(steps=12, batch_size=10), fit(steps=12, batch_size=10)
    assert identical(first.params, second.params)
    assert identical(first.opt_state, second.opt_state)
    assert identical(first.history, second.history)
    other = gj.train.fit(loss_fn, init(), OPTIMIZER, DATA, key=jax.random.key(5), steps=12, batch_size=10)
    assert not identical(first.history, other.history)


def test_the_initial_parameters_are_not_changed():
    params = init()
    gj.train.fit(loss_fn, params, OPTIMIZER, DATA, key=KEY, steps=3, steps_per_execution=3)
    assert identical(params, init())


def test_every_epoch_has_each_example_once_and_batches_depend_only_on_key_and_step():
    batches = np.asarray(batch_rows(KEY, 0, examples=N, batch_size=6, steps=20))  # 6 epochs of 20
    for epoch in batches.reshape(6, N):
        assert sorted(epoch) == list(range(N))
    assert len({tuple(epoch) for epoch in batches.reshape(6, N)}) == 6
    for start in (0, 1, 7, 13):
        again = batch_rows(KEY, start, examples=N, batch_size=6, steps=5)
        assert (batches[start : start + 5] == np.asarray(again)).all()
    far = batch_rows(KEY, 10**12, examples=N, batch_size=6, steps=2)  # beyond int32
    assert ((far >= 0) & (far < N)).all()


def test_fit_compiles_once_per_batch_shape_for_any_number_of_steps(tmp_path):
    counting, traces = counted(readout_loss_fn)
    run = partial(gj.train.fit, counting, init_readout(), OPTIMIZER, DATA, key=KEY, steps_per_execution=5, batch_size=4)
    run(steps=20)
    run(steps=22)
    run(steps=3, evaluate=lambda params: {}, evaluate_every=2)
    assert len(traces) == 1
    run(steps=12, checkpoint_dir=tmp_path)
    run(steps=21, checkpoint_dir=tmp_path)  # resumed
    assert len(traces) == 1
    run(steps=3, batch_size=6)
    assert len(traces) == 2


def test_a_weakly_typed_parameter_does_not_compile_a_second_time():
    counting, traces = counted(lambda params, batch, key: (jnp.square(params - 1.0).sum(), {}))
    params = jnp.full(3, -3.0)
    assert params.weak_type
    fitted = gj.train.fit(
        counting, params, optax.sgd(0.1), lambda key: jax.random.normal(key), key=KEY, steps=15, steps_per_execution=5
    )
    assert len(traces) == 1
    assert not fitted.params.weak_type


def test_data_can_be_generated_from_a_key():
    def make(key):
        xs = jax.random.bernoulli(key, 0.5, (8, T, D)).astype(jnp.float32)
        return xs, xs.sum((1, 2))[:, None]

    fitted = gj.train.fit(readout_loss_fn, init_readout(), optax.adam(0.1), make, key=KEY, steps=30)
    assert len(set(fitted.history["loss"].tolist())) == 30
    assert fitted.history["loss"][-5:].mean() < fitted.history["loss"][:5].mean()


def test_each_step_has_its_own_key():
    draw = lambda params, batch, key: ((params * jax.random.normal(key)).sum(), {"draw": jax.random.normal(key)})
    fitted = gj.train.fit(draw, jnp.ones(2), optax.sgd(0.0), jnp.ones((3, 1)), key=KEY, steps=9, steps_per_execution=4)
    assert len(set(fitted.history["draw"].tolist())) == 9


def test_evaluation_follows_its_schedule():
    evaluate = lambda params: {"size": jnp.abs(params.readout.V).sum()}
    fitted = fit(steps=10, evaluate=evaluate, evaluate_every=4)
    assert fitted.evaluations["step"].tolist() == [0, 4, 8, 10]
    assert fitted.evaluations["size"].shape == (4,)
    np.testing.assert_allclose(fitted.evaluations["size"][0], jnp.abs(init().readout.V).sum(), rtol=1e-6)
    np.testing.assert_allclose(fitted.evaluations["size"][-1], jnp.abs(fitted.params.readout.V).sum(), rtol=1e-6)
    assert fit(steps=3, evaluate=evaluate).evaluations["step"].tolist() == [0, 3]
    assert fit(steps=8, evaluate=evaluate, evaluate_every=4).evaluations["step"].tolist() == [0, 4, 8]
    interrupted = fit(steps=10, evaluate=evaluate, evaluate_every=4, steps_per_execution=3)
    assert interrupted.evaluations["step"].tolist() == [0, 4, 8, 10]
    assert fit(steps=3).evaluations == {}


def test_the_progress_bar_shows_the_loss(capsys):
    fit(steps=6, steps_per_execution=3, progress=True)
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "loss=" in shown


def test_progress_without_tqdm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"progress: got True, expected tqdm.*pip install tqdm"):
        fit(steps=1, progress=True)


def test_optax_schedules_and_injected_hyperparameters_work():
    schedule = optax.piecewise_constant_schedule(1e-2, {3: 0.0})
    run = partial(gj.train.fit, readout_loss_fn, init_readout(), data=DATA, key=KEY)
    fitted = run(optimizer=optax.sgd(schedule), steps=6)
    after_three = run(optimizer=optax.sgd(1e-2), steps=3)
    assert identical(fitted.params, after_three.params)
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    fitted = run(optimizer=injected, steps=6)
    assert identical(fitted.params, after_three.params)
    assert float(fitted.opt_state.hyperparams["learning_rate"]) == 0


def test_an_optimiser_that_needs_the_loss_receives_it():
    optimizer = optax.chain(optax.sgd(1e-2), optax.contrib.reduce_on_plateau(patience=1, factor=0.5, rtol=1.0))
    fitted = gj.train.fit(loss_fn, init(), optimizer, DATA, key=KEY, steps=9)
    assert 0 < float(fitted.opt_state[1].scale) < 1


@pytest.mark.parametrize("parts", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_microbatches_give_the_gradient_of_the_whole_batch(parts):
    whole, in_parts = fit(steps=6, batch_size=10), fit(steps=6, batch_size=10, grad_accumulation_steps=parts)
    for ours, theirs in zip(
        jax.tree.leaves((in_parts.params, in_parts.history["loss"])),
        jax.tree.leaves((whole.params, whole.history["loss"])),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_each_microbatch_has_its_own_key():
    def draw(params, batch, key):
        drawn = jax.random.normal(key)
        return params * drawn, {"draw": drawn, "square": drawn**2}

    batch = jnp.ones((4, 1))
    fitted = gj.train.fit(draw, jnp.ones(()), optax.sgd(0.0), batch, key=KEY, steps=3, grad_accumulation_steps=2)
    assert (fitted.history["square"] - fitted.history["draw"] ** 2 > 1e-4).all()  # the variance


def test_weight_fn_makes_microbatches_of_a_masked_mean_equal_the_whole_batch():
    """The microbatches have different numbers of valid steps, so that equal weights are wrong."""
    mask = jnp.arange(T) < jnp.array([1, 2, 6, 6])[:, None]
    batch = (jax.random.normal(KEY, (4, T)), mask)

    def masked(params, batch, key):
        values, mask = batch
        return jnp.where(mask, (params * values - 1) ** 2, 0).sum() / mask.sum(), {}

    run = partial(gj.train.fit, masked, jnp.float32(2), optax.sgd(0.1), batch, key=KEY, steps=4)
    whole = float(run().params)
    np.testing.assert_allclose(
        float(run(grad_accumulation_steps=2, weight_fn=lambda batch: batch[1].sum()).params), whole, rtol=1e-5
    )
    assert abs(float(run(grad_accumulation_steps=2).params) - whole) > 1e-3


def test_early_stopping_keeps_the_best_parameters():
    values = jnp.array([5.0, 3.0, 4.0, jnp.nan, 3.5, 1.0])
    drift = lambda params, batch, key: (-params, {})  # the parameter counts the steps
    fit_with = lambda rule, steps=6: gj.train.fit(
        drift,
        jnp.float32(0),
        optax.sgd(1.0),
        jnp.ones(2),
        key=KEY,
        steps=steps,
        evaluate=lambda params: {"metric": values[params.astype(int)]},
        evaluate_every=1,
        early_stopping=rule,
    )
    stopped = fit_with(gj.train.EarlyStopping("metric", patience=3), steps=5)
    assert (stopped.steps, stopped.stop_reason, stopped.best_step, float(stopped.best_params)) == (4, "early_stopping", 1, 1.0)
    kept = fit_with(gj.train.EarlyStopping("metric"), steps=5)
    assert (kept.steps, kept.stop_reason, kept.best_step) == (5, None, 5)
    most = fit_with(gj.train.EarlyStopping("metric", mode="max"), steps=5)
    assert (most.best_step, float(most.best_params)) == (0, 0.0)
    assert fit_with(gj.train.EarlyStopping("metric", min_delta=2.5), steps=5).best_step == 5
    assert fit(steps=2).best_params is None
    assert not gj.train.EarlyStopping("metric").improves(1.0, 1.0)


def test_a_callback_is_called_after_every_execution_and_may_stop_training():
    seen = []

    def callback(info):
        seen.append((info.step, info.metrics["loss"].shape, jax.tree.structure(info.params) == jax.tree.structure(init())))
        return info.step >= 6

    fitted = fit(steps=20, steps_per_execution=3, callbacks=[callback])
    assert seen == [(3, (3,), True), (6, (3,), True)]
    assert (fitted.steps, fitted.stop_reason, len(fitted.history["loss"])) == (6, "callback", 6)
    for kind, stops in {np.bool_: True, jnp.asarray: True, int: False, lambda value: [value]: False}.items():
        fitted = fit(steps=9, steps_per_execution=3, callbacks=[lambda info, kind=kind: kind(info.step >= 6)])
        assert (fitted.steps, fitted.stop_reason) == ((6, "callback") if stops else (9, None)), kind


@pytest.mark.parametrize(
    "options",
    [{}, {"grad_accumulation_steps": 2, "weight_fn": lambda batch: (batch[0] >= 0).sum()}],
    ids=["plain", "microbatches"],
)
def test_fit_works_under_strict_dtype_and_rank_promotion(options):
    """The model is only a read-out. One metric is an integer, whose mean is a floating-point number."""

    def dense_loss_fn(params, batch, key):
        xs, targets = batch
        loss = gj.heads.squared_error(gj.heads.dense(params, xs.sum(1)), targets).mean()
        return loss, {"ones": (xs > 0).sum()}

    params = init().readout._replace(V=jnp.ones((D, 1), XS.dtype), b_y=jnp.zeros(1, XS.dtype))
    run = lambda: gj.train.fit(
        dense_loss_fn,
        params,
        optax.sgd(1e-2, momentum=0.9),
        DATA,
        key=KEY,
        steps=4,
        batch_size=4,
        evaluate=lambda params: {},
        **options,
    )
    expected = run()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        result = run()
    assert identical(result.params, expected.params)
    assert identical(result.history, expected.history)


def constant(result):
    return lambda params, batch, key: result


BAD = {
    "a loss without metrics": (lambda: gj.train.fit(constant(jnp.ones(())), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got .* as its result, expected \(loss, metrics\)"),
    "three results without a carry": (lambda: gj.train.fit(constant((jnp.ones(()), {}, 0)), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got a tuple of length 3 as its result, expected \(loss, metrics\)"),
    "a loss per example": (lambda: gj.train.fit(constant((jnp.ones(3), {})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got a loss of shape \(3,\), expected a scalar.*mean"),
    "metrics that are lists": (lambda: gj.train.fit(constant((jnp.ones(()), {"a": {"b": [1, 2]}})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got the metric 'a/b' of type list, expected a real number or an array"),
    "metrics that are strings": (lambda: gj.train.fit(constant((jnp.ones(()), {"a": "b"})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got the metric 'a' of type str, expected a real number"),
    "complex metrics": (lambda: gj.train.fit(constant((jnp.ones(()), {"a": jnp.ones(3, complex)})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got the metric 'a' of shape \(3,\) and dtype complex"),
    "two metrics of one name": (lambda: gj.train.fit(constant((jnp.ones(()), {"a/b": 1.0, "a": {"b": 2.0}})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), ValueError, r"loss_fn: got two metrics named 'a/b'"),
    "early stopping on an array": (lambda: fit(steps=1, early_stopping=gj.train.EarlyStopping("a"), evaluate=lambda p: {"a": jnp.ones((2, 3))}), ValueError, r"early_stopping: got the metric 'a' of shape \(2, 3\), expected a scalar"),
    "an optimiser's state of another optimiser": (lambda: fit(steps=1, opt_state=optax.sgd(1e-2, momentum=0.9).init(init())), ValueError, r"opt_state: \[0\]\.trace\.cell\.W_z: float\d\d\[2, 7\] given, nothing expected; .*; …\. Pass a state of the same optimizer"),
    "a metric named loss": (lambda: gj.train.fit(constant((jnp.ones(()), {"loss": jnp.ones(())})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), ValueError, r"loss_fn: got a metric named 'loss'"),
    "a metric named step": (lambda: gj.train.fit(constant((jnp.ones(()), {"step": jnp.ones(())})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), ValueError, r"loss_fn: got a metric named 'step'"),
    "steps": (lambda: fit(steps=0), ValueError, r"steps: got 0, expected at least 1"),
    "steps per execution": (lambda: fit(steps=1, steps_per_execution=0), ValueError, r"steps_per_execution: got 0"),
    "evaluate every": (lambda: fit(steps=1, evaluate_every=-1), ValueError, r"evaluate_every: got -1"),
    "evaluate every without evaluate": (lambda: fit(steps=1, evaluate_every=5), ValueError, "evaluate_every: got 5 without evaluate, expected both or neither. Pass evaluate=…"),
    "batch too large": (lambda: fit(steps=1, batch_size=N + 1), ValueError, r"batch_size: got 21, expected 1 to 20"),
    "an empty batch": (lambda: fit(steps=1, batch_size=0), ValueError, r"batch_size: got 0, expected 1 to 20"),
    "data of different lengths": (lambda: gj.train.fit(loss_fn, init(), OPTIMIZER, (XS, XS[:3]), key=KEY, steps=1), ValueError, r"data: got leading axes \[3, 20\]"),
    "steps as a float": (lambda: fit(steps=4.0), TypeError, r"steps: got 4.0 \(float\), expected an integer of at least 1. Pass int\(4.0\)"),
    "steps as a bool": (lambda: fit(steps=True), TypeError, r"steps: got True \(bool\), expected an integer"),
    "steps as a string": (lambda: fit(steps="4"), TypeError, r"steps: got '4' \(str\), expected an integer"),
    "batch size as a fraction": (lambda: fit(steps=1, batch_size=2.5), TypeError, r"batch_size: got 2.5 \(float\), expected an integer"),
    "microbatches as a float": (lambda: fit(steps=1, grad_accumulation_steps=2.0), TypeError, r"grad_accumulation_steps: got 2.0 \(float\), expected an integer"),
    "skipped updates as a float": (lambda: fit(steps=1, max_consecutive_nonfinite=1e3), TypeError, r"max_consecutive_nonfinite: got 1000.0 \(float\)"),
    "a patience of zero": (lambda: gj.train.EarlyStopping("loss", patience=0), ValueError, "patience: got 0, expected at least 1"),
    "a negative min_delta": (lambda: gj.train.EarlyStopping("loss", min_delta=-1.0), ValueError, "min_delta: got -1.0, expected"),
    "progress as a number": (lambda: fit(steps=1, progress=1), TypeError, r"progress: got 1 \(int\), expected True or False"),
    "resume as a string": (lambda: fit(steps=1, resume="no"), TypeError, r"resume: got 'no' \(str\), expected True or False"),
    "a key as a number": (lambda: gj.train.fit(loss_fn, init(), OPTIMIZER, DATA, key=0, steps=1), TypeError, r"key: got int, expected a jax.random key, for example jax.random.key\(0\)"),
    "several keys": (lambda: gj.train.fit(loss_fn, init(), OPTIMIZER, DATA, key=jax.random.split(KEY), steps=1), TypeError, r"key: got key<fry>\[2\], expected a jax.random key"),
    "an optimiser that was not called": (lambda: gj.train.fit(loss_fn, init(), optax.adam, DATA, key=KEY, steps=1), TypeError, r"optimizer: got function, expected an optax.GradientTransformation. Call it: adam\(learning_rate\)"),
    "no loss function": (lambda: gj.train.fit(None, init(), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got NoneType, expected a function loss_fn\(params, batch, key\)"),
    "a callback outside a list": (lambda: fit(steps=1, callbacks=print), TypeError, r"callbacks: got builtin_function_or_method, expected a sequence of functions"),
    "no data": (lambda: gj.train.fit(loss_fn, init(), OPTIMIZER, None, key=KEY, steps=1), TypeError, r"data: got NoneType, expected arrays"),
    "save_every without checkpoint_dir": (lambda: fit(steps=1, save_every=5), ValueError, "save_every: got 5 without checkpoint_dir, expected both or neither"),
    "max_to_keep": (lambda: fit(steps=1, max_to_keep=1), ValueError, "max_to_keep: got 1, expected at least 2"),
    "grad_accumulation_steps": (lambda: fit(steps=1, batch_size=10, grad_accumulation_steps=3), ValueError, r"grad_accumulation_steps: got 3 for a batch of shape \(10, 6, 2\)"),
    "early stopping without evaluate": (lambda: fit(steps=1, early_stopping=gj.train.EarlyStopping("loss")), ValueError, "early_stopping: got the metric 'loss' without evaluate"),
    "early stopping as a number": (lambda: fit(steps=1, early_stopping=3, evaluate=lambda p: {}), TypeError, "early_stopping: got int"),
    "an unknown mode": (lambda: fit(steps=1, early_stopping=gj.train.EarlyStopping("loss", mode="most"), evaluate=lambda p: {}), ValueError, "mode: got 'most', expected 'min' or 'max'"),
    "an unknown metric": (lambda: fit(steps=1, early_stopping=gj.train.EarlyStopping("a"), evaluate=lambda p: {"b": jnp.ones(())}), ValueError, "the metric 'a', expected one that evaluate returns: b"),
    "a mesh with two axes": (lambda: fit(steps=1, mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("a", "b"))), TypeError, "mesh: got .*one axis"),
    "a carry of another shape": (lambda: gj.train.fit(lambda p, b, k, c: (jnp.ones(()), {}, c[:1]), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1, carry=jnp.ones(2)), TypeError, r"got a carry of float\d\d\[1\], expected float\d\d\[2\]"),
    "a result without the carry": (lambda: gj.train.fit(lambda p, b, k, c: (jnp.ones(()), {}), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1, carry=jnp.ones(2)), TypeError, r"expected \(loss, metrics, carry\)"),
    "batch size with a data function": (lambda: gj.train.fit(loss_fn, init(), OPTIMIZER, lambda key: DATA, key=KEY, steps=1, batch_size=4), ValueError, r"batch_size: got 4 for a function, .*expected None. Remove batch_size"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    assert_raises(*BAD[case])

"""The training loop: it learns, repeats itself bit for bit, sees every example, compiles once, and leaves its arguments alone."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from gru_jax.train.batches import batch_indices
from tests.problems import assert_told

N, T, D, H = 20, 6, 2, 7
KEY = jax.random.key(0)
XS = jax.random.bernoulli(jax.random.key(1), 0.5, (N, T, D)).astype(jnp.float32)
DATA = (XS, XS.sum((1, 2))[:, None])


class Params(NamedTuple):
    cell: gj.cells.GRUParams
    readout: gj.heads.DenseParams


def init(seed=0):
    keys = jax.random.split(jax.random.key(seed))
    return Params(gj.gru().init(keys[0], D, H), gj.heads.init_dense(keys[1], H, 1))


def loss_fn(params, batch, key):
    xs, targets = batch
    h_last, _ = gj.unroll(gj.gru(), params.cell, xs, time_major=False)
    loss = gj.heads.squared_error(gj.heads.dense(params.readout, h_last), targets).mean()
    return loss, {"root": jnp.sqrt(loss)}


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
fit = partial(gj.train.fit, loss_fn, init(), OPTIMIZER, DATA, key=KEY)


def identical(a, b):
    return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_it_learns_to_count_ones():
    fitted = fit(steps=600, batch_size=10)
    assert fitted.history["loss"].shape == fitted.history["root"].shape == (600,)
    assert fitted.history["loss"][0] > 10
    assert fitted.history["loss"][-50:].mean() < 0.1


def test_it_takes_the_steps_of_a_plain_loop():
    params, opt_state = init(), OPTIMIZER.init(init())
    losses = []
    for _ in range(7):
        (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, DATA, KEY)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    fitted = fit(steps=7, steps_per_dispatch=3)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-4)
    for ours, plain in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-5)


def test_the_length_of_a_dispatch_changes_nothing():
    one, many = fit(steps=11, batch_size=4, steps_per_dispatch=11), fit(steps=11, batch_size=4, steps_per_dispatch=4)
    np.testing.assert_allclose(one.history["loss"], many.history["loss"], rtol=1e-5)


def test_a_run_repeats_itself_bit_for_bit_and_another_key_is_another_run():
    first, second = fit(steps=12, batch_size=4), fit(steps=12, batch_size=4)
    assert identical(first.params, second.params)
    assert identical(first.opt_state, second.opt_state)
    assert identical(first.history, second.history)
    other = gj.train.fit(loss_fn, init(), OPTIMIZER, DATA, key=jax.random.key(5), steps=12, batch_size=4)
    assert not identical(first.history, other.history)


def test_the_given_parameters_are_left_as_they_were():
    params = init()
    gj.train.fit(loss_fn, params, OPTIMIZER, DATA, key=KEY, steps=3)
    assert identical(params, init())


def test_every_example_is_seen_once_an_epoch_and_batches_are_a_function_of_key_and_step():
    batches = np.asarray(batch_indices(KEY, 0, examples=N, batch_size=6, steps=20))  # 120 = 6 epochs
    for epoch in batches.reshape(6, N):
        assert sorted(epoch) == list(range(N))
    assert len({tuple(epoch) for epoch in batches.reshape(6, N)}) == 6
    for start in (0, 1, 7, 13):
        again = batch_indices(KEY, start, examples=N, batch_size=6, steps=5)
        assert (batches[start : start + 5] == np.asarray(again)).all()
    far = batch_indices(KEY, 10**12, examples=N, batch_size=6, steps=2)  # epochs beyond int32 positions
    assert ((far >= 0) & (far < N)).all()


def test_each_length_of_dispatch_is_traced_once_over_many_calls():
    traces = []

    def counted(params, batch, key):
        traces.append(1)
        return loss_fn(params, batch, key)

    run = partial(gj.train.fit, counted, init(), OPTIMIZER, DATA, key=KEY, batch_size=4, steps_per_dispatch=5)
    run(steps=20)
    assert len(traces) == 1
    run(steps=22)
    assert len(traces) == 2  # the two steps left over
    run(steps=22)
    assert len(traces) == 2


def test_data_may_be_made_inside_the_program_from_a_key():
    def make(key):
        xs = jax.random.bernoulli(key, 0.5, (8, T, D)).astype(jnp.float32)
        return xs, xs.sum((1, 2))[:, None]

    fitted = gj.train.fit(loss_fn, init(), OPTIMIZER, make, key=KEY, steps=30)
    assert len(set(fitted.history["loss"].tolist())) == 30
    assert fitted.history["loss"][-5:].mean() < fitted.history["loss"][:5].mean()


def test_each_step_has_a_key_of_its_own():
    draw = lambda params, batch, key: ((params * jax.random.normal(key)).sum(), {"draw": jax.random.normal(key)})
    fitted = gj.train.fit(draw, jnp.ones(2), optax.sgd(0.0), jnp.ones((3, 1)), key=KEY, steps=9, steps_per_dispatch=4)
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
    assert fit(steps=3).evaluations == {}


def test_the_progress_bar_shows_the_loss(capsys):
    fit(steps=6, steps_per_dispatch=3, progress=True)
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "loss=" in shown


def test_without_tqdm_the_bar_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"progress: got True, expected tqdm.*pip install tqdm"):
        fit(steps=1, progress=True)


def constant(result):
    return lambda params, batch, key: result


BAD = {
    "a loss without metrics": (lambda: gj.train.fit(constant(jnp.ones(())), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got .*expected \(loss, metrics\)"),
    "a loss per example": (lambda: gj.train.fit(constant((jnp.ones(3), {})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got a loss of shape \(3,\), expected a scalar.*mean"),
    "metrics that are arrays": (lambda: gj.train.fit(constant((jnp.ones(()), {"a": jnp.ones(2)})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), TypeError, r"loss_fn: got metrics dict, expected a dict of scalars"),
    "a metric named loss": (lambda: gj.train.fit(constant((jnp.ones(()), {"loss": jnp.ones(())})), jnp.ones(1), OPTIMIZER, DATA, key=KEY, steps=1), ValueError, r"loss_fn: got a metric named 'loss'"),
    "steps": (lambda: fit(steps=0), ValueError, r"steps: got 0, expected at least 1"),
    "steps per dispatch": (lambda: fit(steps=1, steps_per_dispatch=0), ValueError, r"steps_per_dispatch: got 0"),
    "evaluate every": (lambda: fit(steps=1, evaluate_every=-1), ValueError, r"evaluate_every: got -1"),
    "batch too large": (lambda: fit(steps=1, batch_size=N + 1), ValueError, r"batch_size: got 21, expected 1 to 20"),
    "batch of nothing": (lambda: fit(steps=1, batch_size=0), ValueError, r"batch_size: got 0, expected 1 to 20"),
    "data of different lengths": (lambda: gj.train.fit(loss_fn, init(), OPTIMIZER, (XS, XS[:3]), key=KEY, steps=1), ValueError, r"data: got leading axes \[3, 20\]"),
    "no data": (lambda: gj.train.fit(loss_fn, init(), OPTIMIZER, None, key=KEY, steps=1), TypeError, r"data: got NoneType, expected arrays"),
    "batch size beside a function": (lambda: gj.train.fit(loss_fn, init(), OPTIMIZER, lambda key: DATA, key=KEY, steps=1, batch_size=4), ValueError, r"batch_size: got 4 beside a function"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case):
    assert_told(*BAD[case])

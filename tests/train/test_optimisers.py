"""`fit` with optimisers that search along a line, and from an optimiser's state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.problems import assert_close
from tests.train.problem import KEY, data, init, init_readout

LINE_SEARCHES = {
    "lbfgs": lambda: optax.lbfgs(),
    "backtracking": lambda: optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(5, store_grad=True)),
}
OPTIONS = {"two microbatches": {"grad_accumulation_steps": 2}, "the whole batch": {}}


def quiet(params, batch, key):
    """Computes a loss that is not quadratic, and without noise, as a line search needs."""
    xs, targets = batch
    return ((jnp.exp(gj.heads.dense(params, xs.mean(1))) - targets) ** 2).mean(), {}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("backtracking", "the whole batch"),
        pytest.param("lbfgs", "two microbatches", marks=pytest.mark.slow),
        pytest.param("lbfgs", "the whole batch", marks=pytest.mark.slow),
        pytest.param("backtracking", "two microbatches", marks=pytest.mark.slow),
    ],
)
def test_a_line_search_takes_the_steps_of_a_plain_loop(name, options):
    optimizer = LINE_SEARCHES[name]()
    params = jax.tree.map(lambda leaf: leaf.astype(float), init_readout())  # optax's backtracking needs the default dtype
    parts = OPTIONS[options].get("grad_accumulation_steps", 1)
    split = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), data())

    def value_fn(params):
        return jax.lax.map(lambda part: quiet(params, part, None)[0], split).mean()

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state, value

    expected, state, losses = params, optimizer.init(params), []
    for _ in range(5):
        expected, state, loss = step(expected, state)
        losses.append(float(loss))
    result = gj.train.fit(quiet, params, optimizer, data(), key=KEY, steps=5, **OPTIONS[options])
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-4)
    assert_close(result.params, expected, tol=1e-3)
    assert losses[-1] < 0.7 * losses[0]


def compare_gradients(grads, state, params, *, value, grad, value_fn):
    """Updates nothing. The state is how much the derivative of `value_fn` differs from the gradient."""
    again, derived = jax.value_and_grad(value_fn)(params)
    forward = jax.jvp(value_fn, (params,), (params,))[1]
    along = sum((g * p).real.sum() for g, p in zip(jax.tree.leaves(grads), jax.tree.leaves(params), strict=True))
    differences = [jnp.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (derived, grad)), strict=True)]
    return jax.tree.map(jnp.zeros_like, grads), jnp.stack([*differences, jnp.abs(again - value), jnp.abs(forward - along)])


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=pytest.mark.slow), {"grad_accumulation_steps": 2, "weight_fn": lambda xs: xs.sum() ** 2}],
    ids=["plain", "weighted"],
)
def test_value_fn_has_the_gradient_that_training_uses_also_with_complex_params_and_constants(options):
    """Every model of an ensemble has its own key, params and constants."""

    def loss_fn(params, xs, key):
        factor = jax.random.normal(key, (2,))
        return (jnp.abs(params["w"] * factor - 1j) ** 3 * params["scale"] * xs.mean()).sum() + params["b"] ** 2, {}

    params = {"w": jnp.array([[1j, 0.5], [5, 2 - 1j]]), "scale": jnp.array([[1, 2], [2, 1]]), "b": jnp.array([0.5, -0.25])}
    optimizer = optax.GradientTransformationExtraArgs(lambda params: jnp.ones(4), compare_gradients)
    xs, keys = jnp.array([1.0, 2.0, 4.0, 8.0]), jax.random.split(KEY)
    result = gj.train.fit_ensemble(loss_fn, params, optimizer, xs, keys=keys, steps=1, **options)
    assert result.opt_state.shape == (2, 4)
    np.testing.assert_allclose(result.opt_state, 0, atol=1e-12)
    assert (jnp.abs(result.history["loss"]) > 1).all()


@pytest.mark.parametrize("ensemble", [False, True], ids=["one model", "ensemble"])
def test_a_run_goes_on_from_the_optimisers_state_of_another(ensemble):
    """With all data at every step and a quiet loss, two runs of 3 steps are one run of 6."""
    optimizer, params = optax.adam(1e-2), init().readout
    xs, ys = data()

    def loss_fn(params, batch, key):
        return gj.heads.squared_error(gj.heads.dense(params, jnp.tile(xs.sum(1), 4)[:, :7]), ys).mean(), {}

    if ensemble:
        params = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params)
        run = partial(gj.train.fit_ensemble, loss_fn, optimizer=optimizer, data=xs, keys=jax.random.split(KEY))
    else:
        run = partial(gj.train.fit, loss_fn, optimizer=optimizer, data=xs, key=KEY)
    straight, first = run(params=params, steps=6), run(params=params, steps=3)
    second = run(params=first.params, steps=3, opt_state=first.opt_state)
    assert_close(second.params, straight.params, tol=1e-12)
    fresh = run(params=first.params, steps=3)
    assert np.abs(fresh.params.V - straight.params.V).max() > 1e-4
    assert_close(first.opt_state, first.opt_state, tol=0)  # not donated

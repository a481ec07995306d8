"""`per_example_keys`: random numbers that do not depend on how a batch is split.

test_parallel.py compares several devices with one.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.problems import assert_close, assert_raises
from tests.train.problem import KEY

XS = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)))


def loss_fn(params, batch, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    error = ((batch * params + noise) ** 2).sum(1)
    return error.mean(), {"first": noise[0, 0], "noise": noise.mean()}


fit = partial(gj.train.fit, loss_fn, jnp.ones(3), optax.sgd(0.05), XS, key=KEY, steps=5, batch_size=6, per_example_keys=True)


def test_the_noise_of_an_example_does_not_depend_on_the_microbatches():
    whole, parts = fit(), fit(grad_accumulation_steps=3)
    for name in ("loss", "noise"):
        np.testing.assert_allclose(parts.history[name], whole.history[name], rtol=1e-6)
    assert_close(parts.params, whole.params, tol=1e-6)
    assert np.abs(parts.history["first"] - whole.history["first"]).min() > 1e-3  # of three examples, not of one
    assert len(set(whole.history["first"].tolist())) == 5  # every step draws anew


def test_the_examples_of_a_batch_and_the_models_of_an_ensemble_have_their_own_noise():
    spread = lambda params, batch, keys: (params.sum(), {"draws": jax.vmap(jax.random.normal)(keys)})
    alone = gj.train.fit(spread, jnp.ones(3), optax.sgd(0.1), XS, key=KEY, steps=2, per_example_keys=True)
    assert alone.history["draws"].shape == (2, 12)
    assert len(set(alone.history["draws"].ravel().tolist())) == 24
    keys = jnp.stack([jax.random.key(3), KEY])
    both = gj.train.fit_ensemble(spread, jnp.ones((2, 3)), optax.sgd(0.1), XS, keys=keys, steps=2, per_example_keys=True)
    np.testing.assert_array_equal(both.history["draws"][:, 1], alone.history["draws"])
    assert (both.history["draws"][:, 0] != alone.history["draws"]).all()


@pytest.mark.parametrize("batch", [lambda key: (XS, jnp.ones(())), lambda key: (XS, XS[:5])], ids=["scalar", "lengths"])
def test_a_batch_whose_arrays_do_not_share_their_examples_raises(batch):
    run = lambda: gj.train.fit(loss_fn, jnp.ones(3), optax.sgd(0.1), batch, key=KEY, steps=1, per_example_keys=True)
    assert_raises(
        run, ValueError, r"per_example_keys: got True for a batch of arrays of shapes .*expected a leading axis that all share"
    )
    assert_raises(
        lambda: fit(per_example_keys="yes"), TypeError, r"per_example_keys: got 'yes' \(str\), expected True or False"
    )

"""`batches` yields what `fit` trains on and continues from a position; `all_finite` finds NaN and infinity."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.problems import assert_raises
from tests.train.problem import KEY

XS = np.arange(33, dtype=np.float32).reshape(11, 3)
SEQUENCES = [np.arange(n, dtype=np.float32)[:, None] + 10 * n for n in (2, 5, 3, 7, 4)]
SOURCES = {
    "shuffled": lambda: ((XS, 2 * XS), 4),
    "whole": lambda: ({"x": XS}, None),
    "generated": lambda: (lambda key: jax.random.normal(key, (4, 2)), None),
    "bucketed": lambda: (gj.train.bucketed(SEQUENCES, 2, num_buckets=2), None),
    "windows": lambda: (gj.train.windows(SEQUENCES, 2, 4), None),
}


@jax.jit
def checksum(batch):
    """Returns a number that differs between batches, also of other orders."""
    leaves = [jnp.ravel(leaf).astype(float) for leaf in jax.tree.leaves(batch)]
    return sum((leaf * jnp.cos(jnp.arange(leaf.size) + i)).sum() for i, leaf in enumerate(leaves))


@pytest.mark.parametrize("name", SOURCES)
def test_batches_are_those_of_fit_and_continue_from_a_position(name):
    data, batch_size = SOURCES[name]()
    loss_fn = lambda params, batch, key: (params**2, {"checksum": checksum(batch)})
    result = gj.train.fit(
        loss_fn, jnp.float32(1), optax.sgd(0.1), data, key=KEY, steps=12, batch_size=batch_size, steps_per_execution=5
    )
    iterator = gj.train.batches(data, batch_size, key=KEY)
    found = [float(checksum(batch)) for batch in itertools.islice(iterator, 12)]
    np.testing.assert_allclose(found, result.history["checksum"], rtol=1e-5, atol=1e-5)
    assert len(set(np.round(found, 3).tolist())) == (
        1 if name == "whole" else len(set(np.round(result.history["checksum"], 3).tolist()))
    )
    state = json.loads(json.dumps(iterator.get_state()))
    ahead = [float(checksum(batch)) for batch in itertools.islice(iterator, 2)]
    again = gj.train.batches(data, batch_size, key=KEY)
    again.set_state(state)
    other = gj.train.batches(data, batch_size, key=KEY, start=12)
    for iterator in (again, other):
        assert [float(checksum(batch)) for batch in itertools.islice(iterator, 2)] == ahead


def test_a_position_far_away_and_behind_is_reached():
    iterator = gj.train.batches(XS, 4, key=KEY)
    first = [next(iterator) for _ in range(3)]
    iterator.set_state({"step": 10**9})
    next(iterator)
    iterator.set_state({"step": 1})
    np.testing.assert_array_equal(next(iterator), first[1])


BAD = {
    "an iterable": (lambda: gj.train.batches(iter([XS]), key=KEY), TypeError, r"data: got list_iterator, an iterable of batches, expected arrays"),
    "a number as the key": (lambda: gj.train.batches(XS, key=0), TypeError, r"key: got int"),
    "a negative start": (lambda: gj.train.batches(XS, key=KEY, start=-1), ValueError, r"start: got -1, expected at least 0"),
    "a batch size too large": (lambda: gj.train.batches(XS, 12, key=KEY), ValueError, r"batch_size: got 12, expected 1 to 11"),
    "a state that is a float": (lambda: gj.train.batches(XS, key=KEY).set_state({"step": 1.5}), TypeError, r"state\['step'\]: got 1\.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    assert_raises(*BAD[case])


def test_all_finite_looks_at_every_floating_point_number():
    tree = {
        "a": jnp.ones((2, 3)),
        "n": jnp.arange(2),
        "key": jax.random.key(0),
        "z": jnp.ones(2, complex),
        "f": 1.5,
        "none": None,
    }
    assert gj.train.all_finite(tree)
    assert gj.train.all_finite({})
    for name, bad in {"a": jnp.array([1, jnp.inf]), "z": jnp.array([1j * jnp.nan]), "f": float("-inf")}.items():
        assert not gj.train.all_finite(tree | {name: bad}), name
    assert jax.jit(gj.train.all_finite)(jnp.array([jnp.nan])).dtype == bool

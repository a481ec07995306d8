"""The parts of a tolerance: the longest sum, the least precise dtype, and the measured rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_jax.verify.rounding_noise import moved_by_one_ulp, perturbed
from gru_jax.verify.tolerances import coarsest_eps, longest_sum

EPS = float(np.finfo(np.float64).eps)
LONGEST_SUMS = {
    "a product": (lambda a, b: a @ b, 4),
    "a sum": (lambda a, b: (a.sum(), b.sum()), 20),
    "a scan of products": (lambda a, b: jax.lax.scan(lambda c, _: (c @ b @ b.T, None), a, None, length=7)[0], 7 * 5),
    "under jit": (jax.jit(lambda a, b: a @ b), 4),
    "a running sum": (lambda a, b: jnp.cumsum(b, axis=1), 5),
    "additions in a loop": (lambda a, b: jax.lax.scan(lambda c, _: (c + a, None), a, None, length=9)[0], 9),
    "elementwise": (lambda a, b: a * 2, 1),
    "a scattered sum": (lambda a, b: jnp.zeros(3).at[jnp.array([0, 0, 1, 2])].add(a[0]), 4),
}


@pytest.mark.parametrize("name", LONGEST_SUMS)
def test_the_longest_sum_is_read_from_the_jaxpr(name):
    fun, expected = LONGEST_SUMS[name]
    assert longest_sum(jax.make_jaxpr(fun)(jnp.ones((3, 4)), jnp.ones((4, 5)))) == expected


def test_the_least_precise_dtype_is_read_from_the_jaxpr(needs_x64):
    eps = lambda dtype: coarsest_eps(jax.make_jaxpr(lambda x: jnp.sin(x.astype(dtype)).astype(x.dtype))(jnp.ones(3)))
    assert eps(jnp.float64) == np.finfo(np.float64).eps
    assert eps(jnp.bfloat16) == float(jnp.finfo(jnp.bfloat16).eps)


CALLS = {
    "plain": lambda x: 1 - jnp.tanh(x) ** 2,
    "jit": jax.jit(lambda x: 1 - jnp.tanh(x) ** 2),
    "scan": lambda x: jax.lax.scan(lambda c, _: (c, 1 - jnp.tanh(x) ** 2), x, None, length=1)[1],
    "cond": lambda x: jax.lax.cond(x[0] > 0, lambda x: 1 - jnp.tanh(x) ** 2, lambda x: x, x),
    "while": lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: jnp.stack([c[0] + 1, 1 - jnp.tanh(x) ** 2]), jnp.stack([0 * x, x]))[1],
    "checkpoint": jax.checkpoint(lambda x: 1 - jnp.tanh(x) ** 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_cancellation_increases_the_noise(name, needs_x64):
    """At 8, 1 − tanh² is 4.5e-7 and loses six digits, whether or not it is called in a loop."""
    fun, x = CALLS[name], jnp.array([8.0, 8.5, 9.0])
    exact = np.ravel(fun(x))
    rng = np.random.default_rng(0)
    samples = [np.ravel(perturbed(jax.make_jaxpr(fun)(x))(moved_by_one_ulp([np.asarray(x)], rng, EPS)[0])[0]) for _ in range(4)]
    moved = max(np.abs(sample - exact).max() for sample in samples)
    assert 1e-16 < moved < 2e-15


def test_exact_operations_add_no_noise(needs_x64):
    fun = lambda x: -x.T.reshape(-1)[::-1]
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(perturbed(jax.make_jaxpr(fun)(x))(x)[0], fun(x))


def test_every_entry_moves_by_one_unit_in_its_last_place():
    x = np.array([1.0, -3.0, 1e10])
    moved = moved_by_one_ulp([x], np.random.default_rng(0), EPS)[0]
    assert (moved != x).all()
    assert (np.abs(moved - x) <= np.spacing(np.abs(x)) * 2).all()

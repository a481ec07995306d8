"""Tests the counting RNN: its published numbers, and the two that contradict the formulas."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from experiments import count_ones
from experiments.tutorials import counting_rnn, repeated_terms

pytestmark = pytest.mark.usefixtures("needs_x64")


def unequal(rows):
    return [f"{row.quantity} at {row.step}" for row in rows if row.equal is False]


@pytest.mark.slow
def test_seos_first_run_reproduces_its_first_gradients_and_thousand_updates():
    rows, _, difference = count_ones.reproduce_seo_linear(1000)
    assert unequal(rows) == []
    reached = {(row.step, row.quantity) for row in rows if row.equal}
    assert {(0, "∂J/∂wx"), (0, "∂J/∂wrec"), (0, "MSE"), (1000, "ŷ of 111")} <= reached
    assert difference["sums_less_jax_grad"] < 1e-14


@pytest.mark.slow
def test_seos_second_run_reproduces_its_first_thousand_updates_with_a_custom_cell():
    rows, _, difference = count_ones.reproduce_seo_logistic(1000)
    assert unequal(rows) == []
    assert {(0, "MSE"), (1000, "MSE")} <= {(row.step, row.quantity) for row in rows if row.equal}
    assert difference["adjoint_less_autodiff"] < 1e-14
    assert counting_rnn.switched_rnn().adjoint is None


@pytest.mark.slow
def test_roelants_gradient_and_losses_are_reproduced_except_for_one_misquoted_digit():
    rows, _, result = count_ones.reproduce_roelants(3)
    assert unequal(rows) == ["J at (1.2, 1.2) at 0"]
    assert result["finite_differences_relative"] < 1e-7


def test_loss_at_roelants_point_in_exact_arithmetic():
    """Computes Σ (s_T − y)² / 20 over the sequences in exact fractions, without gru_jax."""
    X = np.around(np.random.RandomState(1).rand(20, 10))
    total = Fraction(0)
    for row in X:
        s = Fraction(0)
        for x in row:
            s = Fraction(int(x)) * Fraction(6, 5) + s * Fraction(6, 5)
        total += (s - int(row.sum())) ** 2
    assert f"{float(total / 20):.10f}" == "110.2280372662"


@pytest.mark.slow
def test_misquoted_cost_of_seos_second_run_follows_from_a_numpy_loop():
    wx, wrec = np.random.RandomState(1234).randn(2)
    X, y = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 1]], float), np.array([3.0, 2, 1])
    logistic = lambda a: 1 / (1 + np.exp(-a))
    for step in range(5001):
        s1 = logistic(X[:, 0] * wx)
        s2 = logistic(X[:, 1] * wx + s1 * wrec)
        s3 = X[:, 2] * wx + s2 * wrec
        if step == 5000:
            break
        d3 = 2 * (s3 - y) / 3
        d2 = d3 * wrec * s2 * (1 - s2)
        d1 = d2 * wrec * s1 * (1 - s1)
        grads = (d3 * X[:, 2] + d2 * X[:, 1] + d1 * X[:, 0]).sum(), (d3 * s2 + d2 * s1).sum()
        wx, wrec = wx - 0.001 * grads[0], wrec - 0.001 * grads[1]
    assert f"{((s3 - y) ** 2).mean():.10f}" == "0.4187024116"


def test_repeated_terms_sum_to_jax_grad_and_equal_those_computed_one_by_one():
    params, data = counting_rnn.seo_linear()
    terms = repeated_terms.terms_of(params, data)
    shared = repeated_terms.derivatives_shared(1.5, *terms)
    np.testing.assert_allclose(
        [bars.sum() for bars in shared], counting_rnn.gradients(gj.linear_rnn(), params, data), rtol=1e-13
    )
    for one, other in zip(shared, repeated_terms.derivatives_one_by_one(1.5, *terms), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_gradient_over_time_is_a_power_of_wrec():
    _, data = counting_rnn.roelants()
    for wrec in (2.0, 0.5, -0.5):
        norms = repeated_terms.gradient_over_time(1.0, wrec, data)
        np.testing.assert_allclose(norms[:-1] / norms[1:], abs(wrec), rtol=1e-12)


def test_rprop_minus_grows_the_step_on_the_same_sign_and_halves_it_otherwise():
    rprop = counting_rnn.rprop_minus(0.1)
    state = rprop.init(jnp.zeros(1))
    sizes = []
    for grad in (1.0, 1.0, 1.0, -1.0, -1.0):
        update, state = rprop.update(jnp.array([grad]), state)
        sizes.append(float(update[0]))
    np.testing.assert_allclose(sizes, [-0.05, -0.06, -0.072, 0.036, 0.0432], rtol=1e-12)


@pytest.mark.slow
def test_full_runs_reproduce_every_published_digit_except_the_misquoted_ones():
    rows = [
        *count_ones.reproduce_seo_linear(30_000)[0],
        *count_ones.reproduce_seo_logistic(15_000)[0],
        *count_ones.reproduce_roelants(500)[0],
    ]
    assert all(row.equal is not None for row in rows)
    assert set(unequal(rows)) == set(count_ones.MISQUOTED)


def test_optax_rprop_is_another_variant():
    """`rprop_minus` exists because optax's Rprop does not reproduce the published digits."""
    params, data = counting_rnn.roelants()
    by_optax = counting_rnn.train(gj.linear_rnn(), params, data, optax.rprop(0.001), 500).params
    assert not jax.tree.leaves(jax.tree.map(lambda w: bool(jnp.isnan(w).any()), by_optax))[0]
    assert f"{float(by_optax.W[0, 0]):.4f} {float(by_optax.U[0, 0]):.4f}" != "1.0014 0.9997"

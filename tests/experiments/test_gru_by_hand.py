"""Tests the written-out GRU against autodiff, and the script against its published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gru_by_hand as by_hand
from experiments.tutorials import scalar_gru, seo_gru_script

pytestmark = pytest.mark.usefixtures("needs_x64")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_each_of_the_eighteen_parts_equals_autodiff(seed):
    weights, xs, ys, h0 = scalar_gru.two_stamps(seed)
    written = scalar_gru.parts(scalar_gru.forward(weights, xs, ys, h0), weights)
    autodiff = scalar_gru.autodiff_parts(weights, xs, ys, h0)
    assert {key: len(row) for key, row in written.items()} == {(1, 1): 6, (2, 1): 6, (2, 2): 6}
    for key, row in autodiff.items():
        for name, value in row.items():
            assert value != 0
            np.testing.assert_allclose(written[key][name], value, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_sum_to_the_gradient_of_unroll(seed):
    result, _ = by_hand.part_one(seed)
    for row in result["sums"]:
        np.testing.assert_allclose(row["sum"], row["jax.grad"], rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_shared_and_unshared_gradients_both_equal_the_sum_of_parts(steps):
    rng = np.random.default_rng(steps)
    weights = dict(zip(scalar_gru.WEIGHTS, rng.normal(size=6).tolist(), strict=True))
    stamps = scalar_gru.forward(weights, rng.normal(size=steps), rng.normal(size=steps), 0.3)
    table = scalar_gru.parts(stamps, weights)
    shared, scratch = scalar_gru.gradient_shared(stamps, weights), scalar_gru.gradient_from_scratch(stamps, weights)
    for name in scalar_gru.WEIGHTS:
        total = sum(row[name] for row in table.values())
        np.testing.assert_allclose([shared[name], scratch[name]], total, rtol=1e-12)


@pytest.mark.slow
def test_shared_operations_grow_linearly_and_unshared_ones_cubically_in_time():
    counts = {steps: scalar_gru.count_operations(steps) for steps in (2, 3, 4, 16, 32)}
    assert counts[2][0] < counts[2][1] / 4
    assert counts[4][0] - counts[3][0] == counts[3][0] - counts[2][0]
    assert 6 < counts[32][1] / counts[16][1] < 8.5


@pytest.mark.slow
def test_script_formulas_give_its_first_gradient_and_costs():
    w = seo_gru_script.script_weights()
    c = jnp.array([w["wx_c"], w["wrec_c"]])
    xs, ys = jnp.array(seo_gru_script.XS), jnp.array(seo_gru_script.YS)
    np.testing.assert_allclose(seo_gru_script.script_gradient(c, xs, ys), [-0.68404, 0.12737], atol=6e-6)
    np.testing.assert_allclose(jax.grad(seo_gru_script.script_cost)(c, xs, ys), [-0.97625, 0.00997], atol=6e-6)
    costs, _ = seo_gru_script.train_script(101)
    np.testing.assert_allclose(costs[[0, 100]], [1.6657943, 1.0829383], atol=6e-8)


def test_correct_gru_starts_at_its_known_cost_and_gradient():
    data = (jnp.array(seo_gru_script.XS[..., None]), jnp.array(seo_gru_script.YS[:, None]))
    value, grads = jax.value_and_grad(lambda params: seo_gru_script.gru_cost(params, data))(seo_gru_script.correct_params())
    np.testing.assert_allclose(value, 1.6534048, atol=6e-8)
    np.testing.assert_allclose([grads.W_h[0, 0], grads.U_h[0, 0]], [-0.95180, 0.07545], atol=6e-6)


def test_the_last_running_sums_are_the_targets_of_the_script():
    np.testing.assert_allclose(np.cumsum(seo_gru_script.XS, 1)[:, -1], seo_gru_script.YS, atol=1e-12)


@pytest.mark.slow
def test_full_runs_end_at_the_published_costs():
    second, curves = by_hand.part_two(seo_gru_script.EPOCHS)
    unequal = [name for name, row in second["published"].items() if not row["equal"]]
    assert unequal == list(by_hand.MISQUOTED)
    np.testing.assert_allclose(curves["correct, lr 0.01"][-1], 0.0636535, atol=6e-8)
    np.testing.assert_allclose(curves["correct, the script's rates"][-1], 0.1329909, atol=6e-8)
    np.testing.assert_allclose(curves["the script's formulas"][-2], 0.1577980, atol=6e-8)

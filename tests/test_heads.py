"""Read-out, losses, and what becomes of them over time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import SEEDS, B, D, H, T, assert_told, problem

heads = gj.heads
K = 6


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


Y_HATS, TARGETS = random(0, T, B, K), random(1, T, B, K)
LABELS = jax.random.randint(jax.random.key(2), (T, B), 0, K)
MASK = jnp.arange(T)[:, None] < jnp.array([T, 3, 0])
EXACT = dict(rtol=1e-5 if Y_HATS.dtype == jnp.float32 else 1e-12)


def test_the_read_out_is_the_formula_with_every_activation():
    params = heads.init_dense(jax.random.key(3), H, K, bias_init=jax.nn.initializers.ones, dtype=Y_HATS.dtype)
    hs = random(4, T, B, H)
    a = np.asarray(hs) @ np.asarray(params.V) + 1
    softmax = np.exp(a) / np.exp(a).sum(-1, keepdims=True)
    for g2, expected in dict(
        identity=a, sigmoid=1 / (1 + np.exp(-a)), tanh=np.tanh(a), relu=np.maximum(a, 0), softmax=softmax
    ).items():
        np.testing.assert_allclose(heads.dense(params, hs, g2), expected, rtol=1e-5, atol=1e-6)
    unbiased = heads.init_dense(jax.random.key(3), H, K, bias=False)
    assert unbiased.b_y is None
    np.testing.assert_allclose(heads.dense(unbiased, hs), np.asarray(hs) @ np.asarray(unbiased.V), rtol=1e-5, atol=1e-6)


@pytest.mark.derivative
def test_the_gradient_of_v_needs_the_current_step_only():
    """V̄ = Σ_t h_tᵀ ȳ_pre,t, b̄_y = Σ ȳ_pre and h̄_t = ȳ_pre,t Vᵀ, through an Elman RNN and g₂ = σ."""
    p = problem(gj.elman())
    for seed in SEEDS:
        readout = heads.init_dense(jax.random.key(seed), H, K, dtype=p.xs.dtype)

        def loss(readout, hs):
            return heads.mean_over_steps(heads.half_squared_error(heads.dense(readout, hs, "sigmoid"), TARGETS)).sum()

        hs = gj.unroll(gj.elman(), p.params, p.xs, p.h0)[1]
        readout_bar, hs_bar = jax.grad(loss, argnums=(0, 1))(readout, hs)
        y_hats = heads.dense(readout, hs, "sigmoid")
        y_pre_bar = (y_hats - TARGETS) / T * y_hats * (1 - y_hats)
        tol = dict(rtol=1e-4, atol=1e-6) if hs.dtype == jnp.float32 else dict(rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(readout_bar.V, sum(hs[t].T @ y_pre_bar[t] for t in range(T)), **tol)
        np.testing.assert_allclose(readout_bar.b_y, y_pre_bar.sum((0, 1)), **tol)
        np.testing.assert_allclose(hs_bar, y_pre_bar @ readout.V.T, **tol)


def test_the_losses_are_their_formulas():
    y_hats, targets = np.asarray(Y_HATS), np.asarray(TARGETS)
    np.testing.assert_allclose(heads.squared_error(Y_HATS, TARGETS), ((y_hats - targets) ** 2).sum(-1), **EXACT)
    np.testing.assert_allclose(heads.half_squared_error(Y_HATS, TARGETS), ((y_hats - targets) ** 2).sum(-1) / 2, **EXACT)

    p, bits = 1 / (1 + np.exp(-y_hats)), targets > 0
    nats = -np.where(bits, np.log(p), np.log(1 - p)).sum(-1)
    np.testing.assert_allclose(heads.bernoulli_cross_entropy(Y_HATS, bits), nats, rtol=1e-5)

    softmax = np.exp(y_hats) / np.exp(y_hats).sum(-1, keepdims=True)
    picked = -np.log(np.take_along_axis(softmax, np.asarray(LABELS)[..., None], -1)[..., 0])
    np.testing.assert_allclose(heads.softmax_cross_entropy(Y_HATS, LABELS), picked, rtol=1e-5)
    np.testing.assert_allclose(heads.softmax_cross_entropy(Y_HATS, jax.nn.one_hot(LABELS, K)), picked, rtol=1e-5)


def test_eighty_eight_fair_coins_cost_88_ln_2_nats():
    np.testing.assert_allclose(heads.bernoulli_cross_entropy(jnp.zeros((T, 88)), jnp.ones((T, 88))), 88 * np.log(2), rtol=1e-6)


def test_the_reductions_are_their_formulas():
    losses = random(5, T, B)
    np.testing.assert_allclose(heads.sum_over_steps(losses), np.asarray(losses).sum(0), **EXACT)
    np.testing.assert_allclose(heads.mean_over_steps(losses), np.asarray(losses).mean(0), **EXACT)
    np.testing.assert_array_equal(heads.last_step(losses), losses[-1])

    expected = [losses[:, 0].mean(), losses[:3, 1].mean(), 0]
    np.testing.assert_allclose(heads.mean_over_steps(losses, MASK), expected, **EXACT)
    np.testing.assert_array_equal(heads.last_step(losses, MASK), jnp.array([losses[-1, 0], losses[2, 1], 0]))
    holes = jnp.array([True, False, True, False, False, True, False])[:, None] & jnp.ones((T, B), bool)
    np.testing.assert_array_equal(heads.last_step(losses, holes), losses[5])

    for reduce in (heads.mean_over_steps, heads.last_step):
        np.testing.assert_allclose(reduce(losses.T, MASK.T, axis=-1), reduce(losses, MASK), **EXACT)
    np.testing.assert_allclose(heads.sum_over_steps(losses.T, axis=1), heads.sum_over_steps(losses), **EXACT)


def test_no_step_at_all_costs_nothing():
    empty = jnp.zeros((0, B))
    for reduce in (heads.sum_over_steps, heads.mean_over_steps, heads.last_step):
        np.testing.assert_array_equal(reduce(empty), np.zeros(B))


@pytest.mark.parametrize("loss", [heads.squared_error, heads.half_squared_error, heads.bernoulli_cross_entropy])
def test_a_masked_step_contributes_nothing_even_where_it_holds_nan(loss):
    y_hats = jnp.where(MASK[..., None], Y_HATS, jnp.nan)
    targets = jnp.where(MASK[..., None], TARGETS, jnp.nan)
    total = lambda y_hats: heads.mean_over_steps(loss(y_hats, targets, MASK), MASK).sum()
    value, bar = jax.value_and_grad(total)(y_hats)
    clean = jnp.stack([loss(Y_HATS, TARGETS)[:, 0].mean(), loss(Y_HATS, TARGETS)[:3, 1].mean()]).sum()
    np.testing.assert_allclose(value, clean, rtol=1e-5)
    assert not bar[~MASK].any()
    assert (bar[MASK] != 0).all()


def test_a_masked_class_number_may_be_any():
    labels = jnp.where(MASK, LABELS, -1)
    y_hats = jnp.where(MASK[..., None], Y_HATS, jnp.nan)
    total = lambda y_hats: heads.softmax_cross_entropy(y_hats, labels, MASK).sum()
    value, bar = jax.value_and_grad(total)(y_hats)
    np.testing.assert_allclose(value, heads.softmax_cross_entropy(Y_HATS, LABELS)[MASK].sum(), rtol=1e-5)
    assert not bar[~MASK].any()


def test_a_traced_class_number_out_of_range_gives_nan_there_only():
    labels = LABELS.at[0, 0].set(-1).at[1, 1].set(K)
    losses = jax.jit(heads.softmax_cross_entropy)(Y_HATS, labels)
    assert np.argwhere(np.isnan(losses)).tolist() == [[0, 0], [1, 1]]


BAD = {
    "shapes that broadcast": (lambda: heads.squared_error(jnp.ones((3, 1)), jnp.ones(3)), ValueError, r"targets: got shape \(3,\), expected \(3, 1\) as y_hats"),
    "shapes of logits": (lambda: heads.bernoulli_cross_entropy(Y_HATS, TARGETS[0]), ValueError, r"targets: got shape .* as logits"),
    "class numbers too many axes": (lambda: heads.softmax_cross_entropy(Y_HATS, jnp.zeros((T, B, 1), int)), ValueError, r"targets: got class numbers of shape \(7, 3, 1\), expected \(7, 3\)"),
    "class number": (lambda: heads.softmax_cross_entropy(Y_HATS, LABELS.at[0, 0].set(-1)), ValueError, r"targets: got class numbers from -1 .*expected 0 to 5.*mask"),
    "mask dtype": (lambda: heads.squared_error(Y_HATS, TARGETS, jnp.ones((T, B))), TypeError, r"mask: got dtype float.*expected bool"),
    "mask shape": (lambda: heads.squared_error(Y_HATS, TARGETS, MASK.T), ValueError, r"mask: got shape \(3, 7\), expected \(7, 3\)"),
    "mask of a reduction": (lambda: heads.last_step(jnp.ones((T, B)), MASK[0]), ValueError, r"mask: got shape \(3,\), expected \(7, 3\)"),
    "activation": (lambda: heads.dense(heads.init_dense(jax.random.key(0), H, K), jnp.ones(H), "gelu"), ValueError, r"activation: got 'gelu', expected one of 'identity'"),
    "size of hs": (lambda: heads.dense(heads.init_dense(jax.random.key(0), H, K), jnp.ones((T, D))), ValueError, r"hs: got shape \(7, 4\), expected \(…, 5\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case):
    assert_told(*BAD[case])

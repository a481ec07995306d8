"""The read-out, the losses and their reductions: formulas, masks, precision and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import SEEDS, B, D, H, T, assert_raises, problem

heads = gj.heads
K = 6


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


Y_HATS, TARGETS = random(0, T, B, K), random(1, T, B, K)
LABELS = jax.random.randint(jax.random.key(2), (T, B), 0, K)
MASK = jnp.arange(T)[:, None] < jnp.array([T, 3, 0])
EXACT = dict(rtol=1e-5 if Y_HATS.dtype == jnp.float32 else 1e-12)


def test_dense_equals_its_formula_with_every_activation():
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
def test_the_gradients_of_dense_depend_on_the_current_step_only():
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


def test_the_losses_equal_their_formulas():
    y_hats, targets = np.asarray(Y_HATS), np.asarray(TARGETS)
    np.testing.assert_allclose(heads.squared_error(Y_HATS, TARGETS), ((y_hats - targets) ** 2).sum(-1), **EXACT)
    np.testing.assert_allclose(heads.half_squared_error(Y_HATS, TARGETS), ((y_hats - targets) ** 2).sum(-1) / 2, **EXACT)

    p, bits = 1 / (1 + np.exp(-y_hats)), targets > 0
    nats = -np.where(bits, np.log(p), np.log(1 - p)).sum(-1)
    np.testing.assert_allclose(heads.sigmoid_binary_cross_entropy(Y_HATS, bits), nats, rtol=1e-5)

    softmax = np.exp(y_hats) / np.exp(y_hats).sum(-1, keepdims=True)
    picked = -np.log(np.take_along_axis(softmax, np.asarray(LABELS)[..., None], -1)[..., 0])
    np.testing.assert_allclose(heads.softmax_cross_entropy(Y_HATS, LABELS), picked, rtol=1e-5)
    np.testing.assert_allclose(heads.softmax_cross_entropy(Y_HATS, jax.nn.one_hot(LABELS, K)), picked, rtol=1e-5)


def test_the_cross_entropy_of_88_fair_coins_is_88_ln_2():
    np.testing.assert_allclose(
        heads.sigmoid_binary_cross_entropy(jnp.zeros((T, 88)), jnp.ones((T, 88))), 88 * np.log(2), rtol=1e-6
    )


def test_the_reductions_equal_their_formulas():
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


def test_the_cost_of_a_sequence_without_steps_is_0():
    empty = jnp.zeros((0, B))
    for reduce in (heads.sum_over_steps, heads.mean_over_steps, heads.last_step):
        np.testing.assert_array_equal(reduce(empty), np.zeros(B))


@pytest.mark.parametrize("loss", [heads.squared_error, heads.half_squared_error, heads.sigmoid_binary_cross_entropy])
def test_masked_steps_contribute_nothing_even_if_they_contain_nan(loss):
    y_hats = jnp.where(MASK[..., None], Y_HATS, jnp.nan)
    targets = jnp.where(MASK[..., None], TARGETS, jnp.nan)
    total = lambda y_hats: heads.mean_over_steps(loss(y_hats, targets, MASK), MASK).sum()
    value, bar = jax.value_and_grad(total)(y_hats)
    clean = jnp.stack([loss(Y_HATS, TARGETS)[:, 0].mean(), loss(Y_HATS, TARGETS)[:3, 1].mean()]).sum()
    np.testing.assert_allclose(value, clean, rtol=1e-5)
    assert not bar[~MASK].any()
    assert (bar[MASK] != 0).all()


def test_the_class_index_of_a_masked_step_may_have_any_value():
    labels = jnp.where(MASK, LABELS, -1)
    y_hats = jnp.where(MASK[..., None], Y_HATS, jnp.nan)
    total = lambda y_hats: heads.softmax_cross_entropy(y_hats, labels, MASK).sum()
    value, bar = jax.value_and_grad(total)(y_hats)
    np.testing.assert_allclose(value, heads.softmax_cross_entropy(Y_HATS, LABELS)[MASK].sum(), rtol=1e-5)
    assert not bar[~MASK].any()


def test_a_traced_class_index_out_of_range_gives_nan_at_that_step_only():
    labels = LABELS.at[0, 0].set(-1).at[1, 1].set(K)
    losses = jax.jit(heads.softmax_cross_entropy)(Y_HATS, labels)
    assert np.argwhere(np.isnan(losses)).tolist() == [[0, 0], [1, 1]]


HALF = [jnp.float16, jnp.bfloat16]


@pytest.mark.parametrize("dtype", HALF)
def test_reductions_of_half_precision_losses_sum_in_float32(dtype):
    """The sum of 2,000 losses of 40 is 80,000, which float16 cannot hold."""
    losses, valid = jnp.full(2000, 40, dtype), jnp.arange(2000) < 1999
    assert heads.mean_over_steps(losses) == heads.mean_over_steps(losses, valid) == heads.last_step(losses, valid) == 40
    assert heads.sum_over_steps(losses) == 80_000
    assert {f(losses).dtype for f in (heads.sum_over_steps, heads.mean_over_steps, heads.last_step)} == {jnp.dtype(jnp.float32)}
    assert heads.mean_over_steps(jnp.ones(70_000, dtype)) == 1
    gradient = jax.grad(lambda losses: heads.mean_over_steps(losses))(losses)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient.astype(np.float32), 1 / 2000, rtol=1e-2)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    "loss", [heads.squared_error, heads.half_squared_error, heads.sigmoid_binary_cross_entropy, heads.softmax_cross_entropy]
)
def test_losses_of_half_precision_values_are_computed_in_float32(loss, dtype):
    values, targets = 300 * Y_HATS.astype(dtype), jax.nn.one_hot(LABELS, K, dtype=dtype)
    found, expected = loss(values, targets), loss(values.astype(jnp.float32), targets.astype(jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)
    assert jax.grad(lambda values: loss(values, targets).sum())(values).dtype == dtype


@pytest.mark.parametrize("dtype", HALF)
def test_dense_of_half_precision_sums_in_float32(dtype):
    """Partial sums reach 80,000, and the softmax sums 70,000 exponentials."""
    hs, V = jnp.full((1, 4000), 40, dtype), jnp.where(jnp.arange(4000) < 2000, 1.0, -1.0).astype(dtype)[:, None]
    params = heads.DenseParams(V, jnp.full(1, 0.5, dtype))
    found = heads.dense(params, hs)
    assert found.dtype == dtype
    assert found == 0.5
    bars = jax.grad(lambda params, hs: heads.dense(params, hs).sum().astype(jnp.float32), argnums=(0, 1))(params, hs)
    assert {bar.dtype for bar in jax.tree.leaves(bars)} == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(bars[1], V.T)
    wide = heads.DenseParams(jnp.zeros((1, 70_000), dtype), None)
    assert (heads.dense(wide, jnp.ones((1, 1), dtype), "softmax") > 0).all()


def test_heads_work_under_strict_dtype_and_rank_promotion():
    readout = heads.init_dense(jax.random.key(0), H, K, dtype=Y_HATS.dtype)
    losses = (heads.squared_error, heads.half_squared_error, heads.sigmoid_binary_cross_entropy, heads.softmax_cross_entropy)

    def all_values(y_hats, hs):
        each = [loss(y_hats, TARGETS, mask) for loss in losses for mask in (None, MASK)]
        each += [heads.softmax_cross_entropy(y_hats, LABELS, mask) for mask in (None, MASK)]
        reduced = [reduce(each[0], MASK) for reduce in (heads.mean_over_steps, heads.last_step)] + [
            heads.sum_over_steps(each[0])
        ]
        return [*each, *reduced, *(heads.dense(readout, hs, g2) for g2 in ("identity", "sigmoid", "tanh", "relu", "softmax"))]

    value_and_gradient = lambda: (
        all_values(Y_HATS, random(4, T, B, H)),
        jax.grad(lambda *args: sum(value.sum() for value in all_values(*args)), argnums=(0, 1))(Y_HATS, random(4, T, B, H)),
    )
    expected = value_and_gradient()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = value_and_gradient()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


BAD = {
    "bias as a number": (lambda: heads.init_dense(jax.random.key(0), H, K, bias=1), TypeError, r"bias: got 1 \(int\), expected True or False"),
    "shapes that broadcast": (lambda: heads.squared_error(jnp.ones((3, 1)), jnp.ones(3)), ValueError, r"targets: got shape \(3,\), expected \(3, 1\) like predictions"),
    "shapes of logits": (lambda: heads.sigmoid_binary_cross_entropy(Y_HATS, TARGETS[0]), ValueError, r"labels: got shape .* like logits"),
    "class indices with an extra axis": (lambda: heads.softmax_cross_entropy(Y_HATS, jnp.zeros((T, B, 1), int)), ValueError, r"labels: got class indices of shape \(7, 3, 1\), expected \(7, 3\)"),
    "a class index out of range": (lambda: heads.softmax_cross_entropy(Y_HATS, LABELS.at[0, 0].set(-1)), ValueError, r"labels: got class indices from -1 .*expected 0 to 5.*mask"),
    "a class index of as many as there are classes": (lambda: heads.softmax_cross_entropy(Y_HATS, LABELS.at[0, 0].set(K)), ValueError, r"labels: got class indices from . to 6, expected 0 to 5"),
    "mask dtype": (lambda: heads.squared_error(Y_HATS, TARGETS, jnp.ones((T, B))), TypeError, r"mask: got dtype float.*expected bool"),
    "mask shape": (lambda: heads.squared_error(Y_HATS, TARGETS, MASK.T), ValueError, r"mask: got shape \(3, 7\), expected \(7, 3\)"),
    "mask of a reduction": (lambda: heads.last_step(jnp.ones((T, B)), MASK[0]), ValueError, r"mask: got shape \(3,\), expected \(7, 3\)"),
    "activation": (lambda: heads.dense(heads.init_dense(jax.random.key(0), H, K), jnp.ones(H), "gelu"), ValueError, r"activation: got 'gelu', expected one of 'identity'"),
    "size of hs": (lambda: heads.dense(heads.init_dense(jax.random.key(0), H, K), jnp.ones((T, D))), ValueError, r"hs: got shape \(7, 4\), expected \(…, 5\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    assert_raises(*BAD[case])

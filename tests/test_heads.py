"""The read-out, the losses and their reductions: formulas, masks, precision and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import SEEDS, B, D, H, T, assert_raises, compiled, normal, on_host, problem

heads = gj.heads
K = 6


def random(seed, *shape):
    return np.asarray(normal(seed, *shape))


Y_HATS, TARGETS = random(0, T, B, K), random(1, T, B, K)
LABELS = np.random.default_rng(2).integers(0, K, (T, B))
ONE_HOT = np.eye(K)[LABELS]
MASK = np.arange(T)[:, None] < np.array([T, 3, 0])
EXACT = dict(rtol=1e-5 if Y_HATS.dtype == jnp.float32 else 1e-12)


def test_dense_equals_its_formula_with_every_activation():
    params = heads.init_dense(jax.random.key(3), H, K, bias_init=jax.nn.initializers.ones, dtype=Y_HATS.dtype)
    hs = random(4, T, B, H)
    a = hs @ np.asarray(params.V) + 1
    softmax = np.exp(a) / np.exp(a).sum(-1, keepdims=True)
    expected = dict(identity=a, sigmoid=1 / (1 + np.exp(-a)), tanh=np.tanh(a), relu=np.maximum(a, 0), softmax=softmax)
    measured = compiled(lambda params, hs: {g2: heads.dense(params, hs, g2) for g2 in expected}, params, hs)
    for g2 in expected:
        np.testing.assert_allclose(measured[g2], expected[g2], rtol=1e-5, atol=1e-6)
    unbiased = heads.init_dense(jax.random.key(3), H, K, bias=False)
    assert unbiased.b_y is None
    np.testing.assert_allclose(heads.dense(unbiased, hs), hs @ np.asarray(unbiased.V), rtol=1e-5, atol=1e-6)


@pytest.mark.derivative
def test_the_gradients_of_dense_depend_on_the_current_step_only():
    """V̄ = Σ_t h_tᵀ ȳ_pre,t, b̄_y = Σ ȳ_pre and h̄_t = ȳ_pre,t Vᵀ, through an Elman RNN and g₂ = σ."""
    p = problem(gj.elman())

    @jax.jit
    def results(readout, hs):
        def loss(readout, hs):
            return heads.mean_over_steps(heads.half_squared_error(heads.dense(readout, hs, "sigmoid"), TARGETS)).sum()

        return jax.grad(loss, argnums=(0, 1))(readout, hs), heads.dense(readout, hs, "sigmoid")

    hs = np.asarray(gj.unroll(gj.elman(), p.params, p.xs, p.h0)[1])
    for seed in SEEDS:
        readout = heads.init_dense(jax.random.key(seed), H, K, dtype=p.xs.dtype)
        (readout_bar, hs_bar), y_hats = on_host(results(readout, hs))
        y_pre_bar = (y_hats - TARGETS) / T * y_hats * (1 - y_hats)
        tol = dict(rtol=1e-4, atol=1e-6) if hs.dtype == jnp.float32 else dict(rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(readout_bar.V, sum(hs[t].T @ y_pre_bar[t] for t in range(T)), **tol)
        np.testing.assert_allclose(readout_bar.b_y, y_pre_bar.sum((0, 1)), **tol)
        np.testing.assert_allclose(hs_bar, y_pre_bar @ np.asarray(readout.V).T, **tol)


def test_the_losses_equal_their_formulas():
    def results(y_hats, targets, bits, labels, one_hot):
        squares = [loss(y_hats, targets) for loss in (heads.squared_error, heads.half_squared_error)]
        return (
            *squares,
            heads.sigmoid_binary_cross_entropy(y_hats, bits),
            *(heads.softmax_cross_entropy(y_hats, y) for y in (labels, one_hot)),
        )

    bits = TARGETS > 0
    squared, half_squared, binary, by_index, by_one_hot = compiled(results, Y_HATS, TARGETS, bits, LABELS, ONE_HOT)
    np.testing.assert_allclose(squared, ((Y_HATS - TARGETS) ** 2).sum(-1), **EXACT)
    np.testing.assert_allclose(half_squared, ((Y_HATS - TARGETS) ** 2).sum(-1) / 2, **EXACT)

    p = 1 / (1 + np.exp(-Y_HATS))
    np.testing.assert_allclose(binary, -np.where(bits, np.log(p), np.log(1 - p)).sum(-1), rtol=1e-5)

    softmax = np.exp(Y_HATS) / np.exp(Y_HATS).sum(-1, keepdims=True)
    picked = -np.log(np.take_along_axis(softmax, LABELS[..., None], -1)[..., 0])
    np.testing.assert_allclose(by_index, picked, rtol=1e-5)
    np.testing.assert_allclose(by_one_hot, picked, rtol=1e-5)


def test_the_cross_entropy_of_88_fair_coins_is_88_ln_2():
    np.testing.assert_allclose(
        heads.sigmoid_binary_cross_entropy(jnp.zeros((T, 88)), jnp.ones((T, 88))), 88 * np.log(2), rtol=1e-6
    )


def test_the_reductions_equal_their_formulas():
    losses = random(5, T, B)
    holes = np.array([True, False, True, False, False, True, False])[:, None] & np.ones((T, B), bool)

    def results(losses):
        both = heads.mean_over_steps, heads.last_step
        by_axis = [reduce(losses.T, MASK.T, axis=-1) for reduce in both] + [heads.sum_over_steps(losses.T, axis=1)]
        whole = [reduce(losses) for reduce in (*both, heads.sum_over_steps)]
        return whole, [reduce(losses, MASK) for reduce in both], heads.last_step(losses, holes), by_axis

    whole, masked, last_of_holes, by_axis = compiled(results, losses)
    for found, expected in zip(whole, (losses.mean(0), losses[-1], losses.sum(0)), strict=True):
        np.testing.assert_allclose(found, expected, **EXACT)
    np.testing.assert_allclose(masked[0], [losses[:, 0].mean(), losses[:3, 1].mean(), 0], **EXACT)
    np.testing.assert_array_equal(masked[1], [losses[-1, 0], losses[2, 1], 0])
    np.testing.assert_array_equal(last_of_holes, losses[5])
    for found, expected in zip(by_axis, (*masked, whole[2]), strict=True):
        np.testing.assert_allclose(found, expected, **EXACT)


def test_the_cost_of_a_sequence_without_steps_is_0():
    empty = jnp.zeros((0, B))
    for reduce in (heads.sum_over_steps, heads.mean_over_steps, heads.last_step):
        np.testing.assert_array_equal(reduce(empty), np.zeros(B))


@pytest.mark.parametrize("loss", [heads.squared_error, heads.half_squared_error, heads.sigmoid_binary_cross_entropy])
def test_masked_steps_contribute_nothing_even_if_they_contain_nan(loss):
    y_hats, targets = (np.where(MASK[..., None], given, np.nan) for given in (Y_HATS, TARGETS))

    def results(y_hats, targets):
        total = lambda y_hats: heads.mean_over_steps(loss(y_hats, targets, MASK), MASK).sum()
        return jax.value_and_grad(total)(y_hats), loss(Y_HATS, TARGETS)

    (value, bar), losses = compiled(results, y_hats, targets)
    np.testing.assert_allclose(value, losses[:, 0].mean() + losses[:3, 1].mean(), rtol=1e-5)
    assert not bar[~MASK].any()
    assert (bar[MASK] != 0).all()


def test_the_class_index_of_a_masked_step_may_have_any_value():
    labels, y_hats = np.where(MASK, LABELS, -1), np.where(MASK[..., None], Y_HATS, np.nan)
    total = lambda y_hats: heads.softmax_cross_entropy(y_hats, labels, MASK).sum()
    run = lambda y_hats: (jax.value_and_grad(total)(y_hats), heads.softmax_cross_entropy(Y_HATS, LABELS))
    (value, bar), losses = compiled(run, y_hats)
    np.testing.assert_allclose(value, losses[MASK].sum(), rtol=1e-5)
    assert not bar[~MASK].any()


def test_a_traced_class_index_out_of_range_gives_nan_at_that_step_only():
    labels = LABELS.copy()
    labels[[0, 1], [0, 1]] = -1, K
    losses = jax.jit(heads.softmax_cross_entropy)(Y_HATS, labels)
    assert np.argwhere(np.isnan(losses)).tolist() == [[0, 0], [1, 1]]


HALF = [jnp.float16, jnp.bfloat16]


@pytest.mark.parametrize("dtype", HALF)
def test_reductions_of_half_precision_losses_sum_in_float32(dtype):
    """The sum of 2,000 losses of 40 is 80,000, which float16 cannot hold."""
    losses, valid = np.full(2000, 40, dtype), np.arange(2000) < 1999

    def results(losses):
        means = heads.mean_over_steps(losses), heads.mean_over_steps(losses, valid), heads.last_step(losses, valid)
        others = heads.sum_over_steps(losses), heads.mean_over_steps(jnp.ones(70_000, dtype))
        return means, others, jax.grad(heads.mean_over_steps)(losses)

    means, others, gradient = compiled(results, losses)
    assert [float(mean) for mean in means] == [40] * 3
    assert [float(other) for other in others] == [80_000, 1]
    assert {value.dtype for value in (*means, *others)} == {np.dtype(np.float32)}
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient.astype(np.float32), 1 / 2000, rtol=1e-2)


@pytest.mark.parametrize("dtype", HALF)
def test_losses_of_half_precision_values_are_computed_in_float32(dtype):
    losses = (heads.squared_error, heads.half_squared_error, heads.sigmoid_binary_cross_entropy, heads.softmax_cross_entropy)

    def results(values, targets):
        for loss in losses:
            wide = loss(values.astype(jnp.float32), targets.astype(jnp.float32))
            yield loss(values, targets), wide, jax.grad(lambda values, loss=loss: loss(values, targets).sum())(values)

    of_losses = compiled(lambda *args: list(results(*args)), (300 * Y_HATS).astype(dtype), ONE_HOT.astype(dtype))
    for found, expected, bar in of_losses:
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
        assert bar.dtype == dtype


@pytest.mark.parametrize("dtype", HALF)
def test_dense_of_half_precision_sums_in_float32(dtype):
    """Partial sums reach 80,000, and the softmax sums 70,000 exponentials."""
    hs, V = np.full((1, 4000), 40, dtype), np.where(np.arange(4000) < 2000, 1.0, -1.0).astype(dtype)[:, None]
    wide = heads.DenseParams(np.zeros((1, 70_000), dtype), None)

    def results(params, hs):
        total = lambda params, hs: heads.dense(params, hs).sum().astype(jnp.float32)
        of_wide = heads.dense(wide, jnp.ones((1, 1), dtype), "softmax")
        return heads.dense(params, hs), jax.grad(total, argnums=(0, 1))(params, hs), of_wide

    found, bars, of_wide = compiled(results, heads.DenseParams(V, np.full(1, 0.5, dtype)), hs)
    assert found.dtype == dtype
    assert found == 0.5
    assert {bar.dtype for bar in jax.tree.leaves(bars)} == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(bars[1], V.T)
    assert (of_wide > 0).all()


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

    def value_and_gradient():  # traced anew under each configuration
        total = lambda *args: sum(value.sum() for value in all_values(*args))
        run = lambda *args: (all_values(*args), jax.grad(total, argnums=(0, 1))(*args))
        return compiled(run, Y_HATS, random(4, T, B, H))

    expected = value_and_gradient()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = value_and_gradient()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def labels_with(value):
    labels = LABELS.copy()
    labels[0, 0] = value
    return labels


BAD = {
    "bias as a number": (lambda: heads.init_dense(jax.random.key(0), H, K, bias=1), TypeError, r"bias: got 1 \(int\), expected True or False"),
    "shapes that broadcast": (lambda: heads.squared_error(jnp.ones((3, 1)), jnp.ones(3)), ValueError, r"targets: got shape \(3,\), expected \(3, 1\) like predictions"),
    "shapes of logits": (lambda: heads.sigmoid_binary_cross_entropy(Y_HATS, TARGETS[0]), ValueError, r"labels: got shape .* like logits"),
    "class indices with an extra axis": (lambda: heads.softmax_cross_entropy(Y_HATS, jnp.zeros((T, B, 1), int)), ValueError, r"labels: got class indices of shape \(7, 3, 1\), expected \(7, 3\)"),
    "a class index out of range": (lambda: heads.softmax_cross_entropy(Y_HATS, labels_with(-1)), ValueError, r"labels: got class indices from -1 .*expected 0 to 5.*mask"),
    "a class index of as many as there are classes": (lambda: heads.softmax_cross_entropy(Y_HATS, labels_with(K)), ValueError, r"labels: got class indices from . to 6, expected 0 to 5"),
    "mask dtype": (lambda: heads.squared_error(Y_HATS, TARGETS, jnp.ones((T, B))), TypeError, r"mask: got dtype float.*expected bool"),
    "mask shape": (lambda: heads.squared_error(Y_HATS, TARGETS, MASK.T), ValueError, r"mask: got shape \(3, 7\), expected \(7, 3\)"),
    "mask of a reduction": (lambda: heads.last_step(jnp.ones((T, B)), MASK[0]), ValueError, r"mask: got shape \(3,\), expected \(7, 3\)"),
    "activation": (lambda: heads.dense(heads.init_dense(jax.random.key(0), H, K), jnp.ones(H), "gelu"), ValueError, r"activation: got 'gelu', expected one of 'identity'"),
    "size of hs": (lambda: heads.dense(heads.init_dense(jax.random.key(0), H, K), jnp.ones((T, D))), ValueError, r"hs: got shape \(7, 4\), expected \(…, 5\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    assert_raises(*BAD[case])

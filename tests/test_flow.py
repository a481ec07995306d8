"""`gj.flow`: the terms, their sum, the sensitivities and the Jacobians agree with autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gru_jax as gj
from tests.conditions import ALL_THREE, random_reset_state
from tests.problems import CELLS, B, D, H, T, assert_close, assert_raises, main_cells, problem, without_derivation

pytestmark = pytest.mark.derivative

TARGETS = jax.random.normal(jax.random.key(9), (T, B, H))


def loss(t, y):
    """Computes the loss of step t: nonlinear, and different at every step."""
    return jnp.sum(jnp.sin(y - TARGETS[t]) * (1 + t))


def total(cell, params, xs, h0):
    _, ys = gj.unroll(cell, params, xs, h0, derivative=gj.Autodiff())
    return sum(loss(t, ys[t]) for t in range(T))


@main_cells
@pytest.mark.parametrize("derived", [True, False], ids=["derived", "local"])
def test_the_terms_sum_to_the_gradient(cell, derived):
    p = problem(cell)
    tested = cell if derived else without_derivation(cell)
    split = jax.jit(lambda p: gj.flow.contributions(tested, p.params, p.xs, loss, p.h0))(p)
    assert jax.tree.map(jnp.shape, split) == jax.tree.map(lambda leaf: (T, T, *leaf.shape), p.params)
    assert_close(jax.tree.map(lambda leaf: leaf.sum((0, 1)), split), jax.grad(partial(total, cell))(p.params, p.xs, p.h0))


@pytest.mark.parametrize(
    "name", ["gru", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linear_rnn", "elman_tanh", "lstm_peephole"))]
)
def test_every_term_is_the_derivative_of_one_loss_with_respect_to_the_parameters_at_one_step(name):
    """Compares with autodiff of a loop in which every step has its own copy of the parameters."""
    cell = CELLS[name]
    p = problem(cell)

    def losses(params_by_step):
        h, found = p.h0, []
        for k in range(T):
            h, y = cell.step(jax.tree.map(lambda leaf: leaf[k], params_by_step), h, p.xs[k])
            found.append(loss(k, y))
        return jnp.stack(found)

    shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (T, *leaf.shape)), p.params)
    expected = jax.jit(jax.jacrev(losses))(shared)
    split = gj.flow.contributions(cell, p.params, p.xs, loss, p.h0)
    assert_close(split, expected)
    after_loss = np.triu_indices(T, 1)  # pairs whose use step comes after the loss step
    assert all(not leaf[after_loss].any() for leaf in jax.tree.leaves(split))
    assert all(leaf[np.tril_indices(T, -1)].any() for leaf in jax.tree.leaves(split))

    norms = gj.flow.contribution_norms(cell, p.params, p.xs, loss, p.h0)
    frobenius = lambda leaf: jnp.sqrt((leaf**2).sum(tuple(range(2, leaf.ndim))))
    assert_close(norms, jax.tree.map(frobenius, expected))


@pytest.mark.parametrize("batch", [(B,), (), (2, B)])
def test_per_example_terms_are_the_terms_of_each_example_alone(batch):
    cell = gj.gru()
    p = problem(cell, batch=batch)
    quadratic = lambda t, y: ((y - 0.1 * t) ** 2).sum()
    split = gj.flow.contributions(cell, p.params, p.xs, quadratic, p.h0, per_example=True)
    assert split.W_z.shape == (T, T, *batch, D, H)
    whole = gj.flow.contributions(cell, p.params, p.xs, quadratic, p.h0)
    over_batch = tuple(range(2, 2 + len(batch)))
    assert_close(jax.tree.map(lambda leaf: leaf.sum(over_batch), split), whole)
    one = tuple(0 for _ in batch)
    alone = gj.flow.contributions(cell, p.params, p.xs[(slice(None), *one)], quadratic, p.h0[one])
    assert_close(jax.tree.map(lambda leaf: leaf[(slice(None), slice(None), *one)], split), alone)


@main_cells
def test_the_sensitivity_to_a_state_is_the_norm_of_the_gradient_at_that_state(cell):
    p = problem(cell)
    measured = gj.flow.state_sensitivity(cell, p.params, p.xs, loss, p.h0)
    assert measured.shape == (T, T, B)
    for k, t in ((0, 0), (0, T - 1), (2, 5), (5, 2)):
        h_k, _ = gj.unroll(cell, p.params, p.xs[: k + 1], p.h0)

        def later_loss(h):
            y = cell.output(h) if t == k else gj.unroll(cell, p.params, p.xs[k + 1 : t + 1], h)[1][-1]
            return loss(t, y)

        if t < k:
            assert not measured[t, k].any()
            continue
        squares = [(leaf**2).sum(-1) for leaf in jax.tree.leaves(jax.grad(later_loss)(h_k))]
        assert_close(measured[t, k], jnp.sqrt(sum(squares)))


@pytest.mark.parametrize(("name", "derived"), [("gru", True), ("lstm_peephole", False)])
def test_terms_and_jacobians_follow_lengths_masks_and_resets(name, derived):
    cell = CELLS[name]
    p = problem(cell)
    reset_state = random_reset_state(cell, p.params)
    tested = cell if derived else without_derivation(cell)
    run = partial(gj.unroll, cell, derivative=gj.Autodiff(), reset_state=reset_state, **ALL_THREE)

    def losses(params):
        ys = run(params, p.xs, p.h0)[1]
        return jnp.stack([loss(t, ys[t]) for t in range(T)])

    conditions = {"reset_state": reset_state, **ALL_THREE}
    arguments = p.params, p.xs, loss, p.h0
    split = jax.jit(lambda: gj.flow.contributions(tested, *arguments, **conditions))()
    assert_close(jax.tree.map(lambda leaf: leaf.sum(1), split), jax.jit(jax.jacrev(losses))(p.params))
    norms = jax.jit(lambda: gj.flow.contribution_norms(tested, *arguments, **conditions))()
    assert_close(norms, jax.tree.map(lambda leaf: gj.flow.norm(leaf, tuple(range(2, leaf.ndim))), split))

    # through all steps: ∂h_T/∂h_0 is the product of the matrices
    Js = gj.flow.jacobians(tested, p.params, p.xs, p.h0, **conditions)
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], p.h0))
    for b in range(B):

        def last_state(flat, b=b):
            h0 = jax.tree.map(lambda h, own: h.at[b].set(own), p.h0, unravel(flat))
            return ravel_pytree(jax.tree.map(lambda leaf: leaf[b], run(p.params, p.xs, h0)[0]))[0]

        flat = ravel_pytree(jax.tree.map(lambda leaf, b=b: leaf[b], p.h0))[0]
        product = np.linalg.multi_dot([*np.asarray(Js[:, b])])
        assert_close(jnp.asarray(product), jax.jacobian(last_state)(flat).T)
    masked = ~valid_steps(T, ALL_THREE)
    assert (Js[masked] == jnp.eye(Js.shape[-1])).all()
    assert (Js[ALL_THREE["resets"] & ~masked] == 0).all()


def valid_steps(steps, conditions):
    """Which steps lengths and mask leave."""
    return (np.arange(steps)[:, None] < conditions["lengths"]) & conditions["mask"]


@main_cells
@pytest.mark.parametrize("derived", [True, False], ids=["derived", "local"])
def test_jacobians_are_the_transposes_of_those_of_jax(cell, derived):
    p = problem(cell, batch=(2,))
    tested = cell if derived else without_derivation(cell)
    measured = gj.flow.jacobians(tested, p.params, p.xs, p.h0)
    h = p.h0
    for t in range(T):
        for b in range(2):
            flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[b], h))
            step = lambda flat: ravel_pytree(cell.step(p.params, unravel(flat), p.xs[t, b])[0])[0]
            assert_close(measured[t, b], jax.jacobian(step)(flat).T)
        h, _ = cell.step(p.params, h, p.xs[t])
    norms = gj.flow.jacobian_norms(tested, p.params, p.xs, p.h0)
    assert_close(norms, jnp.asarray(np.linalg.svd(measured, compute_uv=False)[..., 0]))


def test_the_lyapunov_exponents_of_a_linear_rnn_are_the_logarithms_of_its_eigenvalues():
    cell = gj.linear_rnn()
    params = cell.init(jax.random.key(0), D, H, dtype=jnp.result_type(float))
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (H, H)))[0]
    factors = jnp.array([1.3, 1.0, 0.7, 0.4, 0.1])
    params = params._replace(U=rotation @ jnp.diag(factors) @ rotation.T)
    measured = gj.flow.lyapunov_exponents(cell, params, jnp.zeros((400, D)))
    np.testing.assert_allclose(measured, np.log(factors), atol=0.02)
    forgets = gj.flow.lyapunov_exponents(cell, params._replace(U=jnp.zeros((H, H))), jnp.zeros((5, D)))
    assert (forgets == -jnp.inf).all()


def test_the_first_lyapunov_exponent_is_the_growth_in_the_first_direction():
    cell = gj.gru()
    p = problem(cell, batch=())
    jacobian = jax.jacobian(lambda h0: gj.unroll(cell, p.params, p.xs, h0)[0])(p.h0)
    measured = gj.flow.lyapunov_exponents(cell, p.params, p.xs, p.h0)
    np.testing.assert_allclose(measured[0], np.log(np.linalg.norm(jacobian[:, 0])) / T, rtol=1e-5)


def test_terms_that_take_too_many_bytes_raise():
    cell = gj.gru()
    p = problem(cell, dtype=jnp.float32)
    needed = T * T * 4 * sum(leaf.size for leaf in p.params)
    message = rf"xs: got 7 steps, whose terms take {needed:,} bytes, expected at most max_bytes=100\b.*contribution_norms"
    assert_raises(lambda: gj.flow.contributions(cell, p.params, p.xs, loss, max_bytes=100), ValueError, message)
    assert_raises(
        lambda: gj.flow.contributions(cell, p.params, p.xs, loss, max_bytes=needed, per_example=True),
        ValueError,
        f"{needed * B:,} bytes",
    )
    gj.flow.contributions(cell, p.params, p.xs, lambda t, y: y.sum(), max_bytes=needed)


def test_norms_are_right_for_very_large_and_small_values_and_keep_nonfinite_ones():
    cell = gj.linear_rnn()
    p = problem(cell, dtype=jnp.float32)
    at_scale = lambda scale: p.params._replace(U=scale * jnp.eye(H, dtype=jnp.float32))
    linear = lambda t, y: y.sum()
    norms = gj.flow.contribution_norms(cell, at_scale(1e20), p.xs, linear)
    assert not jnp.isfinite(norms.U[-1, 0])
    for scale in (1e-5, 1e5):  # 1e±30 over six steps, whose squares are outside the range of float32
        sensitivity = gj.flow.state_sensitivity(cell, at_scale(scale), p.xs, linear)
        np.testing.assert_allclose(np.asarray(sensitivity[-1, 0], float), H**0.5 * float(np.float32(scale)) ** 6, rtol=1e-5)
    norms = gj.flow.contribution_norms(cell, at_scale(1e-5), p.xs, linear)
    assert (norms.W[np.tril_indices(T)] > 0).all()


def test_the_norm_matches_numpy_and_keeps_infinity_and_nan():
    x = jax.random.normal(jax.random.key(0), (3, 4, 5))
    for axis in (None, 0, (1, 2)):
        flat = np.sqrt((np.asarray(x, float) ** 2).sum(axis))
        np.testing.assert_allclose(gj.flow.norm(x, axis), flat, rtol=1e-5)
    small = x.astype(jnp.float32)
    np.testing.assert_allclose(gj.flow.norm(1e-30 * small), 1e-30 * gj.flow.norm(small), rtol=1e-5)
    assert gj.flow.norm(jnp.array([1.0, jnp.inf])) == jnp.inf
    assert jnp.isnan(gj.flow.norm(jnp.array([1.0, jnp.nan])))
    assert gj.flow.norm(jnp.zeros((2, 0)), 1).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("derived", [True, False], ids=["derived", "local"])
def test_no_step_has_no_terms(derived):
    cell = gj.gru() if derived else without_derivation(gj.gru())
    p = problem(gj.gru(), steps=0)
    linear = lambda t, y: y.sum()
    for layer, params, h0 in ((cell, p.params, p.h0), (gj.stack([cell]), (p.params,), (p.h0,))):
        of_layer = lambda tree, layer=layer: tree if layer is cell else tree[0]
        assert of_layer(gj.flow.contributions(layer, params, p.xs, linear, h0)).W_z.shape == (0, 0, D, H)
        assert of_layer(gj.flow.contribution_norms(layer, params, p.xs, linear, h0)).W_z.shape == (0, 0)
        assert of_layer(gj.flow.state_sensitivity(layer, params, p.xs, linear, h0)).shape == (0, 0, B)
        assert of_layer(gj.flow.jacobian_norms(layer, params, p.xs, h0)).shape == (0, B)
        assert jnp.isnan(of_layer(gj.flow.lyapunov_exponents(layer, params, p.xs, h0))).all()


def test_an_empty_batch_has_empty_results():
    cell = gj.lstm()
    p = problem(cell, batch=(0,))
    linear = lambda t, y: y.sum()
    assert gj.flow.jacobians(cell, p.params, p.xs, p.h0).shape == (T, 0, 2 * H, 2 * H)
    assert gj.flow.lyapunov_exponents(cell, p.params, p.xs, p.h0).shape == (0, 2 * H)
    assert gj.flow.contributions(cell, p.params, p.xs, linear, p.h0, per_example=True).W_i.shape == (T, T, 0, D, H)
    assert not gj.flow.contributions(cell, p.params, p.xs, linear, p.h0).W_i.any()


def test_bad_input_raises():
    p, both, noisy = problem(gj.gru()), gj.bidirectional(gj.gru()), gj.zoneout(gj.gru(), 0.1)
    jacobians, sensitivity = gj.flow.jacobians, gj.flow.state_sensitivity
    message = r"cell: got bidirectional.*in one direction.*one by one"
    for layer, params in ((both, (p.params, p.params)), (gj.stack([gj.gru(), both]), (p.params, (p.params, p.params)))):
        assert_raises(lambda: jacobians(layer, params, p.xs), TypeError, message)
        assert_raises(lambda: sensitivity(layer, params, p.xs, loss), TypeError, message)
    stateless = gj.feedforward(None, lambda params, x: x)
    assert_raises(lambda: jacobians(stateless, (), p.xs), TypeError, r"cell: got feedforward, which has no state")
    assert_raises(lambda: jacobians(noisy, p.params, p.xs), ValueError, r"cell: got zoneout.*noise.*deterministic")
    assert_raises(lambda: jacobians(gj.gru(), p.params, p.xs[..., :2]), ValueError, r"xs: got 2 features")
    wrong = lambda: sensitivity(gj.gru(), p.params, p.xs, loss, p.h0[:2])
    assert_raises(wrong, ValueError, r"h0: got.*expected shape \(3, 5\)")

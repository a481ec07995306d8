"""`gj.flow`: the terms, their sum, the sensitivities and the Jacobians agree with autodiff."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gru_jax as gj
from tests.conditions import ALL_THREE, random_reset_state
from tests.problems import (
    CELLS,
    B,
    D,
    H,
    T,
    assert_close,
    assert_raises,
    compiled,
    normal,
    on_host,
    pair_by_default,
    problem,
    scan_of_step,
    without_derivation,
)

pytestmark = pytest.mark.derivative

STEPS = jnp.arange(T)
TARGETS = normal(9, T, B, H)


def loss(t, y):
    """Computes the loss of step t: nonlinear, and different at every step."""
    return jnp.sum(jnp.sin(y - TARGETS[t]) * (1 + t))


def frobenius(leaf):
    return np.sqrt((leaf**2).sum(tuple(range(2, leaf.ndim))))


@cache
def expected_terms(cell):
    """Differentiates a loop in which every step has its own copy of the parameters, by autodiff."""
    p = problem(cell)

    def losses(params_by_step):
        _, ys = jax.lax.scan(lambda h, at_k: cell.step(at_k[0], h, at_k[1]), p.h0, (params_by_step, p.xs))
        return jax.vmap(loss)(STEPS, ys)

    shared = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (T, *leaf.shape)), p.params)
    return on_host(jax.jit(jax.jacrev(losses))(shared))


@pair_by_default
@pytest.mark.parametrize("derived", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["derived", "local"])
def test_every_term_is_the_derivative_of_one_loss_with_respect_to_the_parameters_at_one_step(cell, derived):
    p, expected = problem(cell), expected_terms(cell)
    tested = cell if derived else without_derivation(cell)
    terms = gj.flow.contributions, gj.flow.contribution_norms
    split, norms = on_host(jax.jit(lambda p: [f(tested, p.params, p.xs, loss, p.h0) for f in terms])(p))
    assert_close(split, expected)
    after_loss = np.triu_indices(T, 1)  # pairs whose use step comes after the loss step
    assert all(not leaf[after_loss].any() for leaf in jax.tree.leaves(split))
    assert all(leaf[np.tril_indices(T, -1)].any() for leaf in jax.tree.leaves(split))
    assert_close(norms, jax.tree.map(frobenius, expected))


@pytest.mark.parametrize("batch", [*(pytest.param(batch, marks=pytest.mark.slow) for batch in ((B,), ())), (2, B)])
def test_per_example_terms_are_the_terms_of_each_example_alone(batch):
    cell = gj.gru()
    p = problem(cell, batch=batch)
    quadratic = lambda t, y: ((y - 0.1 * t) ** 2).sum()
    one = tuple(0 for _ in batch)

    @jax.jit
    def three(params, xs, h0):
        run = partial(gj.flow.contributions, cell, params)
        alone = run(xs[(slice(None), *one)], quadratic, h0[one])
        return run(xs, quadratic, h0, per_example=True), run(xs, quadratic, h0), alone

    split, whole, alone = on_host(three(p.params, p.xs, p.h0))
    assert split.W_z.shape == (T, T, *batch, D, H)
    over_batch = tuple(range(2, 2 + len(batch)))
    assert_close(jax.tree.map(lambda leaf: leaf.sum(over_batch), split), whole)
    assert_close(jax.tree.map(lambda leaf: leaf[(slice(None), slice(None), *one)], split), alone)


@pair_by_default
def test_the_sensitivity_to_a_state_is_the_norm_of_the_gradient_at_that_state(cell):
    p = problem(cell)

    def losses(bumps):
        """Adds to the state after each step."""

        def step(h, at_k):
            x, bump = at_k
            h = jax.tree.map(jnp.add, cell.step(p.params, h, x)[0], bump)
            return h, cell.output(h)

        return jax.vmap(loss)(STEPS, jax.lax.scan(step, p.h0, (p.xs, bumps))[1])

    zeros = jax.tree.map(lambda leaf: np.zeros((T, *leaf.shape), leaf.dtype), p.h0)
    bars = on_host(jax.jit(jax.jacrev(losses))(zeros))
    measured = jax.jit(lambda p: gj.flow.state_sensitivity(cell, p.params, p.xs, loss, p.h0))(p)
    assert measured.shape == (T, T, B)
    assert_close(measured, np.sqrt(sum((leaf**2).sum(-1) for leaf in jax.tree.leaves(bars))))
    assert not np.asarray(measured)[np.triu_indices(T, 1)].any()


@pytest.mark.parametrize(("name", "derived"), [("gru", True), pytest.param("lstm_peephole", False, marks=pytest.mark.slow)])
def test_terms_and_jacobians_follow_lengths_masks_and_resets(name, derived):
    cell = CELLS[name]
    p = problem(cell)
    reset_state = random_reset_state(cell, p.params)
    tested = cell if derived else without_derivation(cell)
    conditions = {"reset_state": reset_state, **ALL_THREE}
    flat, unravel = ravel_pytree(p.h0)

    def losses_and_last_state(params, flat):
        h_last, ys = scan_of_step(cell, params, p.xs, unravel(flat), **conditions)
        return jax.vmap(loss)(STEPS, ys), ravel_pytree(h_last)[0]

    @jax.jit
    def measured(params):
        arguments = tested, params, p.xs
        terms = [f(*arguments, loss, p.h0, **conditions) for f in (gj.flow.contributions, gj.flow.contribution_norms)]
        return *terms, gj.flow.jacobians(*arguments, p.h0, **conditions)

    split, norms, Js = on_host(measured(p.params))
    (by_params, _), (_, by_h0) = on_host(jax.jit(jax.jacrev(losses_and_last_state, (0, 1)))(p.params, flat))
    assert_close(jax.tree.map(lambda leaf: leaf.sum(1), split), by_params)
    assert_close(norms, jax.tree.map(frobenius, split))

    # through all steps: ∂h_T/∂h_0 is the product of the matrices of each sequence
    parts = [np.arange(B * H).reshape(B, H) + i * B * H for i in range(len(jax.tree.leaves(p.h0)))]
    for b in range(B):
        units = np.concatenate([part[b] for part in parts])
        assert_close(np.linalg.multi_dot([*Js[:, b]]), by_h0[np.ix_(units, units)].T)
    masked = ~valid_steps(T, ALL_THREE)
    assert (Js[masked] == np.eye(Js.shape[-1])).all()
    assert (Js[ALL_THREE["resets"] & ~masked] == 0).all()


def valid_steps(steps, conditions):
    """Which steps lengths and mask leave."""
    return (np.arange(steps)[:, None] < conditions["lengths"]) & conditions["mask"]


@pair_by_default
@pytest.mark.parametrize("derived", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["derived", "local"])
def test_jacobians_are_the_transposes_of_those_of_jax(cell, derived):
    p = problem(cell)
    tested = cell if derived else without_derivation(cell)

    @jax.jit
    def measured_and_expected(p):
        arguments = tested, p.params, p.xs, p.h0
        by_flow = gj.flow.jacobians(*arguments), gj.flow.jacobian_norms(*arguments)
        _, h_prevs = jax.lax.scan(lambda h, x: (cell.step(p.params, h, x)[0], h), p.h0, p.xs)

        def jacobian(h, x):
            flat, unravel = ravel_pytree(h)
            return jax.jacobian(lambda flat: ravel_pytree(cell.step(p.params, unravel(flat), x)[0])[0])(flat)

        return by_flow, jax.vmap(jax.vmap(jacobian))(h_prevs, p.xs)

    (measured, norms), expected = on_host(measured_and_expected(p))
    assert_close(measured, np.swapaxes(expected, -1, -2))
    assert_close(norms, np.linalg.svd(measured, compute_uv=False)[..., 0])


def test_the_lyapunov_exponents_of_a_linear_rnn_are_the_logarithms_of_its_eigenvalues():
    cell = gj.linear_rnn()
    params = problem(cell, bias=False).params
    rotation = np.linalg.qr(normal(1, H, H))[0]
    factors = np.array([1.3, 1.0, 0.7, 0.4, 0.1])
    exponents = jax.jit(lambda U: gj.flow.lyapunov_exponents(cell, params._replace(U=U), jnp.zeros((400, D))))
    np.testing.assert_allclose(exponents(rotation @ np.diag(factors) @ rotation.T), np.log(factors), atol=0.02)
    assert (exponents(np.zeros((H, H))) == -jnp.inf).all()


def test_the_first_lyapunov_exponent_is_the_growth_in_the_first_direction():
    cell = gj.gru()
    p = problem(cell, batch=())
    jacobian = jax.jit(jax.jacobian(lambda h0: gj.unroll(cell, p.params, p.xs, h0)[0]))(p.h0)
    measured = jax.jit(partial(gj.flow.lyapunov_exponents, cell))(p.params, p.xs, p.h0)
    np.testing.assert_allclose(measured[0], np.log(np.linalg.norm(np.asarray(jacobian)[:, 0])) / T, rtol=1e-5)


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
    jax.eval_shape(lambda xs: gj.flow.contributions(cell, p.params, xs, loss, max_bytes=needed), p.xs)


def test_norms_are_right_for_very_large_and_small_values_and_keep_nonfinite_ones():
    cell = gj.linear_rnn()
    p = problem(cell, dtype=jnp.float32)
    measures = gj.flow.contribution_norms, gj.flow.state_sensitivity

    @jax.jit
    def at_scale(scale):
        params = p.params._replace(U=scale * jnp.eye(H, dtype=jnp.float32))
        return [measure(cell, params, p.xs, lambda t, y: y.sum()) for measure in measures]

    norms, _ = on_host(at_scale(np.float32(1e20)))
    assert not np.isfinite(norms.U[-1, 0])
    for scale in map(np.float32, (1e5, 1e-5)):  # 1e±30 over six steps, whose squares are outside the range of float32
        norms, sensitivity = on_host(at_scale(scale))
        np.testing.assert_allclose(np.asarray(sensitivity[-1, 0], float), H**0.5 * float(scale) ** 6, rtol=1e-5)
    assert (norms.W[np.tril_indices(T)] > 0).all()


def test_the_norm_matches_numpy_and_keeps_infinity_and_nan():
    x = normal(0, 3, 4, 5)
    single = np.asarray(x, np.float32)
    axes = (None, 0, (1, 2))

    def results(x, single, tiny):
        special = [gj.flow.norm(jnp.array([1.0, value])) for value in (jnp.inf, jnp.nan)]
        scaled = gj.flow.norm(single), gj.flow.norm(tiny)
        return [gj.flow.norm(x, axis) for axis in axes], scaled, special, gj.flow.norm(jnp.zeros((2, 0)), 1)

    norms, (of_single, of_tiny), (infinite, nan), empty = compiled(results, x, single, np.float32(1e-30) * single)
    for axis, norm in zip(axes, norms, strict=True):
        np.testing.assert_allclose(norm, np.sqrt((np.asarray(x, float) ** 2).sum(axis)), rtol=1e-5)
    np.testing.assert_allclose(of_tiny, 1e-30 * of_single, rtol=1e-5)
    assert infinite == np.inf
    assert np.isnan(nan)
    assert empty.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("derived", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["derived", "local"])
def test_no_step_has_no_terms(derived):
    cell = gj.gru() if derived else without_derivation(gj.gru())
    p = problem(gj.gru(), steps=0)
    linear = lambda t, y: y.sum()

    @jax.jit
    def all_of(layer, params, h0):
        with_loss = gj.flow.contributions, gj.flow.contribution_norms, gj.flow.state_sensitivity
        of_loss = [measure(layer, params, p.xs, linear, h0) for measure in with_loss]
        return *of_loss, *(f(layer, params, p.xs, h0) for f in (gj.flow.jacobian_norms, gj.flow.lyapunov_exponents))

    alone, in_stack = all_of(cell, p.params, p.h0), all_of(gj.stack([cell]), (p.params,), (p.h0,))
    for terms, norms, sensitivity, jacobians, exponents in (alone, [of_layers[0] for of_layers in in_stack]):
        assert terms.W_z.shape == (0, 0, D, H)
        assert norms.W_z.shape == (0, 0)
        assert sensitivity.shape == (0, 0, B)
        assert jacobians.shape == (0, B)
        assert np.isnan(exponents).all()


def test_an_empty_batch_has_empty_results():
    cell = gj.lstm()
    p = problem(cell, batch=(0,))
    linear = lambda t, y: y.sum()

    @jax.jit
    def all_of(*args):
        terms = partial(gj.flow.contributions, cell, *args[:2], linear, args[2])
        return gj.flow.jacobians(cell, *args), gj.flow.lyapunov_exponents(cell, *args), terms(per_example=True), terms()

    jacobians, exponents, by_example, whole = on_host(all_of(p.params, p.xs, p.h0))
    assert jacobians.shape == (T, 0, 2 * H, 2 * H)
    assert exponents.shape == (0, 2 * H)
    assert by_example.W_i.shape == (T, T, 0, D, H)
    assert not whole.W_i.any()


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

"""The gradients of `unroll` with lengths, masks and resets against autodiff of the plain scan."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, CONDITIONS, LENGTHS, MASK, NEUTRAL, random_reset_state
from tests.problems import (
    B,
    H,
    T,
    assert_close,
    gradients,
    main_cells,
    normal_like,
    problem,
    scan_of_step,
    without_derivation,
)

pytestmark = pytest.mark.derivative

DERIVATIVES = {"CustomVJP": gj.CustomVJP(), "CustomJVP": gj.CustomJVP(), "Autodiff": gj.Autodiff()}
every_derivative = pytest.mark.parametrize("derivative", DERIVATIVES.values(), ids=DERIVATIVES.keys())


@main_cells
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_equal_autodiff_of_the_plain_scan_under_every_condition(cell, reverse):
    hows = ((cell, gj.CustomVJP()), (without_derivation(cell), gj.CustomVJP()), (cell, gj.CustomJVP()))

    def gradients_under(conditions, p, unroll):
        def run(params_and_reset_state, xs, h0):
            params, reset_state = params_and_reset_state
            return unroll(params, xs, h0, reset_state=reset_state, reverse=reverse, **conditions)

        return gradients(run, p)

    expected = jax.jit(partial(gradients_under, unroll=partial(scan_of_step, cell)))
    measured = [
        jax.jit(partial(gradients_under, unroll=partial(gj.unroll, tested, derivative=derivative)))
        for tested, derivative in hows
    ]
    for seed, conditions in enumerate(CONDITIONS.values()):
        p = problem(cell, seed)
        p = p._replace(params=(p.params, random_reset_state(cell, p.params, seed)))
        by_autodiff = expected(NEUTRAL | conditions, p)
        for by_derivation in measured:
            assert_close(by_derivation(NEUTRAL | conditions, p), by_autodiff)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [{"steps": 0}, {"steps": 1}, {"batch": (0,)}, {"batch": (1,)}, {"batch": ()}, {"batch": (2, B)}], ids=str
)
@pytest.mark.parametrize("derivative", [gj.CustomVJP(), gj.CustomJVP()], ids=["CustomVJP", "CustomJVP"])
def test_gradients_at_edge_sizes_with_all_three_conditions_equal_autodiff(sizes, derivative):
    cell = gj.gru()
    p = problem(cell, **sizes)
    steps, batch = p.xs.shape[0], p.xs.shape[1:-1]
    random = np.random.default_rng(0)
    conditions = {
        "lengths": random.integers(0, steps + 1, batch),
        "mask": random.random((steps, *batch)) < 0.7,
        "resets": random.random((steps, *batch)) < 0.4,
    }
    measured = gradients(partial(gj.unroll, cell, derivative=derivative, **conditions), p)
    assert_close(measured, gradients(partial(scan_of_step, cell, **conditions), p))


@main_cells
@every_derivative
def test_nan_in_the_padding_reaches_no_value_and_no_gradient(cell, derivative):
    p = problem(cell)
    valid = MASK & (np.arange(T)[:, None] < LENGTHS)
    poisoned = p._replace(
        xs=jnp.where(valid[..., None], p.xs, jnp.nan),
        cotangents=(p.cotangents[0], jnp.where(valid[..., None], p.cotangents[1], jnp.nan)),
    )
    run = partial(gj.unroll, cell, derivative=derivative, **ALL_THREE)
    assert_close(gradients(run, poisoned), gradients(run, p), tol=1e-14)
    if derivative == gj.CustomJVP():
        args, clean = (poisoned.params, poisoned.xs, poisoned.h0), (p.params, p.xs, p.h0)
        dots = normal_like(1, clean)
        bad_dots = (dots[0], jnp.where(valid[..., None], dots[1], jnp.nan), dots[2])
        assert_close(jax.jvp(run, args, bad_dots), jax.jvp(run, clean, dots), tol=1e-14)


@main_cells
@every_derivative
def test_a_nan_state_ends_at_a_reset(cell, derivative):
    p = problem(cell)
    nan = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), p.h0)
    first = jnp.zeros((T, B), bool).at[0].set(True)
    run = partial(gj.unroll, cell, resets=first, derivative=derivative)
    outputs, (params_bar, xs_bar, h0_bar) = gradients(run, p._replace(h0=nan))
    clean, (clean_params_bar, clean_xs_bar, _) = gradients(run, p)
    assert_close((outputs, params_bar, xs_bar), (clean, clean_params_bar, clean_xs_bar), tol=0)
    assert all(not leaf.any() for leaf in jax.tree.leaves(h0_bar))

    later = jnp.zeros((T, B), bool).at[3].set(True)
    reset_state = random_reset_state(cell, p.params)
    after_reset = lambda state: run(p.params, p.xs, nan, resets=later, reset_state=state)[1][3:]
    bar = jax.grad(lambda state: (after_reset(state) * p.cotangents[1][3:]).sum())(reset_state)
    assert jnp.isfinite(after_reset(reset_state)).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(bar))
    assert any(leaf.any() for leaf in jax.tree.leaves(bar))


def test_gradients_flow_to_the_reset_state_from_every_reset_and_no_further():
    cell = gj.gru()
    p = problem(cell)
    resets = jnp.zeros((T, B), bool).at[2, 0].set(True).at[5, 0].set(True)
    reset_state = random_reset_state(cell, p.params)
    run = partial(gj.unroll, cell, p.params, resets=resets)
    last_of_first = lambda h0, state: run(p.xs, h0, reset_state=state)[0][0].sum()
    h0_bar, state_bar = jax.grad(last_of_first, (0, 1))(p.h0, reset_state)
    assert not h0_bar.any()

    def segment(start, stop, state):
        """Returns the outputs of the first sequence between two steps, starting from `state`."""
        return gj.unroll(cell, p.params, p.xs[start:stop], jnp.broadcast_to(state, (B, H)))[1][:, 0]

    alone = jax.grad(lambda state: segment(5, T, state)[-1].sum())(reset_state)
    assert_close(state_bar, alone)  # the reset at step 5 keeps later gradients from the reset at step 2

    all_of_first = lambda state: run(p.xs, p.h0, reset_state=state)[1][:, 0].sum()
    both_segments = lambda state: segment(2, 5, state).sum() + segment(5, T, state).sum()
    assert_close(jax.grad(all_of_first)(reset_state), jax.grad(both_segments)(reset_state))


def test_vmap_over_lengths_and_resets_equals_a_loop():
    cell = gj.gru()
    p = problem(cell)
    random = np.random.default_rng(4)
    lengths, resets = random.integers(0, T + 1, (4, B)), random.random((4, T, B)) < 0.3
    one = lambda lengths, resets: gradients(partial(gj.unroll, cell, lengths=lengths, resets=resets), p)
    together = jax.vmap(one)(lengths, resets)
    for i in range(4):
        assert_close(jax.tree.map(lambda leaf: leaf[i], together), one(lengths[i], resets[i]))


@pytest.mark.slow
def test_second_derivatives_with_all_three_conditions_equal_autodiff():
    cell = gj.gru()
    p = problem(cell, input_size=1, hidden_size=2)
    curved = lambda unroll, params: jnp.sin(unroll(params, p.xs, p.h0, **ALL_THREE)[1]).sum()

    @jax.jit
    def orders(params):
        custom_vjp = partial(curved, partial(gj.unroll, cell))
        custom_jvp = partial(curved, partial(gj.unroll, cell, derivative=gj.CustomJVP()))
        measured = (
            jax.hessian(custom_vjp),
            jax.jacrev(jax.jacrev(custom_vjp)),
            jax.jacfwd(jax.jacfwd(custom_jvp)),
            jax.hessian(custom_jvp),
        )
        return [order(params) for order in measured], jax.hessian(partial(curved, partial(scan_of_step, cell)))(params)

    measured, expected = orders(p.params)
    for hessian in measured:
        assert_close(hessian, expected, tol=1e-12 if p.xs.dtype == jnp.float64 else 1e-4)

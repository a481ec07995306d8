"""The gradients of `unroll` with lengths, masks and resets against autodiff of the plain scan."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, CONDITIONS, LENGTHS, MASK, NEUTRAL, random_reset_state
from tests.problems import (
    CELLS,
    DISTINCT,
    B,
    H,
    T,
    assert_close,
    compiled,
    gradients,
    normal_like,
    problem,
    scan_of_step,
    without_derivation,
)

pytestmark = pytest.mark.derivative

DERIVATIVES = {"CustomVJP": gj.CustomVJP(), "CustomJVP": gj.CustomJVP(), "Autodiff": gj.Autodiff()}


def every_derivative(*by_default):
    """Parametrises by cell and derivative. The pairs that are not named are slow."""
    return pytest.mark.parametrize(
        ("name", "derivative"),
        [
            pytest.param(*case, marks=() if case in by_default else pytest.mark.slow)
            for case in itertools.product(DISTINCT, DERIVATIVES)
        ],
    )


@pytest.mark.parametrize(
    ("name", "reverse"),
    [
        pytest.param(*case, marks=() if case == ("lstm_peephole", True) else pytest.mark.slow)
        for case in itertools.product(DISTINCT, (False, True))
    ],
)
def test_gradients_equal_autodiff_of_the_plain_scan_under_every_condition(name, reverse):
    cell = CELLS[name]
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
    runs = partial(gj.unroll, cell, derivative=derivative, **conditions), partial(scan_of_step, cell, **conditions)
    assert_close(*compiled(lambda p: [gradients(run, p) for run in runs], p))


@every_derivative(("gru", "Autodiff"), ("gru", "CustomJVP"), ("lstm_peephole", "CustomVJP"))
def test_nan_in_the_padding_reaches_no_value_and_no_gradient(name, derivative):
    cell, derivative = CELLS[name], DERIVATIVES[derivative]
    p = problem(cell)
    valid = (MASK & (np.arange(T)[:, None] < LENGTHS))[..., None]
    dots = normal_like(1, (p.params, p.xs, p.h0))

    @jax.jit
    def results(p, dots):
        run = partial(gj.unroll, cell, derivative=derivative, **ALL_THREE)
        tangents = jax.jvp(run, (p.params, p.xs, p.h0), dots) if derivative == gj.CustomJVP() else None
        return gradients(run, p), tangents

    poison = lambda leaf: np.where(valid, leaf, np.nan)
    poisoned = p._replace(xs=poison(p.xs), cotangents=(p.cotangents[0], poison(p.cotangents[1])))
    assert_close(results(poisoned, (dots[0], poison(dots[1]), dots[2])), results(p, dots), tol=1e-14)


@every_derivative(("gru", "CustomJVP"), ("lstm_peephole", "CustomVJP"))
def test_a_nan_state_ends_at_a_reset(name, derivative):
    cell, derivative = CELLS[name], DERIVATIVES[derivative]
    p = problem(cell)
    nan = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), p.h0)
    at_step = lambda t: np.repeat(np.arange(T) == t, B).reshape(T, B)

    @jax.jit
    def results(p, resets, reset_state):
        def run(params_and_reset_state, xs, h0):
            params, reset_state = params_and_reset_state
            return gj.unroll(cell, params, xs, h0, resets=resets, reset_state=reset_state, derivative=derivative)

        return gradients(run, p._replace(params=(p.params, reset_state)))

    zeros = jax.tree.map(jnp.zeros_like, random_reset_state(cell, p.params))
    outputs, ((params_bar, _), xs_bar, h0_bar) = results(p._replace(h0=nan), at_step(0), zeros)
    clean, ((clean_params_bar, _), clean_xs_bar, _) = results(p, at_step(0), zeros)
    assert_close((outputs, params_bar, xs_bar), (clean, clean_params_bar, clean_xs_bar), tol=0)
    assert all(not leaf.any() for leaf in jax.tree.leaves(h0_bar))

    later = (p.cotangents[0], p.cotangents[1] * (np.arange(T) >= 3)[:, None, None])
    (_, ys), ((_, bar), *_) = results(p._replace(h0=nan, cotangents=later), at_step(3), random_reset_state(cell, p.params))
    assert np.isfinite(ys[3:]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bar))
    assert any(leaf.any() for leaf in jax.tree.leaves(bar))


def test_gradients_flow_to_the_reset_state_from_every_reset_and_no_further():
    cell = gj.gru()
    p = problem(cell)
    resets = np.zeros((T, B), bool)
    resets[[2, 5], 0] = True

    def results(h0, reset_state):
        run = partial(gj.unroll, cell, p.params, p.xs, resets=resets)

        def segment(start, stop, state):
            """Returns the outputs of the first sequence between two steps, starting from `state`."""
            return gj.unroll(cell, p.params, p.xs[start:stop], jnp.broadcast_to(state, (B, H)))[1][:, 0]

        last_of_first = lambda h0, state: run(h0, reset_state=state)[0][0].sum()
        all_of_first = lambda state: run(h0, reset_state=state)[1][:, 0].sum()
        both_segments = lambda state: segment(2, 5, state).sum() + segment(5, T, state).sum()
        last_segment = lambda state: segment(5, T, state)[-1].sum()
        of_state = [jax.grad(each)(reset_state) for each in (all_of_first, both_segments, last_segment)]
        return jax.grad(last_of_first, (0, 1))(h0, reset_state), of_state

    (h0_bar, state_bar), (of_all, of_segments, alone) = compiled(results, p.h0, random_reset_state(cell, p.params))
    assert not h0_bar.any()
    assert_close(state_bar, alone)  # the reset at step 5 keeps later gradients from the reset at step 2
    assert_close(of_all, of_segments)


def test_vmap_over_lengths_and_resets_equals_a_loop():
    cell = gj.gru()
    p = problem(cell)
    random = np.random.default_rng(4)
    lengths, resets = random.integers(0, T + 1, (4, B)), random.random((4, T, B)) < 0.3
    one = jax.jit(lambda lengths, resets: gradients(partial(gj.unroll, cell, lengths=lengths, resets=resets), p))
    together = compiled(jax.vmap(one), lengths, resets)
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

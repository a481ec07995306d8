"""Lengths, masks and resets: their values against the NumPy loop, their gradients against autodiff of the plain scan, their edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests import reference
from tests.problems import (
    CELLS,
    B,
    D,
    H,
    T,
    assert_close,
    gradients,
    main_cells,
    normal_like,
    problem,
    scan_of_step,
)

LENGTHS = np.array([T, 4, 1])
MASK = np.random.default_rng(1).random((T, B)) < 0.7
RESETS = np.random.default_rng(2).random((T, B)) < 0.3
CONDITIONS = {
    "lengths": {"lengths": LENGTHS},
    "mask": {"mask": MASK},
    "resets": {"resets": RESETS},
    "lengths, mask": {"lengths": LENGTHS, "mask": MASK},
    "lengths, resets": {"lengths": LENGTHS, "resets": RESETS},
    "all three": {"lengths": LENGTHS, "mask": MASK, "resets": RESETS},
    "length 0": {"lengths": np.array([0, 3, 0]), "resets": RESETS},
    "all padding": {"lengths": np.zeros(B, int), "mask": MASK, "resets": RESETS},
    "resets everywhere": {"resets": np.ones((T, B), bool)},
    "no step counts": {"mask": np.zeros((T, B), bool), "resets": RESETS},
}
every_condition = pytest.mark.parametrize("when", CONDITIONS.values(), ids=CONDITIONS.keys())


def reset_state_of(cell, params, seed=0):
    """A state without batch axes to reset to."""
    return normal_like(jax.random.key(50 + seed), cell.initial_state(params))


def test_the_conditions_of_these_tests_are_not_trivial():
    assert 0.5 < MASK.mean() < 0.9
    assert 0.15 < RESETS.mean() < 0.5
    assert RESETS[0].any() or RESETS[-1].any()
    assert (RESETS & ~MASK).any()  # resets that must be ignored


ALWAYS = {"lengths": np.full(B, T), "mask": np.ones((T, B), bool), "resets": np.zeros((T, B), bool)}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_values_equal_a_numpy_loop_under_every_condition(name, reverse, needs_x64):
    cell = CELLS[name]
    p = problem(cell)
    fresh = reset_state_of(cell, p.params)
    run = partial(gj.unroll, cell, p.params, p.xs, p.h0, reverse=reverse, reset_state=fresh)
    outputs_and_states = jax.jit(lambda when: (run(**when), run(outputs="states", **when), run(outputs="last", **when)))
    for when in CONDITIONS.values():
        last, ys, states = reference.unroll(name, p.params, p.xs, p.h0, reverse=reverse, reset_state=fresh, **when)
        measured = jax.tree.leaves(outputs_and_states(ALWAYS | when))
        for part, true in zip(measured, jax.tree.leaves(((last, ys), (last, states), (last, None))), strict=True):
            np.testing.assert_allclose(part, true, rtol=1e-12, atol=1e-13)


@every_condition
def test_an_absent_condition_is_one_that_never_holds(when):
    cell = gj.lstm()
    p = problem(cell)
    run = partial(gj.unroll, cell, p.params, p.xs, p.h0)
    assert_close(run(**when), run(**ALWAYS | when), tol=1e-14)


@main_cells
def test_padding_puts_out_zero_and_holds_the_state_and_length_0_is_h0(cell):
    p = problem(cell)
    run = jax.jit(lambda when: gj.unroll(cell, p.params, p.xs, p.h0, **when))
    for when in CONDITIONS.values():
        h_last, ys = run(ALWAYS | when)
        counts = when.get("mask", True) & (np.arange(T)[:, None] < when.get("lengths", np.full(B, T)))
        assert not np.asarray(ys)[~counts].any()
        for b in np.flatnonzero(~counts.any(0)):
            assert_close(jax.tree.map(lambda leaf: leaf[b], h_last), jax.tree.map(lambda leaf: leaf[b], p.h0), tol=0)


@pytest.mark.derivative
@main_cells
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("how", ["derived", "local", "both"])
def test_gradients_equal_autodiff_of_the_plain_scan_under_every_condition(cell, reverse, how):
    tested = cell._replace(coefficients=None, pull=None, collect=None) if how == "local" else cell
    derivative = "both" if how == "both" else "adjoint"

    def bars(unroll, p, when):
        def run(given, xs, h0):
            params, reset_state = given
            return unroll(params, xs, h0, reset_state=reset_state, reverse=reverse, **when)

        return gradients(run, p)

    measured = jax.jit(partial(bars, partial(gj.unroll, tested, derivative=derivative)))
    expected = jax.jit(partial(bars, partial(scan_of_step, cell)))
    for seed, when in enumerate(CONDITIONS.values()):
        p = problem(cell, seed)
        p = p._replace(params=(p.params, reset_state_of(cell, p.params, seed)))
        assert_close(measured(p, ALWAYS | when), expected(p, ALWAYS | when))


@pytest.mark.derivative
@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [{"steps": 0}, {"steps": 1}, {"batch": (0,)}, {"batch": (1,)}, {"batch": ()}, {"batch": (2, B)}], ids=str
)
@pytest.mark.parametrize("derivative", ["adjoint", "both"])
def test_edge_sizes_with_all_three_have_the_gradients_of_autodiff(sizes, derivative):
    cell = gj.gru()
    p = problem(cell, **sizes)
    steps, batch = p.xs.shape[0], p.xs.shape[1:-1]
    random = np.random.default_rng(0)
    when = {
        "lengths": random.integers(0, steps + 1, batch),
        "mask": random.random((steps, *batch)) < 0.7,
        "resets": random.random((steps, *batch)) < 0.4,
    }
    measured = gradients(partial(gj.unroll, cell, derivative=derivative, **when), p)
    assert_close(measured, gradients(partial(scan_of_step, cell, **when), p))


@pytest.mark.derivative
@main_cells
@pytest.mark.parametrize("derivative", ["adjoint", "both", "autodiff"])
def test_nan_in_the_padding_reaches_no_value_and_no_gradient(cell, derivative):
    p = problem(cell)
    counts = MASK & (np.arange(T)[:, None] < LENGTHS)
    poisoned = p._replace(
        xs=jnp.where(counts[..., None], p.xs, jnp.nan),
        cotangents=(p.cotangents[0], jnp.where(counts[..., None], p.cotangents[1], jnp.nan)),
    )
    run = partial(gj.unroll, cell, lengths=LENGTHS, mask=MASK, resets=RESETS, derivative=derivative)
    assert_close(gradients(run, poisoned), gradients(run, p), tol=1e-14)
    if derivative == "both":
        args, clean = (poisoned.params, poisoned.xs, poisoned.h0), (p.params, p.xs, p.h0)
        dots = normal_like(jax.random.key(1), clean)
        bad_dots = (dots[0], jnp.where(counts[..., None], dots[1], jnp.nan), dots[2])
        assert_close(jax.jvp(run, args, bad_dots), jax.jvp(run, clean, dots), tol=1e-14)


@pytest.mark.derivative
@main_cells
@pytest.mark.parametrize("derivative", ["adjoint", "both", "autodiff"])
def test_a_nan_state_does_not_survive_a_reset(cell, derivative):
    p = problem(cell)
    nan = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), p.h0)
    first = jnp.zeros((T, B), bool).at[0].set(True)
    run = partial(gj.unroll, cell, resets=first, derivative=derivative)
    outputs, (params_bar, xs_bar, h0_bar) = gradients(run, p._replace(h0=nan))
    clean, (clean_params_bar, clean_xs_bar, _) = gradients(run, p)
    assert_close((outputs, params_bar, xs_bar), (clean, clean_params_bar, clean_xs_bar), tol=0)
    assert all(not leaf.any() for leaf in jax.tree.leaves(h0_bar))

    later = jnp.zeros((T, B), bool).at[3].set(True)
    reset_state = reset_state_of(cell, p.params)
    after = lambda fresh: run(p.params, p.xs, nan, resets=later, reset_state=fresh)[1][3:]
    bar = jax.grad(lambda fresh: (after(fresh) * p.cotangents[1][3:]).sum())(reset_state)
    assert jnp.isfinite(after(reset_state)).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(bar))
    assert any(leaf.any() for leaf in jax.tree.leaves(bar))


@pytest.mark.derivative
def test_gradients_flow_to_the_reset_state_from_every_reset_and_stop_there():
    cell = gj.gru()
    p = problem(cell)
    resets = jnp.zeros((T, B), bool).at[2, 0].set(True).at[5, 0].set(True)
    fresh = reset_state_of(cell, p.params)
    last_of_first = lambda h0, fresh: gj.unroll(cell, p.params, p.xs, h0, resets=resets, reset_state=fresh)[0][0].sum()
    h0_bar, fresh_bar = jax.grad(last_of_first, (0, 1))(p.h0, fresh)
    assert not h0_bar.any()
    alone = jax.grad(lambda fresh: gj.unroll(cell, p.params, p.xs[5:], jnp.broadcast_to(fresh, (B, H)))[0][0].sum())(fresh)
    assert_close(fresh_bar, alone)  # the reset at 5 stops what would go to the one at 2

    all_of_first = lambda fresh: gj.unroll(cell, p.params, p.xs, p.h0, resets=resets, reset_state=fresh)[1][:, 0].sum()
    segment = lambda fresh, a, b: gj.unroll(cell, p.params, p.xs[a:b], jnp.broadcast_to(fresh, (B, H)))[1][:, 0].sum()
    assert_close(jax.grad(all_of_first)(fresh), jax.grad(lambda fresh: segment(fresh, 2, 5) + segment(fresh, 5, T))(fresh))


def test_a_reset_sets_zeros_and_not_the_carried_in_h0():
    cell = gj.lstm()
    p = problem(cell)
    resets = jnp.zeros((T, B), bool).at[3].set(True)
    _, ys = gj.unroll(cell, p.params, p.xs, p.h0, resets=resets)
    assert_close(ys[3:], gj.unroll(cell, p.params, p.xs[3:])[1], tol=1e-14)


@main_cells
def test_a_reversed_sequence_starts_at_its_own_last_step(cell):
    p = problem(cell)
    h_last, ys = gj.unroll(cell, p.params, p.xs, p.h0, lengths=LENGTHS, reverse=True)
    for b, length in enumerate(LENGTHS):
        one = lambda leaf: leaf[b : b + 1]
        alone = gj.unroll(cell, p.params, p.xs[:length, b : b + 1], jax.tree.map(one, p.h0), reverse=True)
        assert_close((jax.tree.map(one, h_last), ys[:length, b : b + 1]), alone)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("outputs", ["all", "states", "last"])
def test_batch_major_masks_and_resets_are_batch_major_too(reverse, outputs):
    cell = gj.lstm()
    p = problem(cell, batch=(2, B))
    random = np.random.default_rng(3)
    mask, resets, lengths = random.random((T, 2, B)) < 0.7, random.random((T, 2, B)) < 0.3, random.integers(0, T + 1, (2, B))
    options = {"lengths": lengths, "reverse": reverse, "outputs": outputs}
    expected = gj.unroll(cell, p.params, p.xs, p.h0, mask=mask, resets=resets, **options)
    turned = lambda a: jnp.moveaxis(a, 0, 2)
    h_last, out = gj.unroll(
        cell, p.params, turned(p.xs), p.h0, mask=turned(mask), resets=turned(resets), time_major=False, **options
    )
    assert_close((h_last, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 2, 0), out)), expected, tol=0)


@main_cells
def test_step_with_a_reset_repeated_is_unroll(cell):
    p = problem(cell)
    fresh = reset_state_of(cell, p.params)
    h, ys = p.h0, []
    for t in range(T):
        h, y = gj.step(cell, p.params, h, p.xs[t], RESETS[t], fresh)
        ys.append(y)
    assert_close((h, jnp.stack(ys)), gj.unroll(cell, p.params, p.xs, p.h0, resets=RESETS, reset_state=fresh))
    assert_close(gj.step(cell, p.params, p.h0, p.xs[0]), cell.step(p.params, p.h0, p.xs[0]), tol=0)


@pytest.mark.parametrize("length", [-1, T + 1])
@pytest.mark.parametrize("outputs", ["all", "states", "last"])
def test_a_traced_length_out_of_range_gives_nan_and_spares_the_other_sequences(length, outputs):
    cell = gj.lstm()
    p = problem(cell)
    lengths = np.array([T, length, 2])
    run = partial(gj.unroll, cell, p.params, p.xs, p.h0, outputs=outputs)
    result = jax.jit(lambda lengths: run(lengths=lengths))(lengths)
    good = run(lengths=np.array([T, 0, 2]))
    h_last, out = result
    for leaf, clean in zip(jax.tree.leaves(h_last), jax.tree.leaves(good[0]), strict=True):
        assert jnp.isnan(leaf[1]).all()
        assert_close(leaf[np.array([0, 2])], clean[np.array([0, 2])], tol=1e-14)
    for leaf, clean in zip(jax.tree.leaves(out), jax.tree.leaves(good[1]), strict=True):
        assert jnp.isnan(leaf[:, 1]).all()
        assert_close(leaf[:, np.array([0, 2])], clean[:, np.array([0, 2])], tol=1e-14)
    bars = jax.jit(jax.grad(lambda params, n: gj.unroll(cell, params, p.xs, lengths=n)[1][:, 0].sum()))(p.params, lengths)
    assert all(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(bars))  # a gradient too is never a plausible number


def test_traced_lengths_masks_and_resets_give_what_concrete_ones_do():
    cell = gj.gru(reset_after=True)
    p = problem(cell)
    when = CONDITIONS["all three"]
    run = lambda when: gradients(partial(gj.unroll, cell, **when), p)
    assert_close(jax.jit(run)(when), run(when))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32"])
@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["concrete", "traced"])
def test_lengths_of_any_integer_dtype_are_numbers_of_steps(dtype, jit):
    """300 steps are no uint8, and a window's start taken from a length is below 0."""
    cell, lengths = gj.elman("tanh"), np.array([3, 100, 20])
    params = cell.init(jax.random.key(0), 2, 4)
    xs = jax.random.normal(jax.random.key(1), (300, 3, 2))
    for run in (gj.unroll, partial(gj.unroll_truncated, window=16)):
        of = jit(lambda lengths, run=run: run(cell, params, xs, lengths=lengths))
        assert_close(of(lengths.astype(dtype)), of(lengths.astype("int32")), tol=0)


@pytest.mark.derivative
def test_vmap_over_lengths_and_resets_equals_the_loop():
    cell = gj.gru()
    p = problem(cell)
    random = np.random.default_rng(4)
    lengths, resets = random.integers(0, T + 1, (4, B)), random.random((4, T, B)) < 0.3
    one = lambda lengths, resets: gradients(partial(gj.unroll, cell, lengths=lengths, resets=resets), p)
    together = jax.vmap(one)(lengths, resets)
    for i in range(4):
        assert_close(jax.tree.map(lambda leaf: leaf[i], together), one(lengths[i], resets[i]))


@pytest.mark.derivative
def test_nothing_more_is_saved_with_conditions_than_the_conditions():
    cell = gj.lstm()
    p = problem(cell)
    _, pull = jax.vjp(partial(gj.unroll, cell, mask=MASK, resets=RESETS), p.params, p.xs, p.h0)
    saved = sorted(leaf.size for leaf in jax.tree.leaves(pull) if leaf.ndim == 3)
    assert saved == sorted([T * B * D, T * B * H, T * B * H])


def test_second_order_with_all_three_equals_autodiff():
    cell = gj.gru()
    p = problem(cell, input_size=1, hidden_size=2)
    when = CONDITIONS["all three"]
    curved = lambda unroll, params: jnp.sin(unroll(params, p.xs, p.h0, **when)[1]).sum()

    @jax.jit
    def orders(params):
        rule, both = partial(curved, partial(gj.unroll, cell)), partial(curved, partial(gj.unroll, cell, derivative="both"))
        measured = jax.hessian(rule), jax.jacrev(jax.jacrev(rule)), jax.jacfwd(jax.jacfwd(both)), jax.hessian(both)
        return [order(params) for order in measured], jax.hessian(partial(curved, partial(scan_of_step, cell)))(params)

    measured, expected = orders(p.params)
    for hessian in measured:
        assert_close(hessian, expected, tol=1e-12 if p.xs.dtype == jnp.float64 else 1e-4)

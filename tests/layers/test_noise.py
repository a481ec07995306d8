"""Zoneout and variational dropout: their values, their expectation, and their gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax._engine.noise import keys_of_sequence, split_keys
from gru_jax.cells import LSTMState
from tests.conditions import ALL_THREE, LENGTHS, RESETS, random_reset_state
from tests.problems import (
    CELLS,
    D,
    H,
    T,
    assert_close,
    assert_raises,
    compiled,
    gradients,
    gradients_of_scan,
    gradients_of_unroll,
    normal_like,
    problem,
    scan_of_step,
)
from tests.unusual_cells import NOISY, distinct_noise

KEY = jax.random.key(11)
# noise of each step, with a rate for each part of the state, and noise of a sequence
main_noise = pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=name, marks=() if name in ("zoneout(lstm)", "dropout of both") else pytest.mark.slow)
        for name, cell in NOISY.items()
    ],
)


@pytest.mark.derivative
@main_noise
@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_equal_autodiff_with_the_same_key(cell, reverse):
    p = problem(cell.deterministic())
    options = {**ALL_THREE, "reverse": reverse, "reset_state": random_reset_state(cell, p.params), "key": KEY}

    derivatives = gj.Autodiff(), gj.CustomVJP(), gj.CustomJVP()
    runs = [partial(gj.unroll, cell, derivative=derivative, **options) for derivative in derivatives]
    expected, *measured = compiled(lambda p: [gradients(run, p) for run in runs], p)
    for result in measured:
        assert_close(result, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


@pytest.mark.derivative
@pytest.mark.parametrize("name", ["zoneout(lstm)", pytest.param("dropout of the state", marks=pytest.mark.slow)])
def test_noise_passes_through_whole_blocks_and_a_shorter_last_one_outside_jit_too(name):
    cell = NOISY[name]
    p = problem(cell.deterministic())
    options = {**ALL_THREE, "reset_state": random_reset_state(cell, p.params), "key": KEY}
    run = partial(gj.unroll, cell, **options)
    eager = gradients(partial(run, derivative=gj.CustomVJP(block_size=3)), p)
    assert_close(eager, compiled(partial(gradients, partial(run, derivative=gj.Autodiff())), p))


@distinct_noise
def test_the_noise_depends_on_the_key_alone_and_a_call_without_key_raises(cell):
    p = problem(cell.deterministic())
    run = lambda key: gj.unroll(cell, p.params, p.xs, p.h0, key=key)[1]
    one, same, other = compiled(lambda *keys: [run(key) for key in keys], *map(jax.random.key, (0, 0, 1)))
    assert_close(one, same, tol=0)
    assert (one != other).any()
    assert_raises(lambda: gj.unroll(cell, p.params, p.xs, p.h0), ValueError, r"key: got None.*draws noise.*deterministic")
    one_step = p.params, p.h0, p.xs[0]
    assert_raises(lambda: gj.step(cell, *one_step), ValueError, r"key: got None.*at each step.*gj\.step\(cell\.deterministic")
    assert_raises(lambda: cell.step(*one_step), ValueError, r"cell: got .*draws noise.*gj\.step\(cell, …, key=…\)")


@distinct_noise
def test_without_noise_repeated_steps_equal_unroll(cell):
    plain = cell.deterministic()
    assert not plain.needs_key
    p = problem(plain)
    runs = [partial(run, plain, resets=RESETS) for run in (gj.unroll, scan_of_step)]
    assert_close(*compiled(lambda p: [run(p.params, p.xs, p.h0) for run in runs], p))


@pytest.mark.derivative
@pytest.mark.parametrize(
    "cell",
    [pytest.param(gj.zoneout(gj.gru(), 0.3), marks=pytest.mark.slow), gj.zoneout(gj.lstm(), LSTMState(0.2, 0.5))],
    ids=["gru", "lstm"],
)
def test_the_expectation_of_zoneout_has_the_gradients_of_autodiff(cell):
    plain = cell.deterministic()
    p = problem(plain)
    for derivative in (gj.CustomVJP(), gj.CustomJVP()):
        assert_close(gradients_of_unroll(plain, derivative=derivative)(p), gradients_of_scan(plain)(p))


def test_zoneout_keeps_units_of_the_old_state_at_its_rate():
    cell, units = gj.gru(), 200
    p = problem(cell, hidden_size=units)

    def results(p):
        ys = gj.unroll(gj.zoneout(cell, 0.3), p.params, p.xs, p.h0, key=KEY)[1]
        before = jnp.concatenate([p.h0[None], ys[:-1]])
        expectation = gj.zoneout(cell, 0.3).deterministic().step(p.params, p.h0, p.xs[0])[0]
        return before, ys, jax.vmap(partial(cell.step, p.params))(before, p.xs)[0], expectation

    before, ys, new, expectation = compiled(results, p)
    kept = np.isclose(ys, before, atol=1e-6)
    assert (kept | np.isclose(ys, new, atol=1e-5)).all()
    rate_of_unit = kept.mean((0, 1))
    assert abs(rate_of_unit.mean() - 0.3) < 0.03
    assert rate_of_unit.std() < 0.2  # every step and unit is drawn independently
    assert (kept[0] != kept[1]).any()
    assert_close(expectation, 0.3 * np.asarray(p.h0) + 0.7 * new[0])


def test_zoneout_of_an_lstm_has_a_rate_for_each_part_and_h_is_computed_from_the_new_memory():
    cell, units = gj.lstm(), 300
    p = problem(cell, hidden_size=units, steps=1)
    h_last, _ = gj.unroll(gj.zoneout(cell, LSTMState(h=0.1, c=0.6)), p.params, p.xs, p.h0, key=KEY)
    new_state = compiled(lambda p: cell.step(p.params, p.h0, p.xs[0])[0], p)
    for part, old, new, rate in zip(h_last, p.h0, new_state, (0.1, 0.6), strict=True):
        is_old = np.isclose(part, old, atol=1e-6)
        assert (is_old | np.isclose(part, new, atol=1e-5)).all()
        assert abs(float(is_old.mean()) - rate) < 0.05


def test_the_parts_of_a_state_keep_different_units():
    p = problem(gj.lstm(), hidden_size=60, steps=1)
    h_last, _ = gj.unroll(gj.zoneout(gj.lstm(), 0.5), p.params, p.xs, p.h0, key=KEY)
    of_h, of_c = (np.isclose(part, old, atol=1e-6) for part, old in zip(h_last, p.h0, strict=True))
    assert (of_h != of_c).any()


def test_the_parts_of_a_layer_draw_from_keys_of_their_own():
    parts = [jax.random.key_data(jnp.stack(part)) for part in split_keys(keys_of_sequence(KEY), 3)]
    assert len(np.unique(np.concatenate(parts), axis=0)) == 6


def test_a_rate_of_zero_returns_the_cell_itself_and_equal_rates_make_equal_cells():
    assert gj.zoneout(gj.gru(), 0.0) == gj.gru()
    assert gj.zoneout(gj.lstm(), LSTMState(0.0, 0.0)) == gj.lstm()
    assert gj.zoneout(gj.lstm(), LSTMState(0.0, 0.5)) != gj.lstm()
    assert gj.variational_dropout(gj.gru()) == gj.gru()
    assert gj.zoneout(gj.gru(), 0.1) == gj.zoneout(gj.gru(), 0.1) != gj.zoneout(gj.gru(), 0.2)
    assert gj.variational_dropout(gj.gru(), state=0.1) == gj.variational_dropout(gj.gru(), state=0.1)
    assert gj.variational_dropout(gj.gru(), state=0.1).deterministic() == gj.gru()


@pytest.mark.parametrize(
    "name", ["lstm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gru", "gru_reset_after", "elman_tanh"))]
)
def test_variational_dropout_uses_one_mask_per_sequence_on_the_operands_of_the_matmuls(name):
    """Dropping inputs and states equals scaling rows of W and U in the same way at every step."""
    cell, rate = CELLS[name], 0.4
    p = problem(cell, batch=())
    dropped = gj.variational_dropout(cell, inputs=rate, state=rate)
    own, _ = split_keys(keys_of_sequence(KEY), 2)
    key_x, key_h = jax.random.split(own.per_sequence)
    scale_x = np.asarray(jax.random.bernoulli(key_x, 1 - rate, (D,))) / (1 - rate)
    scale_h = np.asarray(jax.random.bernoulli(key_h, 1 - rate, (H,))) / (1 - rate)
    scale = {"W": scale_x[:, None], "U": scale_h[:, None]}
    fields = {
        field: (np.asarray(leaf) * scale[field[0]]).astype(leaf.dtype)
        for field, leaf in p.params._asdict().items()
        if field[0] in scale
    }

    def results(p):
        return gj.unroll(dropped, *p[:3], key=KEY), gj.unroll(cell, p.params._replace(**fields), p.xs, p.h0)

    assert_close(*compiled(results, p))
    assert 0 < float((scale_h == 0).mean()) < 1


@pytest.mark.slow
@pytest.mark.derivative
def test_vmap_over_parameters_and_keys_equals_a_loop():
    cell = NOISY["zoneout of dropout"]
    models = [problem(cell.deterministic(), seed) for seed in range(3)]
    keys = jax.random.split(KEY, 3)
    run = jax.jit(lambda p, key: gradients(partial(gj.unroll, cell, key=key), p))
    together = compiled(jax.vmap(run), jax.tree.map(lambda *leaves: np.stack(leaves), *models), keys)
    for i, model in enumerate(models):
        assert_close(jax.tree.map(lambda leaf: leaf[i], together), run(model, keys[i]))


@pytest.mark.parametrize("name", [pytest.param("zoneout(lstm)", marks=pytest.mark.slow), "zoneout of dropout"])
def test_noise_works_in_half_precision_and_with_nan_in_the_padding(name):
    cell = NOISY[name]
    p = problem(cell.deterministic(), dtype=jnp.bfloat16)
    valid = (np.arange(T)[:, None] < LENGTHS)[..., None]
    padded, cleaned = (np.where(valid, p.xs, np.array(fill, p.xs.dtype)) for fill in (np.nan, 0))
    run = jax.jit(lambda xs: gradients(partial(gj.unroll, cell, key=KEY, lengths=LENGTHS), p._replace(xs=xs)))
    results = run(padded)
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(results, run(cleaned), tol=1e-6)


BAD = {
    "a rate of 1": (lambda: gj.zoneout(gj.gru(), 1.0), ValueError, r"rate: got 1\.0, expected a probability in \[0, 1\)"),
    "a negative rate": (lambda: gj.zoneout(gj.lstm(), LSTMState(0.1, -0.1)), ValueError, r"rate\.c: got -0\.1"),
    "a rate of inputs above 1": (lambda: gj.variational_dropout(gj.gru(), inputs=2), ValueError, r"inputs: got 2, expected"),
    "a string for the rate of the state": (lambda: gj.variational_dropout(gj.gru(), state="0.1"), TypeError, r"state: got '0\.1', expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_rate_raises(case):
    assert_raises(*BAD[case])


def test_noise_can_be_added_to_single_cells_only():
    for wrap in (partial(gj.zoneout, rate=0.1), partial(gj.variational_dropout, state=0.1)):
        message = r"cell: got stack\(\[gru\(\)\]\), expected a gj\.Cell.*inside"
        assert_raises(lambda: wrap(gj.stack([gj.gru()])), TypeError, message)
        assert_raises(lambda: wrap(gj.gru), TypeError, r"cell: got function, expected a gj\.Cell")


@pytest.mark.slow
def test_the_tangent_of_zoneout_is_the_transpose_of_its_adjoint():
    """⟨c, J v⟩ = ⟨Jᵀ c, v⟩ with the same noise."""
    cell = NOISY["zoneout(lstm)"]
    p = problem(cell.deterministic())
    dots = normal_like(1, (p.params, p.xs, p.h0))

    def results(p, dots):
        by_custom_jvp = partial(gj.unroll, cell, key=KEY, derivative=gj.CustomJVP())
        tangents = jax.jvp(by_custom_jvp, (p.params, p.xs, p.h0), dots)[1]
        return tangents, gradients(partial(gj.unroll, cell, key=KEY), p)[1]

    outputs_dot, bars = compiled(results, p, dots)
    inner = lambda one, other: sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    np.testing.assert_allclose(
        inner(p.cotangents, outputs_dot), inner(bars, dots), rtol=1e-10 if p.xs.dtype == jnp.float64 else 1e-4
    )

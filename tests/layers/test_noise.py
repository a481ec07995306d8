"""Zoneout and variational dropout: what they do step by step, their expectation, their gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax.cells import LSTMState
from tests.engine.test_when import LENGTHS, MASK, RESETS, reset_state_of
from tests.problems import CELLS, D, H, T, assert_close, assert_told, gradients, normal_like, problem, scan_of_step

KEY = jax.random.key(11)
NOISY = {
    "zoneout(gru)": gj.zoneout(gj.gru(), 0.3),
    "zoneout(lstm)": gj.zoneout(gj.lstm(), LSTMState(h=0.2, c=0.5)),
    "zoneout(elman)": gj.zoneout(gj.elman(), 0.3),
    "zoneout of a cell without rows": gj.zoneout(gj.gru()._replace(coefficients=None, pull=None, collect=None, push=None, drive=None), 0.3),
    "dropout of inputs": gj.variational_dropout(gj.gru(), inputs=0.4),
    "dropout of the state": gj.variational_dropout(gj.lstm(peephole=True), state=0.4),
    "dropout of both": gj.variational_dropout(gj.gru(reset_after=True), inputs=0.4, state=0.3),
    "zoneout of dropout": gj.zoneout(gj.variational_dropout(gj.gru(), inputs=0.3, state=0.3), 0.2),
    "dropout of zoneout": gj.variational_dropout(gj.zoneout(gj.gru(), 0.2), inputs=0.3, state=0.3),
}  # fmt: skip
every_noise = pytest.mark.parametrize("cell", NOISY.values(), ids=NOISY.keys())


@pytest.mark.derivative
@every_noise
@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_equal_autodiff_with_the_same_key(cell, reverse):
    p = problem(cell.deterministic())
    fresh = reset_state_of(cell, p.params)
    options = {"lengths": LENGTHS, "mask": MASK, "resets": RESETS, "reverse": reverse, "reset_state": fresh, "key": KEY}
    run = lambda how: jax.jit(partial(gradients, partial(gj.unroll, cell, derivative=how, **options)))(p)
    expected = run("autodiff")
    assert_close(run("adjoint"), expected)
    assert_close(run("both"), expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


@every_noise
def test_the_key_alone_decides_and_without_one_the_call_is_refused(cell):
    p = problem(cell.deterministic())
    run = lambda seed: gj.unroll(cell, p.params, p.xs, p.h0, key=jax.random.key(seed))[1]
    assert_close(run(0), run(0), tol=0)
    assert (run(0) != run(1)).any()
    assert_told(lambda: gj.unroll(cell, p.params, p.xs, p.h0), ValueError, r"key: got None.*draws noise.*deterministic")
    assert_told(lambda: cell.step(p.params, p.h0, p.xs[0]), ValueError, r"cell: got .*draws noise.*deterministic\(\)\.step")


@every_noise
def test_without_noise_step_repeated_is_unroll(cell):
    plain = cell.deterministic()
    assert not plain.needs_key
    p = problem(plain)
    assert_close(
        gj.unroll(plain, p.params, p.xs, p.h0, resets=RESETS), scan_of_step(plain, p.params, p.xs, p.h0, resets=RESETS)
    )


@pytest.mark.derivative
@pytest.mark.parametrize("cell", [gj.zoneout(gj.gru(), 0.3), gj.zoneout(gj.lstm(), LSTMState(0.2, 0.5))], ids=["gru", "lstm"])
@pytest.mark.parametrize("derivative", ["adjoint", "both"])
def test_the_expectation_of_zoneout_has_the_gradients_of_autodiff(cell, derivative):
    plain = cell.deterministic()
    p = problem(plain)
    assert_close(gradients(partial(gj.unroll, plain, derivative=derivative), p), gradients(partial(scan_of_step, plain), p))


def test_zoneout_keeps_units_of_the_old_state_at_its_rate():
    cell, many = gj.gru(), 200
    p = problem(cell, hidden_size=many)
    h, ys = p.h0, gj.unroll(gj.zoneout(cell, 0.3), p.params, p.xs, p.h0, key=KEY)[1]
    kept = []
    for t in range(T):
        new = cell.step(p.params, h, p.xs[t])[0]
        is_old, is_new = jnp.isclose(ys[t], h, atol=1e-6), jnp.isclose(ys[t], new, atol=1e-5)
        assert (is_old | is_new).all()
        kept.append(is_old)
        h = ys[t]
    rate = np.stack(kept).mean((0, 1))
    assert abs(rate.mean() - 0.3) < 0.03
    assert rate.std() < 0.2  # drawn for each step and unit
    assert (kept[0] != kept[1]).any()
    expected = gj.zoneout(cell, 0.3).deterministic().step(p.params, p.h0, p.xs[0])[0]
    assert_close(expected, 0.3 * p.h0 + 0.7 * cell.step(p.params, p.h0, p.xs[0])[0])


def test_zoneout_of_an_lstm_has_a_rate_for_each_part_and_h_sees_the_new_memory():
    cell, many = gj.lstm(), 300
    p = problem(cell, hidden_size=many, steps=1)
    h_last, _ = gj.unroll(gj.zoneout(cell, LSTMState(h=0.1, c=0.6)), p.params, p.xs, p.h0, key=KEY)
    new = cell.step(p.params, p.h0, p.xs[0])[0]
    for part, old, fresh, rate in zip(h_last, p.h0, new, (0.1, 0.6), strict=True):
        is_old = jnp.isclose(part, old, atol=1e-6)
        assert (is_old | jnp.isclose(part, fresh, atol=1e-5)).all()
        assert abs(float(is_old.mean()) - rate) < 0.05


def test_a_rate_of_zero_is_the_cell_itself():
    assert gj.zoneout(gj.gru(), 0.0) is gj.gru()
    assert gj.zoneout(gj.lstm(), LSTMState(0.0, 0.0)) is gj.lstm()
    assert gj.variational_dropout(gj.gru()) is gj.gru()
    assert gj.zoneout(gj.gru(), 0.1) is gj.zoneout(gj.gru(), 0.1)
    assert gj.variational_dropout(gj.gru(), state=0.1) is gj.variational_dropout(gj.gru(), state=0.1)
    assert gj.variational_dropout(gj.gru(), state=0.1).deterministic() is gj.gru()


@pytest.mark.parametrize("name", ["gru", "gru_reset_after", "lstm", "elman_tanh"])
def test_variational_dropout_is_one_mask_per_sequence_on_what_the_matmuls_see(name):
    """Inputs and state dropped are rows of W and U scaled, by the same factors at every step."""
    cell, rate = CELLS[name], 0.4
    p = problem(cell, batch=())
    dropped = gj.variational_dropout(cell, inputs=rate, state=rate)
    key_x, key_h, _ = jax.random.split(KEY, 3)
    scale_x = jax.random.bernoulli(key_x, 1 - rate, (D,)) / (1 - rate)
    scale_h = jax.random.bernoulli(key_h, 1 - rate, (H,)) / (1 - rate)
    scale = {"W": scale_x[:, None], "U": scale_h[:, None]}
    fields = {field: leaf * scale[field[0]] for field, leaf in p.params._asdict().items() if field[0] in scale}
    expected = gj.unroll(cell, p.params._replace(**fields), p.xs, p.h0)
    assert_close(gj.unroll(dropped, p.params, p.xs, p.h0, key=KEY), expected)
    assert 0 < float((scale_h == 0).mean()) < 1


@pytest.mark.derivative
def test_ensembles_over_parameters_and_keys_equal_the_loop():
    cell = NOISY["zoneout of dropout"]
    members = [problem(cell.deterministic(), seed) for seed in range(3)]
    keys = jax.random.split(KEY, 3)
    run = lambda p, key: gradients(partial(gj.unroll, cell, key=key), p)
    together = jax.jit(jax.vmap(run))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members), keys)
    for i, member in enumerate(members):
        assert_close(jax.tree.map(lambda leaf: leaf[i], together), jax.jit(run)(member, keys[i]))


def test_half_precision_and_nan_padding_pass_through_noise():
    for name in ("zoneout(lstm)", "zoneout of dropout"):
        cell = NOISY[name]
        p = problem(cell.deterministic(), dtype=jnp.bfloat16)
        padded = jnp.where((np.arange(T)[:, None] < LENGTHS)[..., None], p.xs, jnp.nan)
        run = jax.jit(lambda xs: gradients(partial(gj.unroll, cell, key=KEY, lengths=LENGTHS), p._replace(xs=xs)))
        (h_last, ys), bars = run(padded)
        assert {leaf.dtype for leaf in jax.tree.leaves((h_last, ys, bars))} == {jnp.dtype(jnp.bfloat16)}
        assert_close(((h_last, ys), bars), run(jnp.nan_to_num(padded)), tol=1e-6)


BAD = {
    "a rate of 1": (lambda: gj.zoneout(gj.gru(), 1.0), r"rate: got 1\.0, expected a number from 0 to below 1"),
    "a negative rate": (lambda: gj.zoneout(gj.lstm(), LSTMState(0.1, -0.1)), r"rate: got -0\.1"),
    "a rate of inputs": (lambda: gj.variational_dropout(gj.gru(), inputs=2), r"inputs: got 2, expected"),
    "a rate of the state": (lambda: gj.variational_dropout(gj.gru(), state="0.1"), r"state: got '0\.1', expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_rate_is_told(case):
    assert_told(BAD[case][0], ValueError, BAD[case][1])


def test_noise_acts_on_cells_and_not_on_layers():
    for wrap in (partial(gj.zoneout, rate=0.1), partial(gj.variational_dropout, state=0.1)):
        assert_told(
            lambda: wrap(gj.stack([gj.gru()])), TypeError, r"cell: got stack\(\[gru\(\)\]\), expected a gj\.Cell.*inside"
        )
        assert_told(lambda: wrap(gj.gru), TypeError, r"cell: got function, expected a gj\.Cell")


def test_noise_is_random_data_and_no_input_of_the_derivative():
    """The rows of zoneout are proven as a cell's are: the tangent and the adjoint prove each other."""
    cell = NOISY["zoneout(lstm)"]
    p = problem(cell.deterministic())
    args = (p.params, p.xs, p.h0)
    dots = normal_like(jax.random.key(1), args)
    _, pushed = jax.jvp(partial(gj.unroll, cell, key=KEY, derivative="both"), args, dots)
    _, bars = gradients(partial(gj.unroll, cell, key=KEY), p)
    inner = lambda one, other: sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    np.testing.assert_allclose(
        inner(p.cotangents, pushed), inner(bars, dots), rtol=1e-10 if p.xs.dtype == jnp.float64 else 1e-4
    )

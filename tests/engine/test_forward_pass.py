"""The values of `unroll` against a NumPy loop and a scan of `step`, in every layout."""

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests import reference
from tests.problems import (
    CELLS,
    SEEDS,
    B,
    D,
    H,
    T,
    assert_close,
    compiled,
    on_host,
    pair_by_default,
    problem,
    scan_of_step,
)


@pytest.mark.parametrize("name", CELLS)
def test_unroll_equals_a_numpy_loop_and_a_scan_of_step(name, needs_x64):
    cell, by_scan = CELLS[name], jax.jit(partial(scan_of_step, CELLS[name]))
    for seed in SEEDS:
        p = problem(cell, seed)
        measured = gj.unroll(cell, p.params, p.xs, p.h0)
        assert_close(measured, by_scan(p.params, p.xs, p.h0))
        assert_equal_to_numpy(measured, reference.unroll(name, p.params, p.xs, p.h0))


@pytest.mark.parametrize("name", CELLS)
def test_unroll_without_biases_in_reverse_equals_a_numpy_loop(name, needs_x64):
    p = problem(CELLS[name], bias=False)
    measured = gj.unroll(CELLS[name], p.params, p.xs, p.h0, reverse=True)
    assert_equal_to_numpy(measured, reference.unroll(name, p.params, p.xs, p.h0, reverse=True))


def assert_equal_to_numpy(measured, expected):
    for part, true in zip(jax.tree.leaves(measured), jax.tree.leaves(expected[:2]), strict=True):
        np.testing.assert_allclose(part, true, rtol=1e-12, atol=1e-13)


@pair_by_default
def test_the_default_initial_state_is_zero(cell):
    p = problem(cell)
    zeros = cell.initial_state(p.params, B)
    assert all(not leaf.any() for leaf in jax.tree.leaves(zeros))
    assert_close(gj.unroll(cell, p.params, p.xs), gj.unroll(cell, p.params, p.xs, zeros), tol=0)


@pair_by_default
@pytest.mark.parametrize(
    ("batch", "reverse"), [((), False), pytest.param((B,), True, marks=pytest.mark.slow), ((B, 2), False), ((2, B, 1), True)]
)
def test_any_batch_axes_and_layout_equal_one_sequence_at_a_time(cell, batch, reverse):
    p = problem(cell, batch=batch)

    def results(xs, h0):
        run = partial(gj.unroll, cell, p.params, reverse=reverse)
        alone = run
        for _ in batch:
            alone = jax.vmap(alone, in_axes=(1, 0), out_axes=(0, 1))
        h_last, ys = run(jnp.moveaxis(xs, 0, -2), h0, time_major=False)
        return run(xs, h0), alone(xs, h0), (h_last, jnp.moveaxis(ys, -2, 0))

    measured, alone, batch_major = compiled(results, p.xs, p.h0)
    assert_close(measured, alone)
    assert_close(batch_major, measured, tol=0)


@pair_by_default
def test_reverse_equals_forward_on_the_flipped_sequence(cell):
    p = problem(cell)
    h_last, ys = on_host(gj.unroll(cell, p.params, p.xs, p.h0, reverse=True))
    assert_close((h_last, ys[::-1]), gj.unroll(cell, p.params, np.asarray(p.xs)[::-1], p.h0), tol=0)


@pair_by_default
def test_results_have_the_dtype_of_the_parameters_to_which_xs_are_cast(cell):
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        p = problem(cell, dtype=dtype)
        run = lambda *all_xs, p=p: [gj.unroll(cell, p.params, xs, p.h0) for xs in all_xs]
        expected, *measured = compiled(run, p.xs, *(np.asarray(p.xs, wide) for wide in (np.float64, np.float32)))
        assert {leaf.dtype for leaf in jax.tree.leaves(expected)} == {jnp.dtype(dtype)}
        for result in measured:
            assert_close(result, expected, tol=0)


def test_step_casts_its_input_to_the_dtype_of_the_parameters():
    p = problem(gj.gru(), dtype=jnp.bfloat16)
    wide = gj.step(gj.gru(), p.params, p.h0, np.asarray(p.xs[0], np.float64))
    assert_close(wide, gj.step(gj.gru(), p.params, p.h0, p.xs[0]), tol=0)


@pair_by_default
def test_zero_steps_return_the_initial_state_and_no_outputs(cell):
    p = problem(cell, steps=0)
    h_last, ys = gj.unroll(cell, p.params, p.xs, p.h0)
    assert_close(h_last, p.h0, tol=0)
    assert ys.shape == (0, B, H)


@pair_by_default
@pytest.mark.parametrize("sizes", [{"steps": 1}, {"batch": (1,)}, {"hidden_size": 1}, {"input_size": 1}, {"batch": (0,)}])
def test_the_smallest_sizes_equal_a_scan_of_step(cell, sizes):
    p = problem(cell, **sizes)
    expected = jax.jit(partial(scan_of_step, cell))(p.params, p.xs, p.h0)
    assert_close(gj.unroll(cell, p.params, p.xs, p.h0), expected)


@pytest.mark.parametrize("name", ["gru", "gru_reset_after"])
def test_a_closed_update_gate_holds_the_state_and_an_open_one_takes_the_candidate(name):
    cell = CELLS[name]
    p = problem(cell)
    h_last, ys = gj.unroll(cell, p.params._replace(b_z=np.full(H, -1e4)), p.xs, p.h0)
    assert_close((h_last, ys), (p.h0, np.broadcast_to(p.h0, ys.shape)), tol=0)

    open_gate = p.params._replace(b_z=np.full(H, 1e4), U_h=np.zeros((H, H)))
    if name == "gru_reset_after":
        open_gate = open_gate._replace(c_h=None)
    _, ys = gj.unroll(cell, open_gate, p.xs, p.h0)
    assert_close(ys, np.tanh(np.asarray(p.xs) @ np.asarray(p.params.W_h) + np.asarray(p.params.b_h)))


@pytest.mark.parametrize("name", ["lstm", "lstm_peephole"])
def test_an_open_forget_gate_and_a_closed_input_gate_keep_the_memory(name):
    cell = CELLS[name]
    p = problem(cell)
    params = p.params._replace(b_f=np.full(H, 1e4), b_i=np.full(H, -1e4))
    h_last, _ = gj.unroll(cell, params, p.xs, p.h0)
    assert_close(h_last.c, p.h0.c, tol=0)


def test_the_state_of_an_lstm_is_the_pair_h_c_and_its_output_is_h():
    p = problem(gj.lstm())
    h_last, ys = gj.unroll(gj.lstm(), p.params, p.xs, p.h0)
    assert h_last._fields == ("h", "c")
    assert_close(ys[-1], h_last.h, tol=0)
    assert ys.shape == (T, B, H)
    assert p.params.W_i.shape == (D, H)


@pair_by_default
def test_a_nan_or_infinite_input_affects_its_own_sequence_only(cell):
    p = problem(cell)

    def outputs(bad):
        xs = np.array(p.xs)
        xs[2, 1] = bad
        return np.asarray(gj.unroll(cell, p.params, xs, p.h0)[1])

    clean = outputs(p.xs[2, 1])
    for bad in (np.nan, np.inf, np.array([np.nan, *p.xs[2, 1, 1:]])):
        ys = outputs(bad)
        assert_close(ys[:, [0, 2]], clean[:, [0, 2]], tol=0)
        assert_close(ys[:2, 1], clean[:2, 1], tol=0)
    assert np.isnan(ys[2:, 1]).all()


def test_cells_made_with_the_same_options_are_equal():
    assert gj.gru() == gj.gru(False) == gj.gru(reset_after=False) == copy.deepcopy(gj.gru())
    assert gj.gru(reset_after=True) == gj.gru(True) != gj.gru()
    assert gj.elman() == gj.elman("tanh") == gj.elman(activation="tanh") != gj.elman("relu")
    assert gj.lstm() == gj.lstm(peephole=False) != gj.lstm(True)
    assert gj.linear_rnn() == gj.linear_rnn()
    assert len({cell: None for cell in CELLS.values()}) == len(CELLS)

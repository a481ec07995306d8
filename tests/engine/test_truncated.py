"""Truncated back-propagation: the values of `unroll`, and gradients that stay in their window."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, LENGTHS, MASK, RESETS, batch_major
from tests.problems import (
    CELLS,
    B,
    H,
    T,
    assert_close,
    assert_raises,
    compiled,
    gradients,
    normal,
    on_host,
    pair_by_default,
    problem,
    scan_of_step,
    small_like,
)


@pytest.mark.derivative
@pair_by_default
@pytest.mark.parametrize("conditions", [pytest.param({}, marks=pytest.mark.slow), ALL_THREE], ids=["plain", "all conditions"])
def test_one_window_is_full_back_propagation(cell, conditions):
    windows = [partial(gj.unroll_truncated, cell, window=window, **conditions) for window in (T, T + 3)]
    runs = partial(gj.unroll, cell, **conditions), *windows
    full, *measured = compiled(lambda p: [gradients(run, p) for run in runs], problem(cell))
    for result in measured:
        assert_close(result, full, tol=0)


@pytest.mark.parametrize(
    ("window", "time_major", "reverse"),
    [
        (2, False, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((1, True, False), (np.int64(3), True, True), (6, False, False))
        ),
    ],
)
def test_the_values_equal_those_of_unroll(window, time_major, reverse):
    cell = gj.lstm()
    p = problem(cell)

    def results(xs, conditions):
        for outputs in ("all", "states", "last"):
            options = {"reverse": reverse, "time_major": time_major, "outputs": outputs} | conditions
            expected = gj.unroll(cell, p.params, xs, p.h0, **options)
            yield gj.unroll_truncated(cell, p.params, xs, p.h0, window=window, **options), expected
        plain = {"time_major": time_major}
        yield gj.unroll_truncated(cell, p.params, xs, window=window, **plain), gj.unroll(cell, p.params, xs, **plain)

    arguments = (p.xs, ALL_THREE) if time_major else (np.moveaxis(p.xs, 0, 1), batch_major(ALL_THREE))
    for measured, expected in compiled(lambda *args: list(results(*args)), *arguments):
        assert_close(measured, expected, tol=1e-14)


@pytest.mark.derivative
@pytest.mark.parametrize(
    ("name", "window", "reverse"),
    [
        ("lstm", 3, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("gru", 2, False), ("gru", 6, True), ("lstm", 1, False), ("lstm", 1, True))
        ),
    ],
)
def test_the_gradient_equals_that_of_a_loop_over_windows_with_stop_gradient_on_the_state(name, window, reverse):
    cell = CELLS[name]

    def loop_over_windows(params, xs, h):
        parts, starts = [], range(0, T, window)
        for start in starts:
            own = slice(max(T - start - window, 0), T - start) if reverse else slice(start, start + window)
            before = h if start == 0 else jax.lax.stop_gradient(h)
            h, ys = scan_of_step(cell, params, xs[own], before, resets=RESETS[own], reverse=reverse)
            parts.append(ys)
        return h, jnp.concatenate(parts[::-1] if reverse else parts)

    in_windows = partial(gj.unroll_truncated, cell, window=window, resets=RESETS, reverse=reverse)
    runs = in_windows, loop_over_windows, partial(gj.unroll, cell, resets=RESETS, reverse=reverse)
    measured, expected, full = compiled(lambda p: [gradients(run, p) for run in runs], problem(cell))
    assert_close(measured, expected)
    assert (np.abs(measured[1][1] - full[1][1]) > 1e-6).any()  # truncation has an effect


@pytest.mark.derivative
def test_a_loss_reaches_the_steps_of_its_own_window_only():
    cell = gj.gru()
    p = problem(cell)
    loss_at = lambda t: lambda xs, h0: gj.unroll_truncated(cell, p.params, xs, h0, window=3)[1][t].sum()
    gradient = lambda *args: [jax.grad(loss_at(t), (0, 1))(*args) for t in (4, 2)]
    (xs_bar, h0_bar), (_, h0_bar_of_first) = compiled(gradient, p.xs, p.h0)
    reached = np.flatnonzero(np.abs(xs_bar).sum((1, 2)))
    assert reached.tolist() == [3, 4]
    assert not h0_bar.any()
    assert h0_bar_of_first.any()


def noisy_stack():
    """Returns a stack, its params and its inputs."""
    layers = gj.stack([gj.zoneout(gj.gru(), 0.2), gj.lstm()], dropout=0.3)
    params = small_like(0, jax.eval_shape(lambda key: layers.init(key, 4, H), jax.random.key(0)))
    return layers, params, normal(1, T, B, 4)


@pytest.mark.derivative
def test_stacks_traced_lengths_and_noise_are_supported():
    layers, params, xs = noisy_stack()
    run = jax.jit(lambda n, seed: gj.unroll_truncated(layers, params, xs, window=3, lengths=n, key=jax.random.key(seed)))
    noisy, other_noise, out_of_range = on_host([run(LENGTHS, 0), run(LENGTHS, 1), run(np.array([T, T + 1, -1]), 0)])
    assert not noisy[1][4:, 1].any()
    assert (noisy[1] != other_noise[1]).any()
    assert np.isnan(out_of_range[1][:, 1:]).all()
    assert np.isnan(out_of_range[0][1].h[1:]).all()


@pytest.mark.derivative
@pytest.mark.slow
def test_a_stack_without_its_noise_has_the_values_of_unroll():
    layers, params, xs = noisy_stack()
    plain = layers.deterministic()
    runs = [partial(gj.unroll_truncated, plain, window=3), partial(gj.unroll, plain)]
    assert_close(*compiled(lambda: [each(params=params, xs=xs, lengths=LENGTHS) for each in runs]), tol=1e-5)


def test_zero_steps_return_the_initial_state():
    p = problem(gj.gru(), steps=0)
    h_last, ys = gj.unroll_truncated(gj.gru(), p.params, p.xs, p.h0, window=2)
    assert_close(h_last, p.h0, tol=0)
    assert ys.shape == (0, B, H)


P = problem(gj.gru())
truncated = partial(gj.unroll_truncated, gj.gru(), P.params, P.xs)
BAD = {
    "window of 0": (lambda: truncated(window=0), ValueError, r"window: got 0, expected an int of at least 1"),
    "window of 2.5": (lambda: truncated(window=2.5), TypeError, r"window: got 2\.5"),
    "two directions": (lambda: gj.unroll_truncated(gj.bidirectional(gj.gru()), None, P.xs, window=2), TypeError, r"cell: got bidirectional.*expected a unidirectional cell"),
    "two directions inside": (lambda: gj.unroll_truncated(gj.stack([gj.bidirectional(gj.gru())]), None, P.xs, window=2), TypeError, r"cell: got bidirectional.*unidirectional"),
    "a length beyond T": (lambda: truncated(window=2, lengths=np.array([1, 2, T + 2])), ValueError, r"lengths: got 9 at \(2,\), expected 0 to 7"),
    "a mask of another shape": (lambda: truncated(window=2, mask=MASK[:2]), ValueError, r"mask: got shape \(2, 3\), expected \(7, 3\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises_and_names_the_fix(case):
    assert_raises(*BAD[case])

"""Noise in `step`: equal to that of `unroll` in law, and in numbers where both draw the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import LENGTHS
from tests.problems import B, D, H, T, assert_close, assert_raises, compiled, normal, normal_like, problem, small_like
from tests.unusual_cells import NOISY

KEY = jax.random.key(11)
SEQUENCE_KEY, STEP_KEY = jax.random.split(KEY)
DROPPED = {name: NOISY[name] for name in ("dropout of inputs", "dropout of the state", "dropout of both")}


def params_of(cell, dtype=None):
    dtype = dtype or jnp.result_type(float)
    return small_like(0, jax.eval_shape(lambda key: cell.init(key, D, H, dtype=dtype), KEY))


def steps(cell, params, xs, h, keys):
    """Repeats `gj.step`, each step with its own key or pair of keys."""
    return jax.lax.scan(lambda h, at_t: gj.step(cell, params, h, at_t[0], key=at_t[1]), h, (xs, keys))


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=name, marks=() if name in ("zoneout(lstm)", "zoneout of dropout") else pytest.mark.slow)
        for name, cell in NOISY.items()
    ],
)
def test_a_step_equals_unroll_of_one_step_with_the_same_keys(cell):
    p = problem(cell.deterministic())

    def results(p):
        one, key = (p.params, p.h0, p.xs[0]), (SEQUENCE_KEY, STEP_KEY)
        by_unroll = [gj.unroll(cell, p.params, p.xs[:1], p.h0, key=key) for key in (key, KEY)]
        return gj.step(cell, *one, key=key), by_unroll, cell.deterministic().step(*one)[1]

    by_step, ((h_last, ys), of_one_key), plain = compiled(results, p)
    assert_close(by_step, (h_last, ys[0]))
    assert_close(of_one_key, (h_last, ys), tol=0)  # KEY is split into the pair
    assert not np.allclose(ys[0], plain)


@pytest.mark.parametrize(
    "name", ["zoneout(lstm)", *(pytest.param(f"zoneout({name})", marks=pytest.mark.slow) for name in ("gru", "elman"))]
)
def test_noise_of_each_step_needs_a_single_key_which_gives_the_numbers_of_unroll_of_one_step(name):
    cell = NOISY[name]
    p = problem(cell.deterministic())
    by_unroll = lambda p: gj.unroll(cell, p.params, p.xs[:1], p.h0, key=KEY)
    (h_last, ys), by_step = compiled(lambda p: (by_unroll(p), gj.step(cell, p.params, p.h0, p.xs[0], key=KEY)), p)
    assert_close(by_step, (h_last, ys[0]))


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=name, marks=() if name == "dropout of both" else pytest.mark.slow)
        for name, cell in DROPPED.items()
    ],
)
def test_a_mask_of_a_sequence_is_that_of_unroll_at_all_steps(cell):
    of_steps = jax.random.split(STEP_KEY, T)
    shared, other = (jnp.stack([key] * T) for key in (SEQUENCE_KEY, STEP_KEY))

    def results(p):
        run = partial(steps, cell, p.params, p.xs, p.h0)
        by_unroll = gj.unroll(cell, p.params, p.xs, p.h0, key=(SEQUENCE_KEY, of_steps[3]))
        return run((shared, of_steps)), by_unroll, run((of_steps, other))[1]

    by_steps, by_unroll, of_other_masks = compiled(results, problem(cell.deterministic()))
    assert_close(by_steps, by_unroll)
    assert (of_other_masks != by_steps[1]).any()


@pytest.mark.parametrize("name", ["dropout of the state", "zoneout of dropout", "dropout of zoneout"])
def test_a_single_key_raises_where_the_noise_holds_for_a_sequence(name):
    cell = NOISY[name]
    p = problem(cell.deterministic())
    for derived in (cell, gj.stack([cell]), gj.stack([gj.gru(), gj.gru()], dropout=0.2, variational=True)):
        params = p.params if derived is cell else params_of(derived)
        h = derived.initial_state(params, B)
        message = r"key: got one key in step, expected a pair.*key=\(sequence_key, step_key\)"
        assert_raises(lambda: gj.step(derived, params, h, p.xs[0], key=KEY), ValueError, message)


def test_zoneout_in_a_closed_loop_keeps_units_at_its_rate_with_new_draws_at_each_step():
    units, cell = 300, gj.gru()
    p = problem(cell, hidden_size=units)
    keys = jax.random.split(KEY, T)
    _, ys = compiled(lambda p: steps(gj.zoneout(cell, 0.3), p.params, p.xs, p.h0, keys), p)
    before = np.concatenate([np.asarray(p.h0)[None], ys[:-1]])
    kept = np.isclose(ys, before, atol=1e-6)
    assert abs(kept.mean() - 0.3) < 0.03
    assert abs((kept[0] & kept[1]).mean() - 0.09) < 0.03  # independent over steps


def noisy_ar1(a, sigma):
    """h = a h₋ + x + σ ε, whose variance becomes σ² / (1 − a²)."""

    def sample_noise(keys, params, xs):
        return params, xs + sigma * jax.random.normal(keys.per_step, xs.shape, xs.dtype)

    return gj.Cell(
        init=lambda key, input_size, hidden_size: {"U": jnp.full((hidden_size,), a)},
        project=lambda params, xs: xs,
        gates=lambda params, u, h: u + params["U"] * h,
        update=lambda g, h: g,
        sample_noise=sample_noise,
        name="noisy_ar1",
    )


def test_a_noisy_cell_has_the_same_variance_and_correlation_in_step_and_in_unroll():
    a, sigma, units, burn_in = 0.6, 0.5, 2000, 30
    cell = noisy_ar1(a, sigma)
    params = cell.init(KEY, units, units)
    h, xs = jnp.zeros(units), jnp.zeros((burn_in + 2, units))
    loop = lambda h, key: gj.step(cell, params, h, xs[0], key=key)
    by_steps = lambda h: jax.lax.scan(loop, h, jax.random.split(KEY, burn_in + 2))[1]
    for ys in compiled(lambda h: (by_steps(h), gj.unroll(cell, params, xs, h, key=KEY)[1]), h):
        one, other = ys[-2], ys[-1]
        assert abs(other.std() / (sigma / (1 - a**2) ** 0.5) - 1) < 0.06
        assert abs(np.corrcoef(one, other)[0, 1] - a) < 0.06


@pytest.mark.parametrize("variational", [pytest.param(False, marks=pytest.mark.slow), True])
def test_dropout_between_the_layers_of_a_stack_acts_in_step(variational):
    cell = gj.stack([gj.gru(), gj.zoneout(gj.lstm(), 0.3)], dropout=0.4, variational=variational)
    params, x = params_of(cell), normal(1, B, D)
    h0 = normal_like(3, jax.eval_shape(lambda: cell.initial_state(params, B)))

    def results(x, h0):
        by_step = [gj.step(cell, params, h0, x, key=(SEQUENCE_KEY, key)) for key in (STEP_KEY, KEY)]
        return gj.unroll(cell, params, x[None], h0, key=(SEQUENCE_KEY, STEP_KEY)), by_step

    (h_last, ys), (by_step, of_other_key) = compiled(results, x, h0)
    assert_close(by_step, (h_last, ys[0]))
    assert (of_other_key[1] != ys[0]).any()


def test_windows_of_truncated_backpropagation_share_the_mask_of_a_sequence_and_differ_in_the_noise_of_steps():
    cell = DROPPED["dropout of both"]
    runs = partial(gj.unroll, cell), partial(gj.unroll_truncated, cell, window=2)
    results = lambda p: [run(p.params, p.xs, p.h0, lengths=LENGTHS, key=KEY) for run in runs]
    whole, in_windows = compiled(results, problem(cell.deterministic()))
    assert_close(in_windows, whole)
    p = problem(gj.gru(), hidden_size=40, steps=6)
    zoned = partial(gj.unroll_truncated, gj.zoneout(gj.gru(), 0.5), window=2, key=KEY)
    _, ys = compiled(zoned, p.params, np.zeros_like(p.xs), p.h0)
    kept = np.isclose(ys, np.concatenate([np.asarray(p.h0)[None], ys[:-1]]))
    assert all((kept[i] != kept[j]).any() for i in range(6) for j in range(i))


@pytest.mark.parametrize(
    "cell",
    [
        gj.gru(),
        pytest.param(gj.stack([gj.gru(), gj.lstm()]), marks=pytest.mark.slow),
        pytest.param(gj.zoneout(gj.gru(), 0.2), marks=pytest.mark.slow),
    ],
    ids=lambda c: c.name,
)
def test_the_compute_dtype_of_step_is_that_of_unroll(cell):
    params, x = params_of(cell, jnp.float32), normal(1, B, D, dtype=jnp.float32)
    h0 = normal_like(3, jax.eval_shape(lambda: cell.initial_state(params, B)))

    def results(x, h0):
        run = partial(gj.step, cell, params, h0, x, key=KEY)
        by_unroll = gj.unroll(cell, params, x[None], h0, key=KEY, compute_dtype=jnp.bfloat16)
        return run(compute_dtype=jnp.bfloat16), run(), by_unroll

    lowered, plain, (h_last, ys) = compiled(results, x, h0)
    assert {leaf.dtype for leaf in jax.tree.leaves(lowered)} == {jnp.dtype(jnp.float32)}
    assert_close(lowered, (h_last, ys[0]), tol=1e-6)
    assert (lowered[1] != plain[1]).any()
    with_int8 = lambda: gj.step(cell, params, h0, x, key=KEY, compute_dtype=jnp.int8)
    assert_raises(with_int8, ValueError, r"compute_dtype: got int8")


BAD_KEYS = {
    "three keys": ((KEY, KEY, KEY), r"key: got a tuple of 3, expected one key, or a pair"),
    "one key in a tuple": ((KEY,), r"key: got a tuple of 1, expected one key, or a pair"),
    "a seed in a pair": ((KEY, 3), r"key: got int, expected a jax\.random key"),
    "no key in a pair": ((None, KEY), r"key: got NoneType, expected a jax\.random key"),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_a_bad_key_raises(case):
    key, message = BAD_KEYS[case]
    cell = gj.zoneout(gj.gru(), 0.2)
    p = problem(gj.gru())
    assert_raises(lambda: gj.step(cell, p.params, p.h0, p.xs[0], key=key), TypeError, message)
    assert_raises(lambda: gj.unroll(cell, p.params, p.xs, p.h0, key=key), TypeError, message)

"""Dropout of inputs of several arrays, and zoneout of states of several parts."""

import copy
import pickle
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import LENGTHS
from tests.problems import B, D, H, T, assert_close, assert_raises, compiled, normal, problem, scan_of_step
from tests.unusual_cells import CAMERA, CLOCKWORK, LEAF_PROBLEMS, PARAMS, TIMED, TUPLE, Observation, inputs

KEY = jax.random.key(19)
RATES = {
    "one number": (TIMED, 0.4, Observation(0.4, 0.4, 0.0)),
    "a NamedTuple": (TIMED, Observation(0.4, 0.0, 0.0), Observation(0.4, 0.0, 0.0)),
    "a tuple": (TUPLE, (0.3, 0.6, 0), (0.3, 0.6, 0.0)),
    "a dict": (CAMERA, {"image": 0.5, "action": 0.0}, {"action": 0.0, "image": 0.5}),
}
every_rate = pytest.mark.parametrize(("cell", "rates", "each"), RATES.values(), ids=RATES.keys())


def seen_by_the_cell(cell, rates, xs):
    """Returns the inputs of each step as the cell sees them: it keeps them as its state."""
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[2:], leaf.dtype), xs)
    recorder = replace(
        cell,
        project=lambda params, x: x,
        gates=lambda params, u, h: u,
        update=lambda g, h: g,
        output=lambda h: jax.tree.leaves(h)[0],
        zero_state=lambda params: empty,
    )
    run = lambda xs: gj.unroll(gj.variational_dropout(recorder, inputs=rates), PARAMS, xs, key=KEY, outputs="states")[1]
    return compiled(run, xs)


@every_rate
def test_features_are_dropped_once_per_sequence_at_the_rate_of_their_array(cell, rates, each):
    xs = inputs(cell)
    for x, seen, rate in zip(
        jax.tree.leaves(xs), jax.tree.leaves(seen_by_the_cell(cell, rates, xs)), jax.tree.leaves(each), strict=True
    ):
        if not rate:
            assert_close(seen, x, tol=0)
            continue
        kept = np.isclose(seen, x / (1 - rate))
        assert (kept | (np.asarray(seen) == 0)).all()
        assert (kept == kept[0]).all()  # the same at all steps


def test_each_array_and_each_sequence_has_a_mask_of_its_own():
    x = jnp.ones((2, 400, D), PARAMS.W.dtype)
    many = Observation(x, x[..., 0], x > 0)
    seen = seen_by_the_cell(TIMED, Observation(0.3, 0.6, 0.0), many)
    for leaf, rate in ((seen.value, 0.3), (seen.gap, 0.6)):
        assert abs(float((leaf == 0).mean()) - rate) < 0.05
    dropped = np.asarray(seen.value[0] == 0)
    assert (dropped != dropped[0]).any()  # another mask for each sequence
    assert (dropped[:, 0] != np.asarray(seen.gap[0] == 0)).any()  # and for each array


@pytest.mark.derivative
@pytest.mark.parametrize(
    ("cell", "rates", "each"),
    [pytest.param(*case, id=name, marks=() if name == "a tuple" else pytest.mark.slow) for name, case in RATES.items()],
)
def test_values_and_gradients_are_those_of_a_loop_over_the_dropped_inputs(cell, rates, each):
    xs = inputs(cell)
    dropped = gj.variational_dropout(cell, inputs=rates)

    def results(xs, seen):
        def of(run):
            return run(PARAMS)[1], jax.grad(lambda params: jnp.sin(run(params)[1]).sum())(PARAMS)

        scan = lambda params: scan_of_step(cell, params, seen, jnp.zeros((B, H), PARAMS.W.dtype), lengths=LENGTHS)
        options = {"xs": xs, "lengths": LENGTHS, "key": KEY}
        derivatives = gj.CustomVJP(), gj.CustomJVP(), gj.Autodiff()
        return [of(scan), *(of(partial(gj.unroll, dropped, derivative=each, **options)) for each in derivatives)]

    expected, *measured = compiled(results, xs, seen_by_the_cell(cell, rates, xs))
    for result in measured:
        assert_close(result, expected)


def test_steps_drop_what_unroll_drops():
    xs, dropped = inputs(CAMERA), gj.variational_dropout(CAMERA, inputs={"image": 0.5, "action": 0})
    step = lambda h, at_t: gj.step(dropped, PARAMS, h, at_t[0], key=(KEY, at_t[1]))

    def results(xs):
        by_step = jax.lax.scan(step, dropped.initial_state(PARAMS, B), (xs, jax.random.split(KEY, T)))
        return by_step, gj.unroll(dropped, PARAMS, xs, key=(KEY, KEY))

    assert_close(*compiled(results, xs))


def test_cells_with_a_rate_for_each_array_compare_by_value():
    make = lambda: gj.variational_dropout(CAMERA, inputs={"image": 0.5, "action": 0.0})
    assert make() == make() == copy.deepcopy(make()) == pickle.loads(pickle.dumps(make()))
    assert hash(make()) == hash(copy.deepcopy(make()))
    assert make() != gj.variational_dropout(CAMERA, inputs={"image": 0.4, "action": 0.0})
    assert gj.variational_dropout(CAMERA, inputs={"image": 0.0, "action": 0}) == CAMERA


def test_zoneout_has_rates_in_a_dict_and_leaves_counters_alone():
    _, params = LEAF_PROBLEMS["an integer in state and params"]
    as_dict = lambda state: state._asdict()
    by_name = replace(
        CLOCKWORK,
        gates=lambda p, u, state: CLOCKWORK.gates(p, u, type(zero)(**state)),
        update=lambda g, state: as_dict(CLOCKWORK.update(g, type(zero)(**state))),
        output=lambda state: state["h"],
        zero_state=lambda p: as_dict(CLOCKWORK.zero_state(p)),
    )
    zero = CLOCKWORK.zero_state(params)
    for cell, rate in ((CLOCKWORK, 0.6), (by_name, {"count": 0.0, "h": 0.6})):
        noisy, parts = gj.zoneout(cell, rate), (lambda state: state["h"]) if cell is by_name else (lambda state: state.h)

        def results(xs, cell=cell, noisy=noisy, parts=parts):
            def mixed_step(h, x):
                new, _ = cell.step(params, h, x)
                mixed = 0.6 * parts(h) + 0.4 * parts(new)
                return new | {"h": mixed} if cell is by_name else new._replace(h=mixed), mixed

            expectation = gj.unroll(noisy.deterministic(), params, xs)[1]
            mixed = jax.lax.scan(mixed_step, cell.initial_state(params, B), xs)[1]
            return gj.unroll(noisy, params, xs, key=KEY), expectation, mixed

        (h_last, ys), expectation, mixed = compiled(results, normal(1, T, B, D, dtype=params.W.dtype))
        assert ((h_last["count"] if cell is by_name else h_last.count) == T).all()
        kept = np.isclose(ys[1:], ys[:-1])[:, :, :2]  # units of period 1 change at every step
        assert 0.4 < kept.mean() < 0.8
        assert_close(expectation, mixed)


def test_dropout_of_a_state_in_a_dict_acts_on_its_part_h():
    as_dict = replace(
        gj.gru(),
        gates=lambda p, u, state: (gj.gru().gates(p, u, state["h"]), state["h"]),
        update=lambda g, state: {"h": gj.gru().update(g[0], state["h"]), "seen": g[1]},
        output=lambda state: state["h"],
        zero_state=lambda p: {"h": jnp.zeros_like(p.b_z), "seen": jnp.zeros_like(p.b_z)},
        adjoint=None,
        tangent=None,
    )
    p = problem(gj.gru(), dtype=jnp.float32)
    noisy = gj.variational_dropout(as_dict, state=0.4)
    states = compiled(lambda p: gj.unroll(noisy, p.params, p.xs, key=KEY, outputs="states")[1], p)
    kept = np.isclose(states["seen"][1:], states["h"][:-1] / 0.6, rtol=1e-5)
    assert (kept == kept[0]).all()
    assert (kept | (np.asarray(states["seen"][1:]) == 0)).all()
    assert 0 < kept.mean() < 1


X = inputs(TIMED)
run = partial(gj.unroll, params=PARAMS, xs=X, key=KEY)
BAD = {
    "another structure": (lambda: run(gj.variational_dropout(TIMED, inputs=(0.2, 0.2, 0.0))), TypeError, r"xs: got Observation\(value, gap, seen\), expected the structure of inputs=\(0\.2, 0\.2, 0\.0\)"),
    "booleans": (lambda: run(gj.variational_dropout(TIMED, inputs=Observation(0.0, 0.0, 0.2))), TypeError, r"inputs\.seen: got 0\.2 for xs\.seen of dtype bool, expected 0"),
    "a rate of one array": (lambda: gj.variational_dropout(TIMED, inputs=Observation(0.0, 1.0, 0.2)), ValueError, r"inputs\.gap: got 1\.0, expected a probability"),
    "a string": (lambda: gj.variational_dropout(TIMED, inputs={"gap": "0.1"}), TypeError, r"inputs\['gap'\]: got '0\.1'"),
    "another state": (lambda: gj.unroll(gj.zoneout(gj.gru(), gj.cells.LSTMState(0.1, 0.1)), problem(gj.gru()).params, jnp.zeros((T, B, D)), key=KEY), TypeError, r"state: got one array, expected the structure of rate=LSTMState"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_rates_raise_and_name_the_array(case):
    assert_raises(*BAD[case])

"""Stacks equal their layers one after the other, with every option of `unroll`."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE, LENGTHS, RESETS
from tests.problems import B, D, H, T, assert_close, assert_raises, compiled, normal, normal_like, problem, small_like

STACK = gj.stack([gj.gru(), gj.lstm(), gj.elman()])
SIZES = (H, 6, 2)


def stacked_problem(layers, sizes=SIZES, seed=0):
    """Draws (params, xs, h0, reset state)."""
    init = lambda key: layers.init(key, D, sizes, dtype=jnp.result_type(float))
    params = small_like((seed, 0), jax.eval_shape(init, jax.random.key(0)))
    states = jax.eval_shape(lambda: (layers.initial_state(params, B), layers.initial_state(params)))
    return params, normal((seed, 1), T, B, D), *normal_like((seed, 2), states)


def layer_by_layer(layers, params, xs, h0, reset_state=None, residual=False, **options):
    """Unrolls the layers one after the other."""
    lasts = []
    for i, cell in enumerate(layers.cells):
        own = None if reset_state is None else reset_state[i]
        h_last, ys = gj.unroll(cell, params[i], xs, h0[i], reset_state=own, **options)
        lasts.append(h_last)
        xs = xs + ys if residual and i else ys
    return tuple(lasts), xs


@pytest.mark.derivative
@pytest.mark.parametrize(("residual", "reverse"), [pytest.param(False, False, marks=pytest.mark.slow), (True, True)])
def test_a_stack_equals_its_layers_one_after_the_other(residual, reverse):
    layers = gj.stack([gj.gru(), gj.lstm(), gj.elman()], residual=residual)
    args = stacked_problem(layers, H if residual else SIZES)
    options = {**ALL_THREE, "reverse": reverse}

    def one_stack(derivative, params, xs, h0, reset_state):
        return gj.unroll(layers, params, xs, h0, reset_state=reset_state, derivative=derivative, **options)

    def separate_layers(params, xs, h0, reset_state):
        return layer_by_layer(layers, params, xs, h0, reset_state, residual, derivative=gj.Autodiff(), **options)

    def results(args):
        def of(run):
            loss = lambda args: sum(jnp.sin(3 * leaf).sum() for leaf in jax.tree.leaves(run(*args)))
            return run(*args), jax.grad(loss)(args)

        ours = [partial(one_stack, derivative) for derivative in (gj.CustomVJP(), gj.CustomJVP(), gj.Autodiff())]
        return [of(run) for run in (separate_layers, *ours)]

    expected, *measured = compiled(results, args)
    for result in measured:
        assert_close(result, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


def test_outputs_are_those_of_the_last_layer_and_states_those_of_all_layers():
    run = lambda *args: {kept: gj.unroll(STACK, *args, lengths=LENGTHS, outputs=kept) for kept in ("all", "states", "last")}
    found = compiled(run, *stacked_problem(STACK)[:3])
    (h_last, ys), (same_last, states), (also_last, nothing) = (found[kept] for kept in ("all", "states", "last"))
    assert nothing is None
    assert_close((same_last, also_last), (h_last, h_last), tol=0)
    assert ys.shape == (T, B, SIZES[-1])
    valid = (np.arange(T)[:, None] < LENGTHS)[..., None]
    assert_close(np.where(valid, states[2], 0), ys, tol=0)
    assert_close(jax.tree.map(lambda leaf: leaf[-1], states), h_last, tol=0)


@pytest.mark.parametrize("residual", [pytest.param(False, marks=pytest.mark.slow), True])
def test_repeated_steps_equal_unroll(residual):
    layers = gj.stack([gj.gru(), gj.lstm(), gj.elman()], residual=residual)
    params, xs, h0, reset_state = stacked_problem(layers, H if residual else SIZES)

    def results(params, xs, h0):
        step = lambda h, at_t: gj.step(layers, params, h, at_t[0], reset=at_t[1], reset_state=reset_state)
        by_step = jax.lax.scan(step, h0, (xs, RESETS))
        scanned = jax.lax.scan(partial(layers.step, params), h0, xs)
        with_resets = gj.unroll(layers, params, xs, h0, resets=RESETS, reset_state=reset_state)
        return (by_step, with_resets), (gj.unroll(layers, params, xs, h0), scanned)

    for measured, expected in compiled(results, params, xs, h0):
        assert_close(measured, expected)


def test_a_stack_of_one_layer_equals_its_cell_and_stacks_can_be_nested():
    nested = gj.stack([gj.gru(), gj.stack([gj.lstm(), gj.elman()])])

    def results(params, xs, h0):
        of_nested = partial(gj.unroll, nested, (params[0], params[1:]), xs, (h0[0], h0[1:]))
        of_one = gj.unroll(gj.stack([gj.gru()]), params[:1], xs, h0[:1])[1], gj.unroll(gj.gru(), params[0], xs, h0[0])[1]
        return of_one, gj.unroll(STACK, params, xs, h0), of_nested(), of_nested(outputs="states")[1]

    one_layer, (flat_last, ys), (h_last, same), states = compiled(results, *stacked_problem(STACK)[:3])
    assert_close(*one_layer, tol=0)
    assert_close((h_last, same), ((flat_last[0], flat_last[1:]), ys), tol=0)
    assert_close(states[1][1], ys, tol=0)


def test_bidirectional_layers_can_be_stacked():
    layers = gj.stack([gj.bidirectional(gj.gru()), gj.bidirectional(gj.lstm(), merge="sum"), gj.gru()])
    params, xs, h0, _ = stacked_problem(layers)
    assert params[1].forward.W_i.shape == (2 * H, 6)
    assert params[2].W_z.shape == (6, 2)
    runs = [partial(run, layers, lengths=LENGTHS) for run in (gj.unroll, layer_by_layer)]
    assert_close(*compiled(lambda *args: [run(*args) for run in runs], params, xs, h0))


def test_a_hidden_size_may_be_an_integer_of_numpy():
    init = partial(gj.stack([gj.gru(), gj.gru()]).init, jax.random.key(0), D)
    assert_close(init(np.int64(4)), init(4), tol=0)


def test_stacks_made_with_the_same_arguments_are_equal():
    assert gj.stack([gj.gru(), gj.lstm()]) == gj.stack((gj.gru(), gj.lstm()), dropout=0.0)
    assert gj.stack([gj.gru(), gj.lstm()]) != gj.stack([gj.lstm(), gj.gru()])
    assert gj.stack([gj.gru()] * 2, dropout=0.5).deterministic() == gj.stack([gj.gru()] * 2)


# ---- residuals around chosen layers, and skip connections

WIRED = {
    "around chosen layers": (dict(residual=[True, False, True]), (D, H, H)),
    "skip connections": (dict(skip_connections=True), SIZES),
    "both": (dict(skip_connections=True, residual=[True, False, False]), (D, 6, 2)),
}


def wired_by_hand(layers, params, xs, h0, *, reset_state=None, **conditions):
    """Unrolls the layers one after the other, by the definition of each option."""
    valid = np.arange(T)[:, None] < LENGTHS
    outputs, below, lasts = [], xs, []
    for i, cell in enumerate(layers.cells):
        inputs = jnp.concatenate([xs, below], -1) if layers.skip_connections and i else below
        h_last, ys = gj.unroll(cell, params[i], inputs, h0[i], derivative=gj.Autodiff(), **conditions)
        if layers.residual and layers.residual[i]:
            ys = ys + jnp.where(valid[..., None], below, 0)
        outputs.append(ys)
        below = ys
        lasts.append(h_last)
    return tuple(lasts), jnp.concatenate(outputs, -1) if layers.skip_connections else below


@pytest.mark.derivative
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "both" else pytest.mark.slow) for name in WIRED])
def test_layers_are_connected_as_chosen(name):
    options, sizes = WIRED[name]
    layers = gj.stack([gj.gru(), gj.lstm(), gj.elman()], **options)
    params, xs, h0, _ = stacked_problem(layers, sizes)
    xs = jnp.where((np.arange(T)[:, None] < LENGTHS)[..., None], xs, 100.0)  # padding reaches nothing

    def results(args):
        def of(run):
            loss = lambda args: sum(jnp.sin(3 * leaf).sum() for leaf in jax.tree.leaves(run(*args, lengths=LENGTHS)))
            return run(*args, lengths=LENGTHS), jax.grad(loss)(args)

        params, xs, h0 = args
        by_steps = gj.unroll(layers, *args), jax.lax.scan(partial(layers.step, params), h0, xs)
        last = gj.unroll(layers, *args, outputs="last")[1]
        return of(partial(wired_by_hand, layers)), of(partial(gj.unroll, layers)), by_steps, last

    expected, measured, by_steps, last = compiled(results, (params, xs, h0))
    assert_close(measured, expected)
    assert measured[0][1].shape[-1] == layers.output_size(params)
    assert not measured[0][1][-1, 1:].any()
    assert_close(*by_steps)
    assert last is None
    if name != "around chosen layers":
        assert params[2].W.shape[0] == D + 6


def test_residual_true_is_a_choice_of_all_layers_but_the_first():
    chosen = gj.stack([gj.gru(), gj.lstm()], residual=[False, True])
    params, xs, h0, _ = stacked_problem(chosen, (H, H))
    assert_close(
        gj.unroll(chosen, params, xs, h0), gj.unroll(gj.stack([gj.gru(), gj.lstm()], residual=True), params, xs, h0), tol=0
    )
    assert gj.stack([gj.gru()] * 2, residual=[False, False]) == gj.stack([gj.gru()] * 2)
    assert hash(chosen) == hash(gj.stack([gj.gru(), gj.lstm()], residual=(False, True)))


@pytest.mark.derivative
def test_the_flow_of_gradients_follows_the_connections():
    layers = gj.stack([gj.gru(), gj.elman()], skip_connections=True, residual=[True, False])
    params, xs, h0, _ = stacked_problem(layers, (D, 2))
    loss = lambda t, y: jnp.sum(jnp.sin(y) * (1 + t))

    def results(params, xs, h0):
        terms = gj.flow.contributions(layers, params, xs, loss, h0, lengths=LENGTHS)
        run = lambda params: gj.unroll(layers, params, xs, h0, lengths=LENGTHS)[1]
        expected = jax.grad(lambda params: jax.vmap(loss)(jnp.arange(T), run(params)).sum())(params)
        of_top = gj.flow.jacobians(layers, params, xs, h0, lengths=LENGTHS)[1]
        padded = jnp.where((np.arange(T)[:, None] < LENGTHS)[..., None], xs, 0)
        ys = gj.unroll(layers.cells[0], params[0], xs, h0[0], lengths=LENGTHS)[1] + padded
        alone = gj.flow.jacobians(layers.cells[1], params[1], jnp.concatenate([xs, ys], -1), h0[1], lengths=LENGTHS)
        return (jax.tree.map(lambda leaf: leaf.sum((0, 1)), terms), of_top), (expected, alone)

    assert_close(*compiled(results, params, xs, h0))


def test_outputs_of_several_arrays_go_to_a_layer_that_takes_them():
    layers = gj.stack([TWO_OUTPUTS, TAKES_TWO, gj.elman()], dropout=0.5)
    params = (problem(gj.gru()).params, (), problem(gj.elman(), input_size=H, hidden_size=2).params)
    both = gj.bidirectional(TWO_OUTPUTS)

    def results(params, of_both, xs):
        ys = gj.unroll(layers.deterministic(), params, xs)[1]
        expected = gj.unroll(gj.elman(), params[2], 3 * gj.unroll(gj.gru(), params[0], xs)[1])[1]
        ys_of_both = gj.unroll(both, of_both, xs)[1]["h"], gj.unroll(gj.bidirectional(gj.gru()), of_both, xs)[1]
        return (ys, expected), ys_of_both, gj.unroll(layers, params, xs, key=jax.random.key(0))[1]

    of_both = gj.layers.BidirectionalParams(problem(gj.gru()).params, problem(gj.gru(), 1).params)
    (ys, expected), ys_of_both, noisy = compiled(results, params, of_both, XS)
    assert_close(ys, expected)
    assert noisy.shape == ys.shape
    assert_close(*ys_of_both)


DROPPED = gj.stack([gj.gru(), gj.gru()], dropout=0.4)


def test_a_dropout_of_1_leaves_nothing_and_has_finite_gradients():
    layers = gj.stack([gj.gru(), gj.gru()], dropout=1.0)
    params, xs, h0, _ = stacked_problem(layers, (H, 6))
    zeros = jnp.zeros((T, B, H), xs.dtype)

    def results(params):
        run = lambda params: gj.unroll(layers, params, xs, h0, key=jax.random.key(0))[1]
        bars = jax.grad(lambda params: run(params).sum())(params)
        return run(params), gj.unroll(gj.gru(), params[1], zeros, h0[1])[1], bars

    ys, expected, bars = compiled(results, params)
    assert_close(ys, expected)
    assert not any(leaf.any() for leaf in jax.tree.leaves(bars[0]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bars[1]))


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_acts_between_layers_and_its_mask_depends_on_the_key(variational):
    ones = jnp.ones
    identity = gj.Cell(  # outputs its input, so the second layer shows what dropout left of it
        init=lambda key, D, H: {"U": jnp.zeros((H, H))},
        project=lambda params, xs: xs,
        gates=lambda params, u, h: u,
        update=lambda g, h: g,
    )
    layers = gj.stack([identity, identity], dropout=0.4, variational=variational)
    params = ({"U": ones((50, 50))},) * 2
    xs = ones((T, 20, 50))
    _, ys = gj.unroll(layers, params, xs, key=jax.random.key(0))
    assert set(np.unique(np.round(ys, 6))) == {0.0, np.round(1 / 0.6, 6).astype(ys.dtype)}
    assert abs(float((ys == 0).mean()) - 0.4) < 0.05
    constant = (ys == ys[:1]).all()
    assert constant == variational
    assert_close(ys, gj.unroll(layers, params, xs, key=jax.random.key(0))[1], tol=0)
    assert (ys != gj.unroll(layers, params, xs, key=jax.random.key(1))[1]).any()
    assert_close(gj.unroll(layers.deterministic(), params, xs)[1], xs, tol=0)


@pytest.mark.slow
@pytest.mark.derivative
def test_gradients_through_dropout_equal_autodiff_with_the_same_key():
    params, xs, h0, _ = stacked_problem(DROPPED, (H, 6))
    key = jax.random.key(3)
    loss = lambda params, derivative: (
        gj.unroll(DROPPED, params, xs, h0, key=key, lengths=LENGTHS, derivative=derivative)[1] ** 2
    ).sum()
    derivatives = gj.Autodiff(), gj.CustomVJP(), gj.CustomJVP()
    expected, *measured = compiled(lambda params: [jax.grad(loss)(params, each) for each in derivatives], params)
    for result in measured:
        assert_close(result, expected)


def test_vmap_over_keys_equals_a_loop():
    params, xs, h0, _ = stacked_problem(DROPPED, (H, 6))
    run = jax.jit(lambda key: gj.unroll(DROPPED, params, xs, h0, key=key)[1])
    keys = jax.random.split(jax.random.key(0), 3)
    together = compiled(jax.vmap(run), keys)
    for i in range(3):
        assert_close(together[i], run(keys[i]))
    assert (together[0] != together[1]).any()


PARAMS, XS, H0, _ = stacked_problem(STACK)
TWO_OUTPUTS = replace(gj.gru(), output=lambda h: {"h": h, "twice": 2 * h}, name="two_outputs")
TAKES_TWO = gj.feedforward(None, lambda params, x: x["h"] + x["twice"], name="takes_two")
BAD = {
    "no key": (lambda: gj.unroll(DROPPED, DROPPED.init(jax.random.key(0), D, H), XS), ValueError, r"key: got None, expected a jax\.random key.*deterministic"),
    "no key for step": (lambda: DROPPED.step(DROPPED.init(jax.random.key(0), D, H), DROPPED.initial_state(DROPPED.init(jax.random.key(0), D, H), B), XS[0]), ValueError, r"cell: got stack.*draws noise.*deterministic"),
    "a seed for a key": (lambda: gj.unroll(DROPPED, DROPPED.init(jax.random.key(0), D, H), XS, key=0), TypeError, r"key: got int, expected a jax\.random key"),
    "a cell instead of a list": (lambda: gj.stack(gj.gru()), TypeError, r"cells: got Cell, expected a list of cells"),
    "an empty list": (lambda: gj.stack([]), TypeError, r"cells: got list, expected a list of cells"),
    "functions that make cells": (lambda: gj.stack([gj.gru, gj.gru]), TypeError, r"cell: got function, expected a gj\.Cell"),
    "a rate above 1": (lambda: gj.stack([gj.gru()] * 2, dropout=1.1), ValueError, r"dropout: got 1\.1, expected a probability in \[0, 1\]"),
    "residual of three": (lambda: gj.stack([gj.gru()] * 2, residual=[True] * 3), ValueError, r"residual: got 3 values, expected 2, one for each layer"),
    "residual by numbers": (lambda: gj.stack([gj.gru()] * 2, residual=[0, 1]), TypeError, r"residual\[0\]: got 0, expected True or False"),
    "residual around the first": (lambda: gj.unroll(gj.stack([gj.gru(), gj.lstm(), gj.elman()], residual=[True, False, False]), PARAMS, XS), ValueError, r"params\[0\]: got 5 outputs over 4 inputs.*residual=\(True, False, False\)"),
    "skip connections to params without": (lambda: gj.unroll(gj.stack([gj.gru(), gj.lstm(), gj.elman()], skip_connections=True), PARAMS, XS), ValueError, r"params\[1\]: got an input size of 5, expected 9.*and of the inputs of the stack"),
    "a dict below a cell": (lambda: gj.unroll(gj.stack([TWO_OUTPUTS, gj.lstm()]), (TWO_OUTPUTS.init(jax.random.key(0), D, H), gj.lstm().init(jax.random.key(1), H, 6)), XS), TypeError, r"cells: got outputs a dict with the keys h, twice below lstm.*expected one array"),
    "a pair below a cell": (lambda: gj.stack([gj.bidirectional(gj.gru(), merge=None), gj.lstm()]).init(jax.random.key(0), D, H), TypeError, r"cells\[0\]: got bidirectional.*whose output size is unknown"),
    "a residual around a dict": (lambda: gj.unroll(gj.stack([TWO_OUTPUTS, TAKES_TWO], residual=[False, True]), (TWO_OUTPUTS.init(jax.random.key(0), D, H), ()), XS), TypeError, r"cells: got inputs or outputs of several arrays.*with residual=\(False, True\)"),
    "dropout in one layer": (lambda: gj.stack([gj.gru()], dropout=0.1), ValueError, r"dropout: got 0\.1 with one layer.*variational_dropout"),
    "sizes": (lambda: STACK.init(jax.random.key(0), D, (3, 4)), ValueError, r"hidden_size: got \(3, 4\), expected one int or 3, one for each layer"),
    "params of one layer": (lambda: gj.unroll(STACK, PARAMS[0], XS), TypeError, r"params: got GRUParams, expected a tuple of 3"),
    "params of two layers": (lambda: gj.unroll(STACK, PARAMS[:2], XS), TypeError, r"params: got a tuple of 2, expected a tuple of 3"),
    "params in another order": (lambda: gj.unroll(STACK, PARAMS[::-1], XS), TypeError, r"params\[0\]: got ElmanParams, expected GRUParams"),
    "layers that do not fit": (lambda: gj.unroll(STACK, (PARAMS[0], gj.lstm().init(jax.random.key(0), 9, 6, dtype=XS.dtype), PARAMS[2]), XS), ValueError, r"params\[1\]: got an input size of 9, expected 5"),
    "residual sizes": (lambda: gj.unroll(gj.stack([gj.gru(), gj.lstm(), gj.elman()], residual=True), PARAMS, XS), ValueError, r"params\[1\]: got 6 outputs over 5 inputs.*residual=True"),
    "features": (lambda: gj.unroll(STACK, PARAMS, XS[..., :2]), ValueError, r"xs: got 2 features.*expected 4"),
    "one state": (lambda: gj.unroll(STACK, PARAMS, XS, H0[0]), TypeError, r"h0: got one array, expected a tuple of 3 .*, the state of cell stack"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises_and_names_the_fix(case):
    assert_raises(*BAD[case])

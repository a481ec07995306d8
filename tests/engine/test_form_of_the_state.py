"""What a step must return, and the state that a reset sets by default."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax._engine.validate_cell import default_reset_state
from tests.conditions import ALL_THREE, LENGTHS, RESETS
from tests.problems import B, D, H, T, assert_close, assert_raises, compiled, normal, normal_like, scan_of_step

KEY = jax.random.key(3)
DERIVATIVES = {"CustomVJP": gj.CustomVJP(), "CustomJVP": gj.CustomJVP(), "Autodiff": gj.Autodiff()}


class Params(NamedTuple):
    W: jax.Array
    U: jax.Array
    start: jax.Array  # the state before the first step of a sequence


class State(NamedTuple):
    h: jax.Array
    largest: jax.Array


def init(key, input_size, hidden_size):
    draw = lambda seed, *shape: normal(seed, *shape) / 2
    return Params(draw(70, input_size, hidden_size), draw(71, hidden_size, hidden_size), draw(72, hidden_size))


LEARNED = gj.Cell(
    init,
    project=lambda params, xs: xs @ params.W,
    gates=lambda params, u, h: jnp.tanh(u + h @ params.U),
    update=lambda g, h: 0.6 * h + 0.4 * g,
    zero_state=lambda params: params.start,
    name="learned",
)
# two arrays, of which one starts at -inf
LARGEST = replace(
    LEARNED,
    gates=lambda params, u, state: jnp.tanh(u + state.h @ params.U),
    update=lambda g, state: State(0.6 * state.h + 0.4 * g, jnp.maximum(state.largest, g)),
    output=lambda state: state.h + state.largest,
    zero_state=lambda params: State(jnp.zeros_like(params.start), jnp.full_like(params.start, -jnp.inf)),
    name="largest",
)
P = LEARNED.init(KEY, D, H)
XS, H0 = normal(1, T, B, D), normal(2, B, H)

FORMS = {
    "units": (lambda g, h: g[..., :3], ValueError, r"returned a state of shape \(3, 3\), expected \(3, 5\)"),
    "a batch that is summed": (lambda g, h: g.sum(0), ValueError, r"returned a state of shape \(5,\), expected \(3, 5\)"),
    "one more axis": (lambda g, h: g[None], ValueError, r"returned a state of shape \(1, 3, 5\)"),
    "a dtype": (lambda g, h: g.astype(jnp.bfloat16), TypeError, r"returned a state of dtype bfloat16 from one of dtype float"),
    "an integer": (lambda g, h: jnp.sign(g).astype(int), TypeError, r"returned a state of dtype int.*cast the result"),
    "a tuple": (lambda g, h: (g, h), TypeError, r"returned a tuple of 2.*expected one array.*zero_state"),
    "a named tuple": (lambda g, h: State(g, h), TypeError, r"returned State\(h, largest\), expected one array"),
    "nothing": (lambda g, h: None, TypeError, r"returned NoneType, expected one array"),
    "a number": (lambda g, h: 0.0, ValueError, r"returned a state of shape \(\), expected \(3, 5\)"),
}


@pytest.mark.parametrize("case", FORMS)
def test_an_update_that_returns_no_state_raises_before_the_scan(case):
    update, error, message = FORMS[case]
    cell = replace(LEARNED, update=update)
    message = rf"cell: update of cell learned {message}"
    for derivative in DERIVATIVES.values():
        assert_raises(lambda d=derivative: gj.unroll(cell, P, XS, H0, derivative=d), error, message)
    assert_raises(lambda: jax.jit(partial(gj.unroll, cell))(P, XS), error, message)
    assert_raises(lambda: gj.step(cell, P, H0, XS[0]), error, message)
    assert_raises(lambda: cell.step(P, H0, XS[0]), error, message)
    assert_raises(lambda: gj.unroll(gj.stack([LEARNED, cell]), (P, LEARNED.init(KEY, H, H)), XS), error, message)


def test_the_message_names_the_array_of_a_state_of_several():
    cell = replace(LARGEST, update=lambda g, state: State(g, g[..., :2]))
    message = r"returned a state\.largest of shape \(3, 2\), expected \(3, 5\)"
    assert_raises(lambda: gj.unroll(cell, P, XS), ValueError, message)


def test_a_built_in_cell_with_another_update_is_checked_too():
    cell = replace(gj.gru(), update=lambda g, h: g.z[..., :2], adjoint=None, tangent=None)
    params = cell.init(KEY, D, H, dtype=XS.dtype)
    message = r"cell: update of cell gru\(\) returned a state of shape \(3, 2\), expected \(3, 5\)"
    assert_raises(lambda: gj.unroll(cell, params, XS), ValueError, message)


MASKED = partial(np.ma.masked_array, mask=True)
MASKED_ARRAYS = {
    "h0": lambda: gj.unroll(LEARNED, P, XS, MASKED(H0)),
    "lengths": lambda: gj.unroll(LEARNED, P, XS, lengths=MASKED(LENGTHS)),
    "mask": lambda: gj.unroll(LEARNED, P, XS, mask=MASKED(RESETS)),
    "resets": lambda: gj.unroll(LEARNED, P, XS, resets=MASKED(RESETS)),
    "reset_state": lambda: gj.unroll(LEARNED, P, XS, resets=RESETS, reset_state=MASKED(H0)),
    "x": lambda: gj.step(LEARNED, P, H0, MASKED(XS[0])),
    "h": lambda: gj.step(LEARNED, P, MASKED(H0), XS[0]),
    "reset": lambda: gj.step(LEARNED, P, H0, XS[0], reset=MASKED(RESETS[0])),
}


@pytest.mark.parametrize("name", MASKED_ARRAYS)
def test_a_masked_array_raises_as_in_jax(name):
    message = rf"^{name}: got a NumPy masked array, expected an array\. Pass {name}\.filled\(0\)"
    assert_raises(MASKED_ARRAYS[name], TypeError, message)


def loss(outputs):
    finite = lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0.0)
    return sum(jnp.sin(3 * finite(leaf)).sum() for leaf in jax.tree.leaves(outputs))


@pytest.mark.derivative
@pytest.mark.parametrize(
    ("cell", "derivative"),
    [
        (LEARNED, "CustomVJP"),
        (LARGEST, "CustomJVP"),
        *(pytest.param(LEARNED, how, marks=pytest.mark.slow) for how in ("CustomJVP", "Autodiff")),
        *(pytest.param(LARGEST, how, marks=pytest.mark.slow) for how in ("CustomVJP", "Autodiff")),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_reset_sets_the_initial_state_of_the_cell_by_default_with_its_gradient(cell, derivative):
    options = {"lengths": LENGTHS, "resets": RESETS}

    def results(params, xs):
        def of(run):
            return run(params, xs)[1], jax.grad(lambda *args: loss(run(*args)), (0, 1))(params, xs)

        def scan(params, xs):
            start = cell.zero_state(params)
            h0 = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, H)), start)
            return scan_of_step(cell, params, xs, h0, reset_state=start, **options)

        return of(scan), of(partial(gj.unroll, cell, derivative=DERIVATIVES[derivative], **options))

    expected, measured = compiled(results, P, XS)
    assert_close(measured, expected)
    assert bool(expected[1][0].start.any()) == (cell is LEARNED)


def test_step_sets_the_same_state_at_a_reset():
    reset = np.array([True, False, True])
    after_reset = jnp.where(reset[:, None], P.start, H0)
    assert_close(gj.step(LEARNED, P, H0, XS[0], reset=reset), gj.step(LEARNED, P, after_reset, XS[0]), tol=0)


def test_layers_reset_each_part_to_its_own_initial_state():
    for cell in (gj.stack([LEARNED, gj.lstm()]), gj.bidirectional(LEARNED, gj.gru())):

        def results(params, cell=cell):
            run = partial(gj.unroll, cell, params, XS, **ALL_THREE)
            start = cell.initial_state(params)
            return run(), run(reset_state=start), run(reset_state=jax.tree.map(jnp.zeros_like, start))

        drawn = normal_like(4, jax.eval_shape(lambda cell=cell: cell.init(KEY, D, H)))
        params = jax.tree.map(lambda leaf: leaf.astype(XS.dtype), drawn)
        by_default, to_start, to_zeros = compiled(results, params)
        assert_close(by_default, to_start, tol=0)
        assert (by_default[1] != to_zeros[1]).any()


def test_a_cell_that_does_not_tell_its_state_resets_to_zeros():
    class Named(NamedTuple):
        mix: jax.Array
        blend: jax.Array

    cell = gj.Cell(
        init,
        project=lambda params, xs: xs @ params.mix,
        gates=lambda params, u, h: jnp.tanh(u + h @ params.blend),
        update=lambda g, h: g,
    )
    params = Named(P.W, P.U)
    expected = gj.unroll(gj.elman(), gj.elman().init(KEY, D, H, dtype=XS.dtype)._replace(W=P.W, U=P.U), XS, H0, resets=RESETS)
    assert_close(gj.unroll(cell, params, XS, H0, resets=RESETS), expected)


@pytest.mark.parametrize(
    "cell", [gj.gru(), gj.zoneout(gj.lstm(), 0.2), gj.bidirectional(gj.stack([gj.lstm(), gj.elman()]))], ids=lambda c: c.name
)
def test_a_cell_that_starts_at_zeros_needs_no_reset_state(cell):
    """Inside the engine None means zeros, whose gradient need not be carried."""
    params = cell.init(KEY, D, H)
    found = []
    jax.jit(lambda params: found.append(default_reset_state(cell, params)))(params)
    assert [default_reset_state(cell, params), *found] == [None, None]

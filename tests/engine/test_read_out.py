"""Outputs that also see the input and the params, and cells without parameters, against the plain scan."""

import itertools
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE
from tests.problems import B, D, H, T, assert_close, assert_raises, compiled, normal, normal_like, problem, scan_of_step

pytestmark = pytest.mark.derivative

FLOAT = jnp.result_type(float)
KEYS = jax.random.split(jax.random.key(23), 2)
OUT = 6
DERIVATIVES = {"CustomVJP": gj.CustomVJP(block_size=3), "CustomJVP": gj.CustomJVP(), "Autodiff": gj.Autodiff()}


class S5Params(NamedTuple):
    """A diagonal state space model: eigenvalues exp(−exp(ν) + iθ), B, C and D."""

    nu: jax.Array
    theta: jax.Array
    B: jax.Array
    C: jax.Array
    D: jax.Array


def draw_s5(key, input_size, hidden_size, **options):
    pair = partial(normal, dtype=jnp.result_type(complex))
    vectors = normal(30, hidden_size), normal(31, hidden_size)
    return S5Params(*vectors, pair(32, D, hidden_size), pair(33, hidden_size, OUT), normal(34, D, OUT))


def eigenvalues(p):
    return jnp.exp(jax.lax.complex(-jnp.exp(p.nu), p.theta))


S5 = gj.Cell(
    draw_s5,
    project=lambda p, x: x.astype(p.B.dtype) @ p.B,
    gates=lambda p, u, h: (u, eigenvalues(p)),
    update=lambda g, h: g[1] * h + g[0],
    read_out=lambda p, x, h: jax.nn.gelu((h @ p.C).real + x @ p.D),
    zero_state=lambda p: jnp.zeros(p.nu.shape, p.B.dtype),
    name="s5",
)


class GRUWithReadOut(NamedTuple):
    """A GRU, whose derivation stays, and a nonlinear read-out that sees the input."""

    gru: Any
    C: jax.Array


def inner(function):
    """A function of a GRU whose params are a field."""
    return lambda params, *rest: function(params.gru, *rest)


def input_vjp(params, *rest):
    gru_bar, xs_bar = gj.gru().adjoint.input_vjp(params.gru, *rest)
    return GRUWithReadOut(gru_bar, jnp.zeros_like(params.C)), xs_bar


GRU = replace(
    gj.gru(),
    init=lambda key, D, H, **options: GRUWithReadOut(problem(gj.gru()).params, normal(35, D + H, OUT)),
    project=inner(gj.gru().project),
    gates=inner(gj.gru().gates),
    adjoint=gj.Adjoint(gj.gru().adjoint.linearize, input_vjp, inner(gj.gru().adjoint.state_vjp)),
    tangent=None,
    read_out=lambda p, x, y: jnp.tanh(jnp.concatenate([x, y], -1) @ p.C),
    zero_state=lambda p: jnp.zeros(p.gru.U_z.shape[0], FLOAT),
    params_type=None,
    check_params=None,
    name="gru_with_read_out",
)
CELLS = {"s5": S5, "gru with its derivation": GRU}
BY_DEFAULT = {("s5", "CustomJVP"), ("gru with its derivation", "CustomVJP")}


def draw(cell):
    params = cell.init(None, D, H)
    return params, normal(1, T, B, D), normal_like(2, jax.eval_shape(lambda: cell.initial_state(params, B)))


def value_and_gradients(run, *args):
    """Returns the outputs, and the gradients of a loss that depends on each of them."""

    def loss(*args):
        h, ys = run(*args)
        return (jnp.cos(2 * ys) * normal_like(3, ys)).sum() + jnp.sin(h.real).sum() + (h.imag**2).sum()

    return run(*args), jax.grad(loss, (0, 1, 2))(*args)


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=pytest.mark.slow), ALL_THREE | {"reverse": True}],
    ids=["plain", "all three, reverse"],
)
@pytest.mark.parametrize(
    ("name", "derivative"),
    [
        pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.slow)
        for case in itertools.product(CELLS, DERIVATIVES)
    ],
)
def test_values_and_gradients_equal_autodiff_of_the_plain_scan(name, derivative, options):
    cell = CELLS[name]

    def results(*args):
        runs = scan_of_step, partial(gj.unroll, derivative=DERIVATIVES[derivative])
        return [value_and_gradients(partial(run, cell, **options), *args) for run in runs]

    expected, measured = compiled(results, *draw(cell))
    assert_close(measured, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


@pytest.mark.parametrize("name", CELLS)
def test_a_step_and_the_outputs_are_those_of_the_formula(name):
    cell = CELLS[name]

    def results(params, xs, h0):
        h, y = cell.step(params, h0, xs[0])
        expected = cell.update(cell.gates(params, cell.project(params, xs[0]), h0), h0)
        by_formula = of_s5(params, xs[0], h) if cell is S5 else jnp.tanh(xs[0] @ params.C[:D] + h @ params.C[D:])
        return (h, y), (expected, by_formula)

    assert_close(*compiled(results, *draw(cell)))


def of_s5(p, x, h):
    return jax.nn.gelu((h @ p.C).real + x @ p.D)


@pytest.mark.parametrize("cell", [pytest.param(S5, marks=pytest.mark.slow), GRU], ids=CELLS.keys())
def test_steps_windows_and_both_directions_read_out_too(cell):
    other, both = normal_like(4, draw(cell)[0]), gj.bidirectional(cell, merge="sum")

    def results(params, xs, h0):
        run = partial(gj.unroll, cell, params, xs, h0)
        by_step = jax.lax.scan(lambda h, x: gj.step(cell, params, h, x), h0, xs)
        in_windows = gj.unroll_truncated(cell, params, xs, h0, window=3)
        two = gj.unroll(both, {"forward": params, "backward": other}, xs, (h0, h0))[1]
        sum_of_both = run()[1] + gj.unroll(cell, other, xs, h0, reverse=True)[1]
        return run(), (by_step, in_windows), run(outputs="last"), run(outputs="states")[1], (two, sum_of_both)

    expected, same, (h_last, nothing), states, directions = compiled(results, *draw(cell))
    for measured in same:
        assert_close(measured, expected)
    assert_close(h_last, expected[0])
    assert nothing is None
    assert states.shape == (T, B, H)
    assert_close(*directions)


def test_a_stack_knows_the_sizes_of_read_outs():
    stack = gj.stack([S5, gj.gru()])
    params = stack.init(KEYS[0], D, H, dtype=FLOAT)
    assert params[1].W_z.shape == (OUT, H)
    one_by_one = lambda params, xs: gj.unroll(gj.gru(), params[1], gj.unroll(S5, params[0], xs)[1])[1]
    both = compiled(lambda *args: (gj.unroll(stack, *args)[1], one_by_one(*args)), params, normal(1, T, B, D))
    assert_close(*both)
    assert S5.output_size(params[0], D) == OUT
    assert_raises(lambda: S5.output_size(params[0]), ValueError, r"input_size: got None")
    skip = replace(gj.gru(), read_out=lambda params, x, y: jnp.concatenate([x, y], -1))
    assert skip.output_size(gj.gru().init(KEYS[0], D, H)) == D + H


def test_noise_around_a_cell_with_a_read_out_gives_it_the_inputs_and_params_of_the_cell():
    """With all units kept, the noise changes nothing but the form of xs and params."""
    tiny = 1e-300 if jnp.float64 == FLOAT else 1e-30  # above 0, and never drawn
    sequence_key, step_key = KEYS

    def results(params, xs, h0):
        run = lambda cell, **options: gj.unroll(cell, params, xs, h0, **options)
        noisy = gj.zoneout(GRU, tiny), gj.variational_dropout(GRU, inputs=tiny, state=tiny)
        by_noisy = [
            (run(cell, key=step_key), gj.step(cell, params, h0, xs[0], key=(sequence_key, step_key))[1]) for cell in noisy
        ]
        return run(GRU), by_noisy, run(gj.variational_dropout(GRU, inputs=0.5), key=step_key)[1]

    expected, by_noisy, dropped = compiled(results, *draw(GRU))
    for outputs, y in by_noisy:
        assert_close(outputs, expected)
        assert_close(y, expected[1][0])
    assert (dropped != expected[1]).any()


def test_the_compute_dtype_lowers_the_weights_of_the_read_out():
    params, xs, h0 = draw(GRU)
    params, xs, h0 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, xs, h0))
    cell = replace(GRU, zero_state=lambda p: jnp.zeros(H, jnp.float32), read_out=lambda p, x, y: x @ p.C[:D])
    lowered = gj.unroll(cell, params, xs, h0, compute_dtype=jnp.bfloat16)[1]
    assert_close(lowered, xs @ params.C[:D].astype(jnp.bfloat16), tol=1e-6)


def test_a_bad_read_out_raises():
    params, xs, h0 = draw(S5)
    summed = replace(S5, read_out=lambda p, x, h: (h @ p.C).real.sum(0))
    message = r"read_out: got outputs of shape .* from cell s5, expected .*features"
    assert_raises(lambda: gj.unroll(summed, params, xs, h0), ValueError, message)
    assert_raises(lambda: gj.step(summed, params, h0, xs[0]), ValueError, message)
    assert_raises(lambda: replace(S5, read_out=3), TypeError, r"read_out: got 3, expected a function read_out\(params, x, y\)")


def no_params(key, input_size, hidden_size, **options):
    return ()


AVERAGE = gj.Cell(
    no_params,
    project=lambda p, x: x,
    gates=lambda p, u, h: jnp.tanh(u - 0.3 * h),
    update=lambda g, h: 0.75 * h + 0.25 * g,
    zero_state=lambda p: jnp.zeros(D, FLOAT),
    name="average",
)
TABLE = replace(
    AVERAGE, name="table", gates=lambda p, u, h: jnp.tanh(u[..., p["order"]] - 0.3 * h), init=lambda *_: {"order": None}
)


@pytest.mark.parametrize(
    ("cell", "params"),
    [(AVERAGE, ()), pytest.param(TABLE, {"order": jnp.array([2, 0, 1, 3])}, marks=pytest.mark.slow)],
    ids=["no params", "integers"],
)
@pytest.mark.parametrize(
    "derivative", [pytest.param(how, marks=() if how == "CustomVJP" else pytest.mark.slow) for how in DERIVATIVES]
)
def test_cells_without_weights_run_and_have_gradients_of_inputs_and_states(cell, params, derivative):
    def results(xs, h0):
        def of(unroll):
            run = lambda xs, h: unroll(cell, params, xs, h, **ALL_THREE)
            loss = lambda xs, h: jnp.sin(run(xs, h)[1]).sum() + (run(xs, h)[0] ** 2).sum()
            return run(xs, h0), jax.grad(loss, (0, 1))(xs, h0)

        return [of(unroll) for unroll in (scan_of_step, partial(gj.unroll, derivative=DERIVATIVES[derivative]))]

    expected, measured = compiled(results, normal(1, T, B, D), normal(2, B, D))
    assert_close(measured, expected)


def test_cells_without_weights_step_and_are_layers_of_stacks():
    xs = normal(1, T, B, D, dtype=jnp.float32)
    square = gj.feedforward(None, lambda params, x: x**2)
    assert_close(gj.unroll(square, square.init(KEYS[0], D, H), xs), ((), xs**2), tol=0)
    assert gj.unroll(square, (), np.asarray(xs, np.float16))[1].dtype == jnp.float16
    half = replace(AVERAGE, zero_state=lambda p: jnp.zeros(D, jnp.float32))
    network = gj.stack([square, half])
    params = network.init(KEYS[0], D, D)
    assert params == ((), ())
    _, ys = gj.unroll(network, params, xs)
    by_step = lambda xs: jax.lax.scan(partial(gj.step, network, params), network.initial_state(params, B), xs)[1]
    assert_close(compiled(by_step, xs), ys)
    assert_raises(
        lambda: gj.unroll(AVERAGE, None, xs), TypeError, r"params: got NoneType.*without parameters has the params \(\)"
    )
    assert_raises(lambda: gj.unroll(gj.gru(), (), xs), TypeError, r"params: got a tuple of 0, expected GRUParams")
    p = problem(gj.gru())
    integers = jax.tree.map(lambda leaf: leaf.astype(int), p.params)
    assert_raises(lambda: gj.unroll(gj.gru(), integers, xs), TypeError, r"params\.W_z: got .*int.*(astype|jnp\.asarray)")

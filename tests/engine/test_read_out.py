"""Outputs that also see the input and the params, and cells without parameters, against Python loops."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE
from tests.problems import B, D, H, T, assert_close, assert_raises, normal_like, problem

pytestmark = pytest.mark.derivative

FLOAT = jnp.result_type(float)
KEYS = jax.random.split(jax.random.key(23), 6)
OUT = 6
DERIVATIVES = {"CustomVJP": gj.CustomVJP(block_size=3), "CustomJVP": gj.CustomJVP(), "Autodiff": gj.Autodiff()}
every_derivative = pytest.mark.parametrize("derivative", DERIVATIVES.values(), ids=DERIVATIVES.keys())


class S5Params(NamedTuple):
    """A diagonal state space model: eigenvalues exp(−exp(ν) + iθ), B, C and D."""

    nu: jax.Array
    theta: jax.Array
    B: jax.Array
    C: jax.Array
    D: jax.Array


def draw_s5(key, input_size, hidden_size, **options):
    draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape, FLOAT)
    pair = lambda i, *shape: jax.lax.complex(draw(i, *shape), draw(i + 1, *shape))
    theta = draw(1, hidden_size)
    return S5Params(draw(0, hidden_size), theta, pair(2, D, hidden_size), pair(4, hidden_size, OUT), draw(6, D, OUT))


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
    init=lambda key, D, H, **options: GRUWithReadOut(
        gj.gru().init(key, D, H, **options), jax.random.normal(key, (D + H, OUT), FLOAT)
    ),
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
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())


def draw(cell):
    params = cell.init(KEYS[0], D, H, **({"dtype": FLOAT} if cell is GRU else {}))
    return params, jax.random.normal(KEYS[1], (T, B, D), FLOAT), normal_like(2, cell.initial_state(params, B))


def select(condition, one, other):
    return jnp.where(condition[:, None], one, other)


def of_s5(p, x, h):
    return jax.nn.gelu((h @ p.C).real + x @ p.D)


def loop(cell, params, xs, h, lengths=None, mask=None, resets=None, reverse=False):
    """Computes (h_last, ys) step by step."""
    ys = [None] * T
    for t in range(T)[:: -1 if reverse else 1]:
        valid = np.ones(B, bool) if mask is None else mask[t] & (t < lengths)
        if resets is not None:
            h = select(resets[t] & valid, jnp.zeros_like(h), h)
        h = select(valid, cell.update(cell.gates(params, cell.project(params, xs[t]), h), h), h)
        y = of_s5(params, xs[t], h) if cell is S5 else jnp.tanh(xs[t] @ params.C[:D] + h @ params.C[D:])
        ys[t] = select(valid, y, jnp.zeros_like(y))
    return h, jnp.stack(ys)


def value_and_gradients(run, *args):
    def loss(*args):
        h, ys = run(*args)
        return (jnp.cos(2 * ys) * normal_like(3, ys)).sum() + jnp.sin(h.real).sum() + (h.imag**2).sum()

    return jax.jit(lambda *args: (run(*args), jax.grad(loss, (0, 1, 2))(*args)))(*args)


@pytest.mark.parametrize("options", [{}, ALL_THREE | {"reverse": True}], ids=["plain", "all three, reverse"])
@every_cell
def test_values_and_gradients_are_those_of_a_loop(cell, options):
    args = draw(cell)
    expected = value_and_gradients(partial(loop, cell, **options), *args)
    for derivative in DERIVATIVES.values():
        assert_close(value_and_gradients(partial(gj.unroll, cell, derivative=derivative, **options), *args), expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


@every_cell
def test_steps_windows_and_both_directions_read_out_too(cell):
    params, xs, h0 = draw(cell)
    h_last, ys = gj.unroll(cell, params, xs, h0)
    h, found = h0, []
    for t in range(T):
        h, y = gj.step(cell, params, h, xs[t])
        found.append(y)
    assert_close((h, jnp.stack(found)), (h_last, ys))
    assert_close(gj.unroll_truncated(cell, params, xs, h0, window=3), (h_last, ys))
    assert_close(gj.unroll(cell, params, xs, h0, outputs="last"), (h_last, None))
    states = gj.unroll(cell, params, xs, h0, outputs="states")[1]
    assert states.shape == (T, B, H)
    both = gj.bidirectional(cell, merge="sum")
    other = normal_like(4, params)
    expected = ys + gj.unroll(cell, other, xs, h0, reverse=True)[1]
    assert_close(gj.unroll(both, {"forward": params, "backward": other}, xs, (h0, h0))[1], expected)


def test_a_stack_knows_the_sizes_of_read_outs():
    stack = gj.stack([S5, gj.gru()])
    params = stack.init(KEYS[0], D, H, dtype=FLOAT)
    assert params[1].W_z.shape == (OUT, H)
    xs = jax.random.normal(KEYS[1], (T, B, D), FLOAT)
    expected = gj.unroll(gj.gru(), params[1], gj.unroll(S5, params[0], xs)[1])[1]
    assert_close(gj.unroll(stack, params, xs)[1], expected)
    assert S5.output_size(params[0], D) == OUT
    assert_raises(lambda: S5.output_size(params[0]), ValueError, r"input_size: got None")
    skip = replace(gj.gru(), read_out=lambda params, x, y: jnp.concatenate([x, y], -1))
    assert skip.output_size(gj.gru().init(KEYS[0], D, H)) == D + H


def test_noise_around_a_cell_with_a_read_out_gives_it_the_inputs_and_params_of_the_cell():
    """With all units kept, the noise changes nothing but the form of xs and params."""
    params, xs, h0 = draw(GRU)
    expected = gj.unroll(GRU, params, xs, h0)
    tiny = 1e-300 if jnp.float64 == FLOAT else 1e-30  # above 0, and never drawn
    for noisy in (gj.zoneout(GRU, tiny), gj.variational_dropout(GRU, inputs=tiny, state=tiny)):
        assert_close(gj.unroll(noisy, params, xs, h0, key=KEYS[5]), expected)
        y = gj.step(noisy, params, h0, xs[0], key=(KEYS[4], KEYS[5]))[1]
        assert_close(y, expected[1][0])
    dropped = gj.unroll(gj.variational_dropout(GRU, inputs=0.5), params, xs, h0, key=KEYS[5])[1]
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


VALID = ALL_THREE["mask"] & (np.arange(T)[:, None] < ALL_THREE["lengths"])


@every_derivative
@pytest.mark.parametrize(
    ("cell", "params"), [(AVERAGE, ()), (TABLE, {"order": jnp.array([2, 0, 1, 3])})], ids=["no params", "integers"]
)
def test_cells_without_weights_run_and_have_gradients_of_inputs_and_states(cell, params, derivative):
    xs, h0 = jax.random.normal(KEYS[1], (T, B, D), FLOAT), jax.random.normal(KEYS[2], (B, D), FLOAT)
    order = params["order"] if params else jnp.arange(D)

    def loop(xs, h):
        ys = []
        for t in range(T):
            valid = VALID[t]
            h = select(ALL_THREE["resets"][t] & valid, jnp.zeros_like(h), h)
            h = select(valid, 0.75 * h + 0.25 * jnp.tanh(xs[t][:, order] - 0.3 * h), h)
            ys.append(select(valid, h, jnp.zeros_like(h)))
        return h, jnp.stack(ys)

    loss = lambda run: lambda xs, h: jnp.sin(run(xs, h)[1]).sum() + (run(xs, h)[0] ** 2).sum()
    ours = lambda xs, h: gj.unroll(cell, params, xs, h, derivative=derivative, **ALL_THREE)
    assert_close(ours(xs, h0), loop(xs, h0))
    both = [jax.jit(jax.grad(loss(run), (0, 1)))(xs, h0) for run in (ours, loop)]
    assert_close(*both)


def test_cells_without_weights_step_and_stand_in_stacks():
    xs = jax.random.normal(KEYS[1], (T, B, D), jnp.float32)
    square = gj.feedforward(None, lambda params, x: x**2)
    assert_close(gj.unroll(square, square.init(KEYS[0], D, H), xs), ((), xs**2), tol=0)
    assert gj.unroll(square, (), np.asarray(xs, np.float16))[1].dtype == jnp.float16
    half = replace(AVERAGE, zero_state=lambda p: jnp.zeros(D, jnp.float32))
    network = gj.stack([square, half])
    params = network.init(KEYS[0], D, D)
    assert params == ((), ())
    _, ys = gj.unroll(network, params, xs)
    h_of_steps = network.initial_state(params, B)
    for t in range(T):
        h_of_steps, y = gj.step(network, params, h_of_steps, xs[t])
        assert_close(y, ys[t])
    assert_raises(
        lambda: gj.unroll(AVERAGE, None, xs), TypeError, r"params: got NoneType.*without parameters has the params \(\)"
    )
    assert_raises(lambda: gj.unroll(gj.gru(), (), xs), TypeError, r"params: got a tuple of 0, expected GRUParams")
    p = problem(gj.gru())
    integers = jax.tree.map(lambda leaf: leaf.astype(int), p.params)
    assert_raises(lambda: gj.unroll(gj.gru(), integers, xs), TypeError, r"params\.W_z: got .*int.*astype|jnp\.asarray")

"""Cells of the recipes: NumPy loops after the papers, and autodiff of a plain scan."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from experiments.recipes import cells_for_science as science
from experiments.recipes import derived_cells as derived
from experiments.recipes import gated_cells as gated
from experiments.recipes import new_cells as new
from gru_jax._engine.noise import keys_of_sequence
from tests.conditions import LENGTHS, RESETS
from tests.problems import B, D, H, T, assert_close, compiled, normal, normal_like, on_host, scan_of_step

FLOAT = jnp.result_type(float)
KEYS = jax.random.split(jax.random.key(31), 6)
KEY_SIZE, HEIGHT, WIDTH, DT = 2, 4, 3, 0.05
CELLS = {
    "min_gru": new.MIN_GRU,
    "slstm": new.SLSTM,
    "lru": new.LRU,
    "delta_rule": new.delta_rule(KEY_SIZE),
    "conv_gru": science.conv_gru(HEIGHT, WIDTH),
    "gru_d": science.GRU_D,
    "dale_rnn": science.dale_rnn(DT),
    "layer_norm_gru": gated.LAYER_NORM_GRU,
    "layer_norm_lstm": gated.LAYER_NORM_LSTM,
    "coupled_lstm": derived.COUPLED_LSTM,
    "mgu": derived.MGU,
    "ind_rnn": derived.IND_RNN,
    "conv_lstm": gated.conv_lstm(HEIGHT, WIDTH),
}
IMAGES = ("conv_gru", "conv_lstm")
# what is asked of the engine is asked by default of these; the others differ in their equations only
BY_DEFAULT = ("lru", "gru_d", "dale_rnn")  # complex states, inputs of three arrays, signs that are integers
VALUES_BY_DEFAULT = (*BY_DEFAULT, "slstm", "delta_rule", "conv_gru", "layer_norm_lstm")
cells_of_every_kind = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in CELLS]
)
CONDITIONS = {"plain": {}, "lengths and resets": {"lengths": LENGTHS, "resets": RESETS}}
plain_is_slow = pytest.mark.parametrize(
    "conditions",
    [pytest.param(given, id=name, marks=() if given else pytest.mark.slow) for name, given in CONDITIONS.items()],
)
DERIVATIVES = {"CustomVJP": gj.CustomVJP(), "CustomJVP": gj.CustomJVP(), "Autodiff": gj.Autodiff()}


@cache
def draw(name):
    """Draws params and xs. Integers among the params stay as `init` makes them."""
    params = compiled(lambda key: CELLS[name].init(key, D, H, dtype=FLOAT), KEYS[0])
    vary = lambda leaf, noise: leaf + 0.3 * np.asarray(noise) if leaf.dtype == FLOAT else leaf
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf), jax.tree.map(vary, params, normal_like(1, params)))
    xs = normal(2, T, B, *((HEIGHT, WIDTH, D) if name in IMAGES else (D,)))
    if name == "gru_d":
        random = np.random.default_rng(3)
        xs = science.Measured(xs, random.random(xs.shape) < 0.6, random.random(xs.shape).astype(FLOAT))
    return params, xs


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def np_min_gru(p, h, x):
    z = sigmoid(x @ p.W_z)
    h = (1 - z) * h + z * (x @ p.W_h)
    return h, h


def np_slstm(p, state, x):
    """Without the stabiliser m: the gates are exponentials as they are."""
    h, c, n = state
    a_z, a_i, a_f, a_o = np.split(x @ p.W + h @ p.U + p.b, 4)
    c, n = sigmoid(a_f) * c + np.exp(a_i) * np.tanh(a_z), sigmoid(a_f) * n + np.exp(a_i)
    h = sigmoid(a_o) * c / n
    return (h, c, n), h


def np_lru(p, h, x):
    eigenvalues = np.exp(-np.exp(p.nu)) * (np.cos(np.exp(p.theta)) + 1j * np.sin(np.exp(p.theta)))
    h = eigenvalues * h + np.sqrt(1 - np.abs(eigenvalues) ** 2) * (x @ (p.W_re + 1j * p.W_im))
    return h, np.concatenate([h.real, h.imag])


def np_delta_rule(p, S, x):
    k, q = (a / np.sqrt((a**2).sum() + 1e-6) for a in (x @ p.W_k, x @ p.W_q))
    beta = sigmoid(x @ p.W_b)
    S = S - beta * np.outer(k, k) @ S + beta * np.outer(k, x @ p.W_v)
    return S, q @ S


def np_convolve(image, filters):
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    return sum(
        padded[i : i + HEIGHT, j : j + WIDTH] @ filters[i, j] for i in range(3) for j in range(3)
    )  # a sum over the pixels around each pixel


def np_conv_gru(p, h, x):
    x_z, x_r, x_h = np.split(np_convolve(x, p.W), 3, axis=-1)
    h_z, h_r = np.split(np_convolve(h, p.U), 2, axis=-1)
    z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
    h = (1 - z) * h + z * np.tanh(x_h + np_convolve(r * h, p.U_h))
    return h, h


def np_gru_d(p, state, x):
    h, last = state
    decay = np.exp(-np.maximum(0, p.w_x * x.gap))
    m = x.observed.astype(float)
    value = m * x.value + (1 - m) * (decay * last + (1 - decay) * p.mean)
    h = np.exp(-np.maximum(0, x.gap @ p.w_h)) * h
    g, both = p.gru, np.concatenate([value, m])
    z, r = (sigmoid(both @ W + h @ U + b) for W, U, b in ((g.W_z, g.U_z, g.b_z), (g.W_r, g.U_r, g.b_r)))
    h = (1 - z) * h + z * np.tanh(both @ g.W_h + (r * h) @ g.U_h + g.b_h)
    return (h, m * x.value + (1 - m) * last), h


def np_dale_rnn(p, v, x):
    rate, alpha = np.maximum(0, v), 1 - np.exp(-DT / np.exp(p.log_tau))
    v = (1 - alpha) * v + alpha * (x @ p.W + sum(p.sign[j] * rate[j] * np.abs(p.U[j]) for j in range(H)) + p.b)
    return v, np.maximum(0, v)


def np_normalize(a, gain):
    return gain * (a - a.mean()) / np.sqrt(a.var() + 1e-5)


def np_layer_norm_gru(p, h, x):
    both, new = slice(2 * H), slice(2 * H, None)
    normalized = lambda part: (
        np_normalize(x @ p.W[:, part], p.gain_x[part]) + p.b[part],
        np_normalize(h @ p.U[:, part], p.gain_h[part]),
    )
    z, r = np.split(sigmoid(sum(normalized(both))), 2)
    x_h, h_h = normalized(new)
    h = (1 - z) * h + z * np.tanh(x_h + r * h_h)
    return h, h


def np_layer_norm_lstm(p, state, x):
    h, c = state
    i, f, g, o = np.split(np_normalize(x @ p.W, p.gain_x) + np_normalize(h @ p.U, p.gain_h) + p.b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(np_normalize(c, p.gain_c))
    return (h, c), h


def np_coupled_lstm(p, state, x):
    h, c = state
    f, g, o = np.split(x @ p.W + h @ p.U + p.b, 3)
    c = sigmoid(f) * c + sigmoid(-f) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (h, c), h


def np_mgu(p, h, x):
    (W_f, W_h), (U_f, U_h), (b_f, b_h) = (np.split(part, 2, axis=-1) for part in (p.W, p.U, p.b))
    f = sigmoid(x @ W_f + h @ U_f + b_f)
    h = (1 - f) * h + f * np.tanh(x @ W_h + (f * h) @ U_h + b_h)
    return h, h


def np_ind_rnn(p, h, x):
    h = np.maximum(0, x @ p.W + p.u * h + p.b)
    return h, h


def np_conv_lstm(p, state, x):
    h, c = state
    i, f, g, o = np.split(np_convolve(x, p.W) + np_convolve(h, p.U) + p.b, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (h, c), h


# For each cell a step after its paper, and the state at the start of a sequence.
REFERENCES: dict[str, Any] = {
    "min_gru": (np_min_gru, lambda p: np.zeros(H)),
    "slstm": (np_slstm, lambda p: (np.zeros(H),) * 3),
    "lru": (np_lru, lambda p: np.zeros(H, complex)),
    "delta_rule": (np_delta_rule, lambda p: np.zeros((KEY_SIZE, H))),
    "conv_gru": (np_conv_gru, lambda p: np.zeros((HEIGHT, WIDTH, H))),
    "gru_d": (np_gru_d, lambda p: (np.zeros(H), p.mean)),
    "dale_rnn": (np_dale_rnn, lambda p: np.zeros(H)),
    "layer_norm_gru": (np_layer_norm_gru, lambda p: np.zeros(H)),
    "layer_norm_lstm": (np_layer_norm_lstm, lambda p: (np.zeros(H),) * 2),
    "coupled_lstm": (np_coupled_lstm, lambda p: (np.zeros(H),) * 2),
    "mgu": (np_mgu, lambda p: np.zeros(H)),
    "ind_rnn": (np_ind_rnn, lambda p: np.zeros(H)),
    "conv_lstm": (np_conv_lstm, lambda p: (np.zeros((HEIGHT, WIDTH, H)),) * 2),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in VALUES_BY_DEFAULT else pytest.mark.slow) for name in CELLS]
)
@plain_is_slow
def test_outputs_equal_a_numpy_loop_after_the_paper(name, conditions, needs_x64):
    cell, (step, start) = CELLS[name].deterministic(), REFERENCES[name]
    params, xs = draw(name)
    ys = compiled(lambda params, xs: gj.unroll(cell, params, xs, **conditions)[1], params, xs)
    p, xs = on_host((params, xs))
    for b in range(B):
        state = start(p)
        for t in range(conditions.get("lengths", [T] * B)[b]):
            if conditions and RESETS[t, b]:
                state = start(p)
            state, y = step(p, state, jax.tree.map(lambda leaf: leaf[t, b], xs))
            np.testing.assert_allclose(ys[t, b], y, rtol=1e-10, atol=1e-11)
        assert not ys[t + 1 :, b].any()


def scan(cell, params, xs, *, key=None, **conditions):
    """Runs the plain scan of steps from the initial state of the cell, with the noise drawn before."""
    start = cell.zero_state(params)
    h0 = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, *leaf.shape)), start)
    if key is not None:
        params, xs = cell.sample_noise(keys_of_sequence(key), params, xs)
    without_noise = replace(cell, sample_noise=None)
    return scan_of_step(without_noise, params, xs, h0, reset_state=start, **conditions)


@pytest.mark.derivative
@cells_of_every_kind
@plain_is_slow
def test_values_and_gradients_equal_autodiff_of_the_plain_scan(name, conditions):
    cell, (params, xs) = CELLS[name], draw(name)
    options = conditions | ({"key": KEYS[5]} if cell.needs_key else {})

    def results(params, xs):
        def of(run):
            loss = lambda params, xs: (jnp.cos(2 * run(params, xs)[1]) ** 2).sum()
            value, (of_params, of_xs) = jax.value_and_grad(loss, (0, 1), allow_int=True)(params, xs)
            floats = lambda tree: [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype == FLOAT]
            return value, floats(of_params), floats(of_xs)

        ours = [partial(gj.unroll, cell, derivative=derivative, **options) for derivative in DERIVATIVES.values()]
        return [of(run) for run in (partial(scan, cell, **options), *ours)]

    expected, *measured = compiled(results, params, xs)
    for result in measured:
        assert_close(result, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


@cells_of_every_kind
def test_steps_with_resets_equal_unroll(name):
    cell, (params, xs) = CELLS[name].deterministic(), draw(name)

    def results(params, xs):
        step = lambda h, at_t: gj.step(cell, params, h, at_t[0], reset=at_t[1])
        by_step = jax.lax.scan(step, cell.initial_state(params, B), (xs, RESETS))[1]
        return by_step, gj.unroll(cell, params, xs, resets=RESETS)[1]

    assert_close(*compiled(results, params, xs))


def test_the_memory_of_the_slstm_is_scaled_by_its_stabiliser_and_large_gates_do_not_overflow():
    params, xs = draw("slstm")
    large = params._replace(b=params.b + 500.0)  # e^500 overflows float32
    in_float32 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), large)
    (h, *_), ys = compiled(partial(gj.unroll, new.SLSTM), in_float32, xs)
    assert np.isfinite(ys).all()
    assert_close(h, ys[-1], tol=0)


@pytest.mark.slow
def test_a_network_of_lru_blocks_trains_in_a_stack():
    network = gj.stack([new.lru_block(), new.lru_block()])
    sizes = ((D, H, D), (D, H, D))  # H units inside
    init = lambda key, **options: network.init(key, D, sizes, **options)
    params, xs = compiled(partial(init, dtype=FLOAT), KEYS[0]), normal(2, T, B, D)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(init, KEYS[0]))} == {jnp.dtype(jnp.float32)}

    def by_hand(params, xs):
        valid = (np.arange(T)[:, None] < LENGTHS)[..., None]
        x = jnp.where(valid, xs, 0.0)
        for _, cell, C in params:
            normed = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
            x = x + jnp.where(valid, jax.nn.gelu(scan(new.LRU, cell, normed, lengths=LENGTHS)[1] @ C), 0.0)
        return x

    run = lambda params, xs: gj.unroll(network, params, xs, lengths=LENGTHS)[1]
    of = lambda run, params: (run(params, xs), jax.grad(lambda params: jnp.sin(run(params, xs)).sum())(params))
    assert_close(*compiled(lambda params: [of(each, params) for each in (run, by_hand)], params))


@pytest.mark.slow
def test_every_neuron_of_the_dale_network_keeps_its_sign_and_the_noise_has_its_law():
    cell = science.dale_rnn(DT, noise=0.2)
    units, steps = 1000, 60
    params = compiled(lambda key: cell.init(key, D, units), KEYS[0])
    assert int((params.sign == 1).sum()) == 800
    silent = jax.tree.map(jnp.asarray, params._replace(W=0 * params.W, U=0 * params.U))
    xs = jnp.zeros((steps, 2, D), jnp.float32)
    alpha = 1 - np.exp(-DT / 0.1)
    std = np.sqrt(2 * alpha * 0.2**2 / (1 - (1 - alpha) ** 2))

    def results(xs):
        loop = lambda state, key: (gj.step(cell, silent, state, xs[0], key=key)[0], None)
        by_step = jax.lax.scan(loop, cell.initial_state(silent, 2), jax.random.split(KEYS[2], steps))
        return gj.unroll(cell, silent, xs, key=KEYS[1])[0][0], by_step[0][0]

    v, v_of_loop = compiled(results, xs)
    for current in (v, v_of_loop):
        assert abs(current.std() / std - 1) < 0.08
    assert not np.asarray(gj.unroll(cell.deterministic(), silent, xs)[0].v).any()

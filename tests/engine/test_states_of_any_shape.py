"""States that are matrices or images, against a loop over single sequences.

`test_form_of_the_state` has a state of two arrays, of which one starts at -inf.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import LENGTHS, MASK, RESETS
from tests.problems import B, D, T, assert_close, assert_raises, normal_like

FLOAT = jnp.result_type(float)
KEYS = jax.random.split(jax.random.key(21), 6)
KEY_SIZE, VALUE_SIZE = 2, 5
HEIGHT, WIDTH, CHANNELS, FILTERS = 4, 3, 2, 5
DERIVATIVES = {
    "CustomVJP": gj.CustomVJP(),
    "blocks": gj.CustomVJP(residuals="states", block_size=3),
    "CustomJVP": gj.CustomJVP(),
    "Autodiff": gj.Autodiff(),
}


class FastWeights(NamedTuple):
    W_key: jax.Array
    W_value: jax.Array
    W_forget: jax.Array


def fast_weights_init(key, input_size, hidden_size):
    keys = jax.random.split(key, 3)
    sizes = KEY_SIZE, hidden_size, 1
    return FastWeights(*(jax.random.normal(k, (input_size, size), FLOAT) for k, size in zip(keys, sizes, strict=True)))


def fast_weights_project(params, x):
    return x @ params.W_key, x @ params.W_value, jax.nn.sigmoid(x @ params.W_forget)


def fast_weights_update(g, S):
    k, v, forget = g
    read = jnp.einsum("...k,...kv->...v", k, S)
    return forget[..., None] * S + k[..., :, None] * (v - jnp.tanh(read))[..., None, :]


MATRIX = gj.Cell(
    fast_weights_init,
    fast_weights_project,
    gates=lambda params, u, S: u,
    update=fast_weights_update,
    output=lambda S: S.sum(-2),
    zero_state=lambda params: jnp.zeros((params.W_key.shape[-1], params.W_value.shape[-1]), FLOAT),
    name="matrix",
)


class Filters(NamedTuple):
    W: jax.Array
    U: jax.Array


def convolve(images, filters):
    """A convolution over the last three axes, of images with any leading axes."""
    flat = images.reshape(-1, *images.shape[-3:])
    out = jax.lax.conv_general_dilated(flat, filters, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out.reshape(*images.shape[:-1], -1)


def image_init(key, input_size, hidden_size):
    key_W, key_U = jax.random.split(key)
    draw = lambda k, n: jax.random.normal(k, (3, 3, n, hidden_size), FLOAT) / 4
    return Filters(draw(key_W, input_size), draw(key_U, hidden_size))


IMAGE = gj.Cell(
    image_init,
    project=lambda params, xs: convolve(xs, params.W),
    gates=lambda params, u, h: jnp.tanh(u + convolve(h, params.U)),
    update=lambda g, h: 0.5 * h + 0.5 * g,
    zero_state=lambda params: jnp.zeros((HEIGHT, WIDTH, params.U.shape[-1]), FLOAT),
    num_feature_axes=3,
    name="image",
)
CELLS = {"matrix": MATRIX, "image": IMAGE}
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
CONDITIONS = {"plain": {}, "lengths and resets": {"lengths": LENGTHS, "resets": RESETS}, "mask": {"mask": MASK}}


def draw(cell, batch=(B,)):
    """Draws params, xs, h0 and a state to reset to."""
    features = (D,) if cell is MATRIX else (HEIGHT, WIDTH, CHANNELS)
    params = cell.init(KEYS[0], features[-1], VALUE_SIZE if cell is MATRIX else FILTERS)
    xs = jax.random.normal(KEYS[1], (T, *batch, *features), FLOAT)
    h0 = normal_like(2, cell.initial_state(params, batch))
    return params, xs, h0, normal_like(3, cell.initial_state(params))


def loop(cell, params, xs, h0, reset_state, *, lengths=None, mask=None, resets=None):
    """Runs one sequence after the other in Python."""
    valid = np.ones((T, B), bool) if mask is None else mask
    valid = valid if lengths is None else valid & (np.arange(T)[:, None] < lengths)
    outputs, lasts = [], []
    for b in range(B):
        h, ys = h0[b], []
        for t in range(T):
            if valid[t, b]:
                h = reset_state if resets is not None and resets[t, b] else h
                h = cell.update(cell.gates(params, cell.project(params, xs[t, b]), h), h)
            ys.append(cell.output(h) * int(valid[t, b]))
        outputs.append(jnp.stack(ys))
        lasts.append(h)
    return jnp.stack(lasts), jnp.stack(outputs, 1)


@pytest.mark.derivative
@every_cell
@pytest.mark.parametrize("name", CONDITIONS)
def test_values_and_gradients_equal_those_of_a_loop(cell, name):
    conditions = CONDITIONS[name]
    *args, reset_state = draw(cell)

    def value_and_gradients(run):
        loss = lambda *args: sum(jnp.sin(2 * leaf).sum() for leaf in run(*args))
        return jax.jit(lambda args: (run(*args), jax.grad(loss, (0, 1, 2, 3))(*args)))((*args, reset_state))

    def unroll(derivative, params, xs, h0, reset_state):
        reset_state = reset_state if "resets" in conditions else None
        return gj.unroll(cell, params, xs, h0, reset_state=reset_state, derivative=derivative, **conditions)

    expected = value_and_gradients(partial(loop, cell, **conditions))
    for derivative in DERIVATIVES.values():
        assert_close(value_and_gradients(partial(unroll, derivative)), expected)


@every_cell
def test_layouts_windows_states_and_a_shared_h0_equal_the_loop(cell):
    params, xs, h0, shared = draw(cell)
    last, ys = loop(cell, params, xs, jnp.stack([shared] * B), None, lengths=LENGTHS)
    run = partial(gj.unroll, cell, params, lengths=LENGTHS)
    assert_close(run(xs, shared), (last, ys))
    assert_close(gj.unroll_truncated(cell, params, xs, shared, window=3, lengths=LENGTHS), (last, ys))
    batch_major = run(jnp.moveaxis(xs, 0, 1), shared, time_major=False)
    assert_close((batch_major[0], jnp.moveaxis(batch_major[1], 1, 0)), (last, ys))
    states = run(xs, h0, outputs="states")[1]
    assert states.shape == (T, *h0.shape)
    assert_close(jax.vmap(cell.output)(states)[: LENGTHS.min()], run(xs, h0)[1][: LENGTHS.min()])


@every_cell
def test_steps_with_resets_equal_the_loop(cell):
    params, xs, h, reset_state = draw(cell)
    expected = loop(cell, params, xs, h, reset_state, resets=RESETS)
    ys = []
    for t in range(T):
        h, y = gj.step(cell, params, h, xs[t], reset=RESETS[t], reset_state=reset_state)
        ys.append(y)
    assert_close((h, jnp.stack(ys)), expected)


@every_cell
def test_both_directions_and_stacks_carry_them(cell):
    params, xs, *_ = draw(cell)
    both = gj.bidirectional(cell, merge="sum")
    pair = gj.layers.BidirectionalParams(params, params)
    for b, length in enumerate(LENGTHS):
        one = xs[:length, b : b + 1]
        forward, backward = (gj.unroll(cell, params, x)[1] for x in (one, one[::-1]))
        ys = gj.unroll(both, pair, xs, lengths=LENGTHS)[1]
        assert_close(ys[:length, b : b + 1], forward + backward[::-1])
        assert not ys[length:, b].any()
    if cell is IMAGE:
        layers = gj.stack([cell, cell])
        stacked = layers.init(KEYS[4], CHANNELS, (FILTERS, 3))
        below = gj.unroll(cell, stacked[0], xs)[1]
        assert_close(gj.unroll(layers, stacked, xs)[1], gj.unroll(cell, stacked[1], below)[1])


@pytest.mark.derivative
@every_cell
def test_noise_and_a_traced_length_out_of_range_work_on_them(cell):
    params, xs, h0, _ = draw(cell)
    noisy = gj.zoneout(replace(cell, name="z"), 0.3)
    gradient = lambda how: jax.grad(
        lambda params: gj.unroll(noisy, params, xs, h0, key=KEYS[5], lengths=LENGTHS, derivative=how)[1].sum()
    )(params)
    assert_close(gradient(gj.CustomVJP()), gradient(gj.Autodiff()))
    _, ys = jax.jit(lambda lengths: gj.unroll(cell, params, xs, lengths=lengths))(np.array([T, T + 1, 2]))
    assert np.isnan(ys[:, 1]).all()
    assert np.isfinite(ys[:, [0, 2]]).all()


@every_cell
def test_a_state_of_another_shape_raises_and_names_its_shape(cell):
    params, xs, h0, _ = draw(cell)
    message = rf"h0: got .*expected shape \(3, {', '.join(map(str, h0.shape[1:]))}\) \(\*batch and \({h0.shape[1]}, .*broadcasts to it"
    assert_raises(lambda: gj.unroll(cell, params, xs, h0[..., :1, :1, None]), ValueError, message)

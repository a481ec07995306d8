"""States that are matrices or images, against the plain scan of steps.

`test_form_of_the_state` has a state of two arrays, of which one starts at -inf.
"""

import itertools
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import LENGTHS, MASK, RESETS
from tests.problems import B, D, T, assert_close, assert_raises, compiled, normal, normal_like, scan_of_step

FLOAT = jnp.result_type(float)
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
    return FastWeights(*(normal((60, i), input_size, size) for i, size in enumerate((KEY_SIZE, hidden_size, 1))))


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
    return Filters(normal(61, 3, 3, input_size, hidden_size) / 4, normal(62, 3, 3, hidden_size, hidden_size) / 4)


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
matrices = pytest.mark.parametrize("cell", [MATRIX, pytest.param(IMAGE, marks=pytest.mark.slow)], ids=CELLS.keys())
BY_DEFAULT = {("matrix", "CustomJVP"), ("image", "blocks")}
CONDITIONS = {"lengths": LENGTHS, "mask": MASK, "resets": RESETS}


def draw(cell):
    """Draws params, xs, h0 and a state to reset to."""
    features = (D,) if cell is MATRIX else (HEIGHT, WIDTH, CHANNELS)
    params = cell.init(None, features[-1], VALUE_SIZE if cell is MATRIX else FILTERS)
    reset_state = normal_like(3, jax.eval_shape(cell.initial_state, params))
    return params, normal(1, T, B, *features), normal(2, B, *reset_state.shape), reset_state


@pytest.mark.derivative
@pytest.mark.parametrize(
    ("name", "derivative"),
    [
        pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.slow)
        for case in itertools.product(CELLS, DERIVATIVES)
    ],
)
def test_values_and_gradients_equal_autodiff_of_the_plain_scan(name, derivative):
    cell = CELLS[name]

    def results(*args):
        def of(unroll):
            run = lambda params, xs, h0, reset: unroll(cell, params, xs, h0, reset_state=reset, **CONDITIONS)
            loss = lambda *args: sum(jnp.sin(2 * leaf).sum() for leaf in run(*args))
            return run(*args), jax.grad(loss, (0, 1, 2, 3))(*args)

        return [of(unroll) for unroll in (scan_of_step, partial(gj.unroll, derivative=DERIVATIVES[derivative]))]

    expected, measured = compiled(results, *draw(cell))
    assert_close(measured, expected)


@matrices
def test_layouts_windows_steps_states_and_a_shared_h0_equal_the_plain_scan(cell):
    def results(params, xs, h0, shared):
        run = partial(gj.unroll, cell, params, lengths=LENGTHS)
        batch_major = run(jnp.moveaxis(xs, 0, 1), shared, time_major=False)
        in_windows = gj.unroll_truncated(cell, params, xs, shared, window=3, lengths=LENGTHS)
        of_shared = scan_of_step(cell, params, xs, jnp.stack([shared] * B), lengths=LENGTHS)
        one = scan_of_step(cell, params, xs[:, 0], shared)
        step = lambda h, at_t: gj.step(cell, params, h, at_t[0], reset=at_t[1], reset_state=shared)
        with_resets = scan_of_step(cell, params, xs, h0, resets=RESETS, reset_state=shared)
        return (
            (run(xs, shared), of_shared),
            (in_windows, of_shared),
            ((batch_major[0], jnp.moveaxis(batch_major[1], 1, 0)), of_shared),
            (jax.tree.map(lambda leaf: leaf[0], of_shared)[0], one[0]),
            (run(xs, h0, outputs="states"), scan_of_step(cell, params, xs, h0, lengths=LENGTHS, outputs="states")),
            (jax.lax.scan(step, h0, (xs, RESETS)), with_resets),
        )

    for measured, expected in compiled(results, *draw(cell)):
        assert_close(measured, expected)


@every_cell
def test_both_directions_and_stacks_carry_them(cell):
    both = gj.bidirectional(cell, merge="sum")
    layers = gj.stack([cell, cell])

    def results(params, xs, h0, reset_state):
        pair, zeros = gj.layers.BidirectionalParams(params, params), jnp.zeros_like(h0)
        ways = [scan_of_step(cell, params, xs, zeros, lengths=LENGTHS, reverse=reverse)[1] for reverse in (False, True)]
        found = [(gj.unroll(both, pair, xs, lengths=LENGTHS)[1], sum(ways))]
        if cell is IMAGE:
            stacked = params, cell.init(None, FILTERS, 3)
            below = gj.unroll(cell, params, xs)[1]
            found.append((gj.unroll(layers, stacked, xs)[1], gj.unroll(cell, stacked[1], below)[1]))
        return found

    for measured, expected in compiled(results, *draw(cell)):
        assert_close(measured, expected)


@pytest.mark.derivative
@matrices
def test_noise_and_a_traced_length_out_of_range_work_on_them(cell):
    noisy = gj.zoneout(replace(cell, name="z"), 0.3)

    def results(lengths, params, xs, h0, reset_state):
        def gradient(how):
            options = {"key": jax.random.key(5), "lengths": LENGTHS, "derivative": how}
            return jax.grad(lambda params: gj.unroll(noisy, params, xs, h0, **options)[1].sum())(params)

        return gradient(gj.CustomVJP()), gradient(gj.Autodiff()), gj.unroll(cell, params, xs, lengths=lengths)[1]

    by_custom_vjp, by_autodiff, ys = compiled(results, np.array([T, T + 1, 2]), *draw(cell))
    assert_close(by_custom_vjp, by_autodiff)
    assert np.isnan(ys[:, 1]).all()
    assert np.isfinite(ys[:, [0, 2]]).all()


@every_cell
def test_a_state_of_another_shape_raises_and_names_its_shape(cell):
    params, xs, h0, _ = draw(cell)
    message = rf"h0: got .*expected shape \(3, {', '.join(map(str, h0.shape[1:]))}\) \(\*batch and \({h0.shape[1]}, .*broadcasts to it"
    assert_raises(lambda: gj.unroll(cell, params, xs, h0[..., :1, :1, None]), ValueError, message)

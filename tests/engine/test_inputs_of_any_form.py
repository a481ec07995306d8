"""Inputs that are pytrees, integers, booleans or images, against a loop over single sequences."""

import copy
import pickle
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import LENGTHS, RESETS
from tests.problems import B, D, H, T, assert_close, assert_raises, normal_like

FLOAT = jnp.result_type(float)
KEYS = jax.random.split(jax.random.key(8), 6)
DERIVATIVES = (gj.CustomVJP(), gj.CustomVJP(residuals="states", block_size=3), gj.CustomJVP(), gj.Autodiff())


class Observation(NamedTuple):
    value: jax.Array
    gap: jax.Array  # the time since the last step
    seen: jax.Array


class Params(NamedTuple):
    W: jax.Array
    U: jax.Array


def init(key, input_size, hidden_size):
    key_W, key_U = jax.random.split(key)
    draw = lambda k, *shape: jax.random.normal(k, shape, FLOAT) / 2
    return Params(draw(key_W, input_size, hidden_size), draw(key_U, hidden_size, hidden_size))


def timed_project(params, x):
    return jnp.where(x[2], x[0], 0.3) @ params.W, x[1]


def timed_gates(params, u, h):
    return jnp.tanh(u[0] + h @ params.U), jnp.exp(-jnp.abs(u[1]))[..., None]


def timed_update(g, h):
    return g[1] * h + (1 - g[1]) * g[0]


def token_project(params, token):
    return params.W[token]


def tanh_gates(params, u, h):
    return jnp.tanh(u + h @ params.U)


def keep_half(g, h):
    return 0.5 * h + 0.5 * g


def camera_project(params, x):
    return x["image"].sum((-3, -2)) @ params.W + params.W[x["action"]]


TIMED = gj.Cell(init, timed_project, timed_gates, timed_update, num_feature_axes=Observation(1, 0, 1), name="timed")
TUPLE = gj.Cell(init, timed_project, timed_gates, timed_update, num_feature_axes=(1, 0, 1), name="timed by a tuple")
TOKENS = gj.Cell(init, token_project, tanh_gates, keep_half, num_feature_axes=0, name="tokens")
CAMERA = gj.Cell(init, camera_project, tanh_gates, keep_half, num_feature_axes={"image": 3, "action": 0}, name="camera")
CELLS = {cell.name: cell for cell in (TIMED, TUPLE, TOKENS, CAMERA)}
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())


def inputs(cell, batch=(B,)):
    """Draws the inputs of a cell."""
    floats = lambda i, *shape: jax.random.normal(KEYS[i], (T, *batch, *shape), FLOAT)
    tokens = jax.random.randint(KEYS[4], (T, *batch), 0, D)
    if cell is TOKENS:
        return tokens
    if cell is CAMERA:
        return {"action": tokens, "image": floats(0, 2, 3, D)}
    timed = Observation(floats(0, D), floats(1), floats(2, D) > 0)
    return timed if cell is TIMED else tuple(timed)


def loop(cell, params, xs, *, lengths=None, resets=None, reverse=False):
    """Runs one sequence after the other in Python, from zeros."""
    lengths = np.full(B, T) if lengths is None else lengths
    outputs, lasts = [], []
    for b in range(B):
        h, ys = jnp.zeros(H, FLOAT), [jnp.zeros(H, FLOAT)] * T
        for t in reversed(range(lengths[b])) if reverse else range(lengths[b]):
            h = jnp.zeros(H, FLOAT) if resets is not None and resets[t, b] else h
            x = jax.tree.map(lambda leaf: leaf[t, b], xs)
            h = cell.update(cell.gates(params, cell.project(params, x), h), h)
            ys[t] = h
        outputs.append(jnp.stack(ys))
        lasts.append(h)
    return jnp.stack(lasts), jnp.stack(outputs, 1)


PARAMS = init(KEYS[3], D, H)
CONDITIONS = {"lengths": LENGTHS, "resets": RESETS}


@every_cell
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("conditions", [{}, CONDITIONS], ids=["plain", "lengths and resets"])
def test_values_equal_a_loop(cell, reverse, conditions):
    xs = inputs(cell)
    expected = loop(cell, PARAMS, xs, reverse=reverse, **conditions)
    assert_close(gj.unroll(cell, PARAMS, xs, reverse=reverse, **conditions), expected)
    assert_close(jax.jit(partial(gj.unroll, cell, reverse=reverse, **conditions))(PARAMS, xs), expected)


@every_cell
def test_the_batch_major_layout_and_windows_give_the_same_values(cell):
    xs = inputs(cell)
    expected = loop(cell, PARAMS, xs, **CONDITIONS)
    turned = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), xs)
    options = {"lengths": LENGTHS, "resets": RESETS.T, "time_major": False}
    h_last, ys = gj.unroll(cell, PARAMS, turned, **options)
    assert_close((h_last, jnp.moveaxis(ys, 1, 0)), expected)
    h_last, ys = gj.unroll_truncated(cell, PARAMS, turned, window=3, **options)
    assert_close((h_last, jnp.moveaxis(ys, 1, 0)), expected)
    assert_close(gj.unroll_truncated(cell, PARAMS, xs, window=3, **CONDITIONS), expected)


@every_cell
def test_steps_and_several_batch_axes_equal_unroll(cell):
    xs = inputs(cell, batch=(2, B))
    h, ys = cell.initial_state(PARAMS, (2, B)), []
    for t in range(T):
        h, y = gj.step(cell, PARAMS, h, jax.tree.map(lambda leaf: leaf[t], xs))
        ys.append(y)
    assert_close((h, jnp.stack(ys)), gj.unroll(cell, PARAMS, xs))
    one = jax.tree.map(lambda leaf: leaf[:, 1], xs)
    assert_close(jnp.stack(ys)[:, 1], loop(cell, PARAMS, one)[1])


@pytest.mark.derivative
@every_cell
def test_gradients_equal_autodiff_of_the_loop(cell):
    xs = inputs(cell)

    def gradients(run):
        loss = lambda params, xs: sum(jnp.sin(3 * leaf).sum() for leaf in jax.tree.leaves(run(params, xs)))
        of_params, of_xs = jax.jit(jax.grad(loss, (0, 1), allow_int=True))(PARAMS, xs)
        return of_params, [leaf for leaf in jax.tree.leaves(of_xs) if leaf.dtype == FLOAT]

    expected = gradients(partial(loop, cell, **CONDITIONS))
    for derivative in DERIVATIVES:
        assert_close(gradients(partial(gj.unroll, cell, derivative=derivative, **CONDITIONS)), expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


@every_cell
def test_padding_of_any_kind_reaches_nothing(cell):
    """NaN in floats, and tokens that no table has."""
    xs = inputs(cell)
    padded = np.arange(T)[:, None] >= LENGTHS

    def fill(leaf):
        wrong = jnp.nan if leaf.dtype == FLOAT else leaf.dtype.type(1) if leaf.dtype == bool else leaf.dtype.type(10**6)
        return jnp.where(padded.reshape(T, B, *(1,) * (leaf.ndim - 2)), wrong, leaf)

    def run(xs):
        return jax.value_and_grad(lambda params: gj.unroll(cell, params, xs, lengths=LENGTHS)[1].sum())(PARAMS)

    assert_close(run(jax.tree.map(fill, xs)), run(xs), tol=0)


@every_cell
def test_stacks_and_both_directions_take_the_inputs_of_their_first_cells(cell):
    xs = inputs(cell)
    above = gj.lstm().init(KEYS[5], H, H, dtype=FLOAT)
    _, ys = loop(cell, PARAMS, xs, **CONDITIONS)
    _, expected = gj.unroll(gj.lstm(), above, ys, **CONDITIONS)
    layers = gj.stack([cell, gj.lstm()])
    assert layers.num_feature_axes == cell.num_feature_axes
    assert_close(gj.unroll(layers, (PARAMS, above), xs, **CONDITIONS)[1], expected)
    both = gj.bidirectional(cell)
    _, backward = loop(cell, PARAMS, xs, lengths=LENGTHS, reverse=True)
    _, forward = loop(cell, PARAMS, xs, lengths=LENGTHS)
    params = gj.layers.BidirectionalParams(PARAMS, PARAMS)
    assert_close(gj.unroll(both, params, xs, lengths=LENGTHS)[1], jnp.concatenate([forward, backward], -1))


@pytest.mark.derivative
@every_cell
def test_zoneout_and_dropout_of_the_state_take_them_too(cell):
    xs, key = inputs(cell), jax.random.key(4)
    noisy = gj.zoneout(gj.variational_dropout(cell, state=0.3), 0.2)
    gradient = lambda how: jax.grad(
        lambda params: gj.unroll(noisy, params, xs, key=key, derivative=how, **CONDITIONS)[1].sum()
    )(PARAMS)
    assert_close(gradient(gj.CustomVJP()), gradient(gj.Autodiff()))
    first = jax.tree.map(lambda leaf: leaf[0], xs)
    one = jax.tree.map(lambda leaf: leaf[:1], xs)
    h = cell.initial_state(PARAMS, B)
    pair = tuple(jax.random.split(key))
    assert_close(gj.step(noisy, PARAMS, h, first, key=pair)[1], gj.unroll(noisy, PARAMS, one, key=pair)[1][0])


@every_cell
def test_vmap_over_models_equals_a_loop(cell):
    xs = inputs(cell)
    models = [normal_like(key, PARAMS) for key in KEYS[:3]]
    together = jax.vmap(lambda params: gj.unroll(cell, params, xs, **CONDITIONS)[1])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    for i, params in enumerate(models):
        assert_close(together(stacked)[i], loop(cell, params, xs, **CONDITIONS)[1])


@every_cell
def test_a_cell_with_feature_axes_is_static_and_survives_copies(cell):
    for same in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert same == cell
        assert hash(same) == hash(cell)
    assert jax.tree.leaves(cell) == []


def test_floats_are_cast_to_the_dtype_of_params_and_other_leaves_stay():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), PARAMS)
    xs = inputs(TIMED)
    assert gj.unroll(TIMED, half, xs)[1].dtype == jnp.float16
    assert gj.step(TIMED, half, jnp.zeros((B, H), jnp.float16), jax.tree.map(lambda leaf: leaf[0], xs))[1].dtype == jnp.float16


X = inputs(TIMED)
G = gj.gru()
G_PARAMS = G.init(KEYS[0], D, H, dtype=FLOAT)
BAD = {
    "another structure": (lambda: gj.unroll(TIMED, PARAMS, tuple(X)), TypeError, r"xs: got a tuple of 3.*expected the structure of num_feature_axes=Observation\(value=1, gap=0, seen=1\) of cell timed"),
    "an array too few": (lambda: gj.unroll(TUPLE, PARAMS, X[:2]), TypeError, r"xs: got a tuple of 2.*num_feature_axes=\(1, 0, 1\)"),
    "another key": (lambda: gj.unroll(CAMERA, PARAMS, {"image": X.value}), TypeError, r"xs: got a dict with the keys image, expected the structure of num_feature_axes=\{"),
    "an array of fewer steps": (lambda: gj.unroll(TIMED, PARAMS, X._replace(gap=X.gap[1:])), ValueError, r"xs\.gap: got the leading axes \(6, 3\).*expected \(7, 3\), those of xs\.value"),
    "a missing batch axis": (lambda: gj.unroll(TIMED, PARAMS, X._replace(seen=X.seen[:, 0])), ValueError, r"xs\.seen: got the leading axes \(7,\).*expected \(7, 3\)"),
    "too few axes": (lambda: gj.unroll(CAMERA, PARAMS, {"image": X.value, "action": X.gap}), ValueError, r"xs\['image'\]: got shape \(7, 3, 4\), expected \(T, \*batch\).*3 axes of features, as num_feature_axes says"),
    "a number": (lambda: gj.unroll(TIMED, PARAMS, X._replace(gap=1.0)), TypeError, r"xs\.gap: got float, expected an array"),
    "a masked array": (lambda: gj.unroll(TIMED, PARAMS, X._replace(gap=np.ma.masked_array(X.gap, True))), TypeError, r"xs\.gap: got a NumPy masked array"),
    "nothing": (lambda: gj.unroll(TOKENS, PARAMS, ()), TypeError, r"xs: got tuple without arrays"),
    "a tuple for a built-in cell": (lambda: gj.unroll(G, G_PARAMS, (X.value, X.gap)), TypeError, r"xs: got tuple, expected an array"),
    "several arrays above the first layer": (lambda: gj.stack([gj.gru(), TIMED]), TypeError, r"cells\[1\]: got timed, which takes inputs of several arrays"),
    "two forms of inputs": (lambda: gj.bidirectional(TIMED, gj.gru()), ValueError, r"backward_cell: got num_feature_axes=1, expected Observation"),
    "negative axes": (lambda: gj.Cell(init, token_project, tanh_gates, keep_half, num_feature_axes=-1), TypeError, r"num_feature_axes: got -1, expected"),
    "a list of axes": (lambda: gj.Cell(init, token_project, tanh_gates, keep_half, num_feature_axes=[1, 0]), TypeError, r"num_feature_axes: got \[1, 0\], expected"),
    "steps of other batches": (lambda: gj.step(TIMED, PARAMS, jnp.zeros((B, H)), Observation(X.value[0], X.gap[0, :2], X.seen[0])), ValueError, r"x\.gap: got the leading axes \(2,\).*share \(\*batch,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs_raise_and_name_the_array(case):
    assert_raises(*BAD[case])

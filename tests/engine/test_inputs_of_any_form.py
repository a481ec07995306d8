"""Inputs that are pytrees, integers, booleans or images, against the plain scan of steps."""

import copy
import itertools
import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import LENGTHS, RESETS
from tests.problems import B, H, T, assert_close, assert_raises, compiled, normal_like, problem, scan_of_step
from tests.unusual_cells import (
    CAMERA,
    FLOAT,
    INPUT_CELLS,
    PARAMS,
    TIMED,
    TOKENS,
    TUPLE,
    Observation,
    init,
    inputs,
    keep_half,
    tanh_gates,
    token_project,
)

DERIVATIVES = (gj.CustomVJP(), gj.CustomVJP(residuals="states", block_size=3), gj.CustomJVP(), gj.Autodiff())
CONDITIONS = {"lengths": LENGTHS, "resets": RESETS}
every_cell = pytest.mark.parametrize("cell", INPUT_CELLS.values(), ids=INPUT_CELLS.keys())


def some_cells(*by_default):
    """Parametrises by all cells, of which those that are not named are slow."""
    return pytest.mark.parametrize(
        "cell",
        [
            pytest.param(cell, id=name, marks=() if cell in by_default else pytest.mark.slow)
            for name, cell in INPUT_CELLS.items()
        ],
    )


# A NamedTuple and a dict with an image and a token; the slow tests repeat all for a tuple and for tokens alone.
two_cells = some_cells(TIMED, CAMERA)


def at(i, tree):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def zeros(*batch):
    return jnp.zeros((*batch, H), FLOAT)


GIVEN = {"lengths and resets": (CONDITIONS, False), "lengths and resets, reverse": (CONDITIONS, True), "plain": ({}, False)}
BY_DEFAULT = {("tokens", "lengths and resets"), ("timed", "lengths and resets, reverse")}


@pytest.mark.derivative
@pytest.mark.parametrize(
    ("name", "given"),
    [
        pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.slow)
        for case in itertools.product(INPUT_CELLS, GIVEN)
    ],
)
def test_values_and_gradients_equal_autodiff_of_the_plain_scan(name, given):
    cell, (conditions, reverse) = INPUT_CELLS[name], GIVEN[given]
    xs, options = inputs(cell), {"reverse": reverse, **conditions}

    def results(params, xs):
        def of(run):
            loss = lambda params, xs: sum(jnp.sin(3 * leaf).sum() for leaf in jax.tree.leaves(run(params, xs)))
            of_params, of_xs = jax.grad(loss, (0, 1), allow_int=True)(params, xs)
            return run(params, xs), of_params, [leaf for leaf in jax.tree.leaves(of_xs) if leaf.dtype == FLOAT]

        scan = lambda params, xs: scan_of_step(cell, params, xs, zeros(B), **options)
        ours = [partial(gj.unroll, cell, derivative=derivative, **options) for derivative in DERIVATIVES]
        return [of(run) for run in (scan, *(ours if conditions and not reverse else ours[:2]))]

    expected, *measured = compiled(results, PARAMS, xs)
    for result in measured:
        assert_close(result, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


@some_cells(CAMERA)
def test_layouts_windows_models_and_single_sequences_give_the_same_values(cell):
    xs = inputs(cell)
    turned = jax.tree.map(lambda leaf: jnp.asarray(np.moveaxis(leaf, 0, 1)), xs)
    models = jax.tree.map(lambda *leaves: jnp.stack(leaves), PARAMS, *(normal_like(seed, PARAMS) for seed in range(2)))

    def results(models, xs, turned):
        params = at(0, models)
        options = {"lengths": LENGTHS, "resets": RESETS.T, "time_major": False}
        batch_major = [
            gj.unroll(cell, params, turned, **options),
            gj.unroll_truncated(cell, params, turned, window=3, **options),
        ]
        expected = [scan_of_step(cell, at(i, models), xs, zeros(B), **CONDITIONS) for i in range(3)]
        by_models = jax.vmap(lambda params: gj.unroll(cell, params, xs, **CONDITIONS))(models)
        alone = scan_of_step(cell, params, at((slice(None), 1), xs), zeros(), lengths=LENGTHS[1], resets=RESETS[:, 1])
        return batch_major, gj.unroll_truncated(cell, params, xs, window=3, **CONDITIONS), by_models, expected, alone

    batch_major, in_windows, by_models, expected, alone = compiled(results, models, xs, turned)
    for h_last, ys in batch_major:
        assert_close((h_last, np.moveaxis(ys, 1, 0)), expected[0])
    assert_close(in_windows, expected[0])
    assert_close(by_models, jax.tree.map(lambda *leaves: np.stack(leaves), *expected))
    assert_close(alone, (expected[0][0][1], expected[0][1][:, 1]))


@two_cells
def test_steps_and_several_batch_axes_equal_unroll(cell):
    xs = inputs(cell, batch=(2, B))

    def results(xs):
        by_step = jax.lax.scan(lambda h, x: gj.step(cell, PARAMS, h, x), zeros(2, B), xs)
        return by_step, gj.unroll(cell, PARAMS, xs), scan_of_step(cell, PARAMS, at((slice(None), 1), xs), zeros(B))[1]

    by_step, by_unroll, ys_of_one = compiled(results, xs)
    assert_close(by_step, by_unroll)
    assert_close(by_step[1][:, 1], ys_of_one)


@two_cells
def test_padding_of_any_kind_reaches_nothing(cell):
    """NaN in floats, and tokens that no table has."""
    xs = inputs(cell)
    padded = np.arange(T)[:, None] >= LENGTHS

    def fill(leaf):
        wrong = np.nan if leaf.dtype == FLOAT else leaf.dtype.type(1) if leaf.dtype == bool else leaf.dtype.type(10**6)
        return np.where(padded.reshape(T, B, *(1,) * (leaf.ndim - 2)), wrong, leaf)

    @jax.jit
    def run(xs):
        return jax.value_and_grad(lambda params: gj.unroll(cell, params, xs, lengths=LENGTHS)[1].sum())(PARAMS)

    assert_close(run(jax.tree.map(fill, xs)), run(xs), tol=0)


@some_cells(TIMED)
def test_stacks_and_both_directions_take_the_inputs_of_their_first_cells(cell):
    above, layers, both = problem(gj.lstm(), input_size=H).params, gj.stack([cell, gj.lstm()]), gj.bidirectional(cell)
    assert layers.num_feature_axes == cell.num_feature_axes

    def results(xs):
        ys = scan_of_step(cell, PARAMS, xs, zeros(B), **CONDITIONS)[1]
        in_stack = gj.unroll(layers, (PARAMS, above), xs, **CONDITIONS)[1], gj.unroll(gj.lstm(), above, ys, **CONDITIONS)[1]
        ways = [scan_of_step(cell, PARAMS, xs, zeros(B), lengths=LENGTHS, reverse=reverse)[1] for reverse in (False, True)]
        params = gj.layers.BidirectionalParams(PARAMS, PARAMS)
        return in_stack, (gj.unroll(both, params, xs, lengths=LENGTHS)[1], jnp.concatenate(ways, -1))

    for measured, expected in compiled(results, inputs(cell)):
        assert_close(measured, expected)


@pytest.mark.derivative
@some_cells(CAMERA)
def test_zoneout_and_dropout_of_the_state_take_them_too(cell):
    key = jax.random.key(4)
    noisy = gj.zoneout(gj.variational_dropout(cell, state=0.3), 0.2)

    def results(xs):
        def gradient(how):
            run = lambda params: gj.unroll(noisy, params, xs, key=key, derivative=how, **CONDITIONS)[1].sum()
            return jax.grad(run)(PARAMS)

        pair = tuple(jax.random.split(key))
        by_step = gj.step(noisy, PARAMS, zeros(B), at(0, xs), key=pair)[1]
        by_unroll = gj.unroll(noisy, PARAMS, at(slice(1), xs), key=pair)[1][0]
        return (gradient(gj.CustomVJP()), gradient(gj.Autodiff())), (by_step, by_unroll)

    for measured, expected in compiled(results, inputs(cell)):
        assert_close(measured, expected)


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
G_PARAMS = problem(G).params
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

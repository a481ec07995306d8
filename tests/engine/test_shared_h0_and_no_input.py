"""An `h0` that all sequences share, and autonomous networks, which have no input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests import reference
from tests.conditions import ALL_THREE, LENGTHS, RESETS, random_reset_state
from tests.problems import (
    CELLS,
    DISTINCT,
    B,
    D,
    H,
    T,
    assert_close,
    assert_raises,
    compiled,
    every_cell,
    normal,
    normal_like,
    problem,
    scan_of_step,
    small_like,
)

DERIVATIVES = {"CustomVJP": gj.CustomVJP(), "CustomJVP": gj.CustomJVP(), "Autodiff": gj.Autodiff()}
KEY = jax.random.key(5)
LAYERS = {
    "lstm": gj.lstm(),
    "stack": gj.stack([gj.gru(), gj.lstm()]),
    "bidirectional": gj.bidirectional(gj.gru(), gj.elman()),
}
every_layer = pytest.mark.parametrize("cell", LAYERS.values(), ids=LAYERS.keys())


def layer_problem(cell, input_size=D):
    """Draws params, xs, and an h0 without batch axes."""
    init = lambda key: cell.init(key, input_size, H, dtype=jnp.result_type(float))
    params = small_like(0, jax.eval_shape(init, KEY))
    return params, normal(1, T, B, input_size), normal_like(2, jax.eval_shape(cell.initial_state, params))


def for_each_sequence(h0):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * B), h0)


@pytest.mark.parametrize(
    ("name", "reverse"),
    [
        ("stack", False),
        ("bidirectional", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("stack", True), ("bidirectional", False), ("lstm", False), ("lstm", True))
        ),
    ],
)
def test_an_h0_without_batch_axes_is_shared_by_all_sequences(name, reverse):
    cell = LAYERS[name]
    params, xs, h0 = layer_problem(cell)

    def results(h0):
        run = partial(gj.unroll, cell, params, xs, reverse=reverse, **ALL_THREE)
        one_row = jax.tree.map(lambda leaf: leaf[None], h0)
        return run(h0), run(for_each_sequence(h0)), run(one_row), run()

    of_shared, of_each, of_one_row, of_zeros = compiled(results, h0)
    assert_close(of_shared, of_each, tol=0)
    assert_close(of_shared, of_one_row, tol=0)
    assert (of_shared[1] != of_zeros[1]).any()


@pytest.mark.derivative
@pytest.mark.parametrize("name", ["lstm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bidirectional", "stack"))])
@pytest.mark.parametrize(
    "derivative", [pytest.param(how, marks=() if how == "CustomVJP" else pytest.mark.slow) for how in DERIVATIVES]
)
def test_the_gradient_of_a_shared_h0_is_the_sum_over_the_sequences(name, derivative):
    cell = LAYERS[name]
    params, xs, h0 = layer_problem(cell)

    def results(h0):
        run = partial(gj.unroll, cell, params, xs, derivative=DERIVATIVES[derivative], **ALL_THREE)
        return [jax.grad(lambda h0: jnp.sin(run(h0)[1]).sum())(h) for h in (h0, for_each_sequence(h0))]

    of_shared, of_each = compiled(results, h0)
    assert_close(of_shared, jax.tree.map(lambda leaf: leaf.sum(0), of_each))


def test_a_shared_h0_works_in_windows_and_in_batch_major_layout():
    cell = gj.lstm()
    params, xs, h0 = layer_problem(cell)

    def results(xs, h0):
        in_windows = gj.unroll_truncated(cell, params, xs, h0, window=3, lengths=LENGTHS)
        batch_major = gj.unroll(cell, params, jnp.moveaxis(xs, 0, 1), h0, lengths=LENGTHS, time_major=False)
        return gj.unroll(cell, params, xs, h0, lengths=LENGTHS), in_windows, batch_major

    expected, in_windows, (h_last, ys) = compiled(results, xs, h0)
    assert_close(in_windows, expected)
    assert_close((h_last, np.moveaxis(ys, 1, 0)), expected, tol=0)


def test_a_shared_h0_has_the_dtype_and_the_units_of_the_state():
    cell = gj.gru()
    params, xs, h0 = layer_problem(cell)
    assert_raises(lambda: gj.unroll(cell, params, xs, h0[:3]), ValueError, r"h0: got .*\(3,\).*broadcasts to it such as \(5,\)")
    with_half = h0.astype(jnp.float16)
    assert_raises(lambda: gj.unroll(cell, params, xs, with_half), TypeError, r"h0: got dtype float16, expected float")


@every_cell
def test_a_network_without_input_has_no_input_weights_to_draw(cell):
    params = cell.init(KEY, 0, H, kernel_init=jax.nn.initializers.he_normal())
    for field, leaf in params._asdict().items():
        assert leaf is None or leaf.shape == {"W": (0, H), "U": (H, H)}.get(field[0], (H,))
    assert_raises(lambda: gj.unroll(cell, params, jnp.ones((T, B, 1), jnp.float32)), ValueError, r"xs: got 1 features")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in DISTINCT else pytest.mark.slow) for name in CELLS])
def test_a_network_without_input_equals_a_numpy_loop(name, needs_x64):
    cell = CELLS[name]
    p = problem(cell, input_size=0)
    reset_state = random_reset_state(cell, p.params)
    expected = reference.unroll(name, p.params, p.xs, p.h0, reset_state=reset_state, **ALL_THREE)[:2]
    measured = gj.unroll(cell, p.params, p.xs, p.h0, reset_state=reset_state, **ALL_THREE)
    for part, true in zip(jax.tree.leaves(measured), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(part, true, rtol=1e-12, atol=1e-13)


@pytest.mark.derivative
@pytest.mark.parametrize(
    "cell",
    [pytest.param(CELLS[name], id=name, marks=() if name == "gru" else pytest.mark.slow) for name in DISTINCT],
)
@pytest.mark.parametrize(
    "derivatives",
    [("CustomVJP", "CustomJVP"), pytest.param(("Autodiff", "blocks"), marks=pytest.mark.slow)],
    ids=", ".join,
)
def test_a_network_without_input_has_the_gradients_of_autodiff(cell, derivatives):
    p = problem(cell, input_size=0)

    def gradient(run, *args):
        loss = lambda params, h0: sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(run(params, p.xs, h0, resets=RESETS)))
        return jax.grad(loss, (0, 1))(*args)

    every = DERIVATIVES | {"blocks": gj.CustomVJP(residuals="states", block_size=3)}
    runs = partial(scan_of_step, cell), *(partial(gj.unroll, cell, derivative=every[name]) for name in derivatives)
    expected, *measured = compiled(lambda *args: [gradient(run, *args) for run in runs], p.params, p.h0)
    for result in measured:
        assert_close(result, expected)


@every_layer
def test_layers_without_input_run_and_step(cell):
    params, xs, h0 = layer_problem(cell, input_size=0)
    _, ys = gj.unroll(cell, params, xs, h0)
    assert ys.shape[:2] == (T, B)
    assert np.isfinite(ys).all()
    assert np.diff(ys, axis=0).any(0).all()  # it moves by itself
    if cell is not LAYERS["bidirectional"]:
        step = partial(gj.step, cell, params)
        assert_close(compiled(lambda h0: jax.lax.scan(step, for_each_sequence(h0), xs)[1], h0), ys)


def test_a_network_without_input_works_in_half_precision_products():
    cell = gj.gru()
    params, xs, h0, _ = problem(cell, input_size=0, dtype=jnp.float32)
    run = lambda params, dtype: gj.unroll(cell, params, xs, h0, compute_dtype=dtype)[1]
    gradient = jax.grad(lambda params: run(params, jnp.bfloat16).sum())
    lowered, plain, grads = compiled(lambda params: (run(params, jnp.bfloat16), run(params, None), gradient(params)), params)
    assert_close(lowered, plain, tol=0.05)
    assert grads.W_z.shape == (0, H)
    assert np.isfinite(grads.U_z).all()

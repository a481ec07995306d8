"""No choice of block size or residuals changes a value or a gradient.

`test_option_pairs` combines them with every cell, dtype and option.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gru_jax as gj
from gru_jax._engine.blocks import scan_blocks
from tests.conditions import ALL_THREE, random_reset_state
from tests.problems import (
    CELLS,
    T,
    assert_close,
    compiled,
    gradients,
    normal_like,
    problem,
    scan_of_step,
    small_like,
    without_derivation,
)

pytestmark = pytest.mark.derivative


WAYS = {"forward": False, "reverse": True}
BY_DEFAULT = {("gru", "all", "reverse"), ("gru", "last", "reverse")}


@pytest.mark.parametrize("derived", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["derived", "local"])
@pytest.mark.parametrize(
    ("name", "outputs", "way"),
    [
        pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.slow)
        for case in itertools.product(("gru", "lstm_peephole"), ("all", "last"), WAYS)
    ],
)
def test_blocks_and_residuals_change_no_value_and_no_gradient(name, outputs, way, derived, needs_x64):
    cell, reverse = CELLS[name], WAYS[way]
    tested = cell if derived else without_derivation(cell)
    options = {"outputs": outputs, "reverse": reverse, **ALL_THREE}
    p = problem(cell)
    out = jax.eval_shape(partial(gj.unroll, cell, outputs=outputs), p.params, p.xs, p.h0)
    p = p._replace(params=(p.params, random_reset_state(cell, p.params)), cotangents=normal_like(5, out))

    def run(unroll, params_and_reset_state, xs, h0):
        params, reset_state = params_and_reset_state
        return unroll(params, xs, h0, reset_state=reset_state, **options)

    choices = (3, "auto"), (T - 1, "gates"), (1, "states")
    derivatives = [gj.CustomVJP(residuals=residuals, block_size=block_size) for block_size, residuals in choices]
    unrolls = partial(scan_of_step, cell), *(partial(gj.unroll, tested, derivative=each) for each in derivatives)
    expected, *measured = compiled(lambda p: [gradients(partial(run, unroll), p) for unroll in unrolls], p)
    for result in measured:
        assert_close(result, expected)


@pytest.mark.parametrize("residuals", ["states", pytest.param("gates", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind",
    ["vmap of params and xs", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("vmap of xs", "second derivative"))],
)
def test_second_derivatives_and_vmap_through_blocks_equal_autodiff(kind, residuals, needs_x64):
    cell, p = gj.gru(), problem(gj.gru())
    loss = lambda derivative, params, xs: jnp.sum(gj.unroll(cell, params, xs, p.h0, derivative=derivative)[1] ** 3)
    blocked = gj.CustomVJP(residuals=residuals, block_size=3)
    direction = normal_like(8, p.params)

    def results(derivative):
        along = lambda t: loss(derivative, jax.tree.map(lambda a, b: a + t * b, p.params, direction), p.xs)
        if kind == "second derivative":
            return jax.grad(jax.grad(along))(0.3)
        axis = 0 if "params" in kind else None
        params = p.params if axis is None else jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), p.params)
        return jax.vmap(jax.grad(partial(loss, derivative)), in_axes=(axis, 0))(params, jnp.stack([p.xs, 2 * p.xs]))

    assert_close(*compiled(lambda: [results(derivative) for derivative in (blocked, gj.Autodiff())]))


@pytest.mark.slow
def test_blocks_in_a_stack_with_a_bidirectional_layer_equal_autodiff(needs_x64):
    layers = gj.stack([gj.bidirectional(gj.gru()), gj.lstm()])
    params = small_like(0, jax.eval_shape(lambda key: layers.init(key, 4, 5, dtype=jnp.float64), jax.random.key(0)))
    xs, derivatives = problem(gj.gru()).xs, (gj.CustomVJP(block_size=3, residuals="gates"), gj.Autodiff())
    loss = lambda params, derivative: jnp.sum(gj.unroll(layers, params, xs, derivative=derivative)[1] ** 2)
    assert_close(*compiled(lambda params: [jax.grad(loss)(params, each) for each in derivatives], params))


NOISY = {"zoneout": gj.zoneout(gj.gru(), 0.3), "dropout": gj.variational_dropout(gj.gru(), inputs=0.3, state=0.4)}


@pytest.mark.parametrize(
    ("name", "residuals"),
    [
        ("dropout", "states"),
        *(pytest.param("zoneout", residuals, marks=pytest.mark.slow) for residuals in ("states", "gates")),
        pytest.param("dropout", "gates", marks=pytest.mark.slow),
    ],
)
def test_blocks_of_a_noisy_cell_see_the_same_noise(name, residuals, needs_x64):
    cell, plain = NOISY[name], problem(gj.gru())
    key, derivatives = jax.random.key(2), (gj.CustomVJP(block_size=3, residuals=residuals), gj.Autodiff())
    loss = lambda params, each: jnp.sum(gj.unroll(cell, params, plain.xs, key=key, derivative=each)[1] ** 2)
    assert_close(*compiled(lambda params: [jax.grad(loss)(params, each) for each in derivatives], plain.params))


@given(st.integers(0, 40), st.integers(1, 45), st.booleans())
@settings(max_examples=12, deadline=None)
def test_scan_blocks_equals_a_loop_over_its_steps(steps, block_size, reverse):
    """Compares a recurrence in int32 that also outputs the number of each block."""
    xs = np.arange(1, steps + 1, dtype=np.int32)

    def body(carry, over_time, number):
        carry, sums = jax.lax.scan(lambda c, x: (2 * c + x, 2 * c + x), carry, over_time, reverse=reverse)
        return carry, sums, number

    blocks = max(-(-steps // block_size), 1)
    run = lambda xs: scan_blocks(body, jnp.int32(1), xs, jnp.arange(blocks), block_size, reverse=reverse)
    carry, sums, numbers = compiled(run, xs)
    expected, c = [], 1
    for x in xs[::-1] if reverse else xs:
        c = (2 * c + int(x)) % 2**32
        expected.append(c)
    assert sums.astype(np.uint32).tolist() == (expected[::-1] if reverse else expected)
    assert int(carry.astype(np.uint32)) == c
    assert numbers.tolist() == list(range(blocks))

"""No choice of block size or residuals changes a value or a gradient.

`test_option_pairs` combines them with every cell, dtype and option.
"""

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
from tests.problems import T, assert_close, gradients, normal_like, problem, scan_of_step, without_derivation

pytestmark = pytest.mark.derivative


@pytest.mark.parametrize("derived", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["derived", "local"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("outputs", ["all", "last"])
@pytest.mark.parametrize("cell", [gj.gru(), gj.lstm(peephole=True)], ids=["gru", "lstm"])
def test_blocks_and_residuals_change_no_value_and_no_gradient(cell, outputs, reverse, derived, needs_x64):
    tested = cell if derived else without_derivation(cell)
    options = {"outputs": outputs, "reverse": reverse, **ALL_THREE}
    p = problem(cell)
    out = jax.eval_shape(partial(gj.unroll, cell, outputs=outputs), p.params, p.xs, p.h0)
    p = p._replace(params=(p.params, random_reset_state(cell, p.params)), cotangents=normal_like(5, out))

    def run(unroll, params_and_reset_state, xs, h0):
        params, reset_state = params_and_reset_state
        return unroll(params, xs, h0, reset_state=reset_state, **options)

    expected = jax.jit(partial(gradients, partial(run, partial(scan_of_step, cell))))(p)
    for block_size, residuals in ((3, "auto"), (T - 1, "gates"), (1, "states")):
        derivative = gj.CustomVJP(residuals=residuals, block_size=block_size)
        unroll = partial(gj.unroll, tested, derivative=derivative)
        assert_close(jax.jit(partial(gradients, partial(run, unroll)))(p), expected)


@pytest.mark.parametrize("residuals", ["states", pytest.param("gates", marks=pytest.mark.slow)])
def test_second_derivatives_and_vmap_through_blocks_equal_autodiff(residuals, needs_x64):
    cell, p = gj.gru(), problem(gj.gru())
    loss = lambda derivative, params, xs: jnp.sum(gj.unroll(cell, params, xs, p.h0, derivative=derivative)[1] ** 3)
    blocked = gj.CustomVJP(residuals=residuals, block_size=3)
    direction = normal_like(8, p.params)

    def second(derivative):
        along = lambda t: loss(derivative, jax.tree.map(lambda a, b: a + t * b, p.params, direction), p.xs)
        return jax.jit(jax.grad(jax.grad(along)))(0.3)

    assert_close(second(blocked), second(gj.Autodiff()))
    many = jnp.stack([p.xs, 2 * p.xs])
    for axis in (None, 0):
        params = p.params if axis is None else jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), p.params)
        mapped = lambda derivative: jax.jit(jax.vmap(jax.grad(partial(loss, derivative)), in_axes=(axis, 0)))(params, many)
        assert_close(mapped(blocked), mapped(gj.Autodiff()))


def test_blocks_in_a_stack_with_a_bidirectional_layer_equal_autodiff(needs_x64):
    layers = gj.stack([gj.bidirectional(gj.gru()), gj.lstm()])
    params = layers.init(jax.random.key(0), 4, 5, dtype=jnp.float64)
    xs = problem(gj.gru()).xs

    def gradient(derivative):
        return jax.jit(jax.grad(lambda p: jnp.sum(gj.unroll(layers, p, xs, derivative=derivative)[1] ** 2)))(params)

    assert_close(gradient(gj.CustomVJP(block_size=3, residuals="gates")), gradient(gj.Autodiff()))


@pytest.mark.parametrize("residuals", ["states", "gates"])
@pytest.mark.parametrize(
    "cell", [gj.zoneout(gj.gru(), 0.3), gj.variational_dropout(gj.gru(), inputs=0.3, state=0.4)], ids=["zoneout", "dropout"]
)
def test_blocks_of_a_noisy_cell_see_the_same_noise(cell, residuals, needs_x64):
    plain = problem(gj.gru())

    def gradient(derivative):
        run = partial(gj.unroll, cell, key=jax.random.key(2), derivative=derivative)
        return jax.jit(jax.grad(lambda params: jnp.sum(run(params, plain.xs)[1] ** 2)))(plain.params)

    assert_close(gradient(gj.CustomVJP(block_size=3, residuals=residuals)), gradient(gj.Autodiff()))


@given(st.integers(0, 40), st.integers(1, 45), st.booleans())
@settings(max_examples=20, deadline=None)
def test_scan_blocks_equals_a_loop_over_its_steps(steps, block_size, reverse):
    """Compares a recurrence in int32 that also outputs the number of each block."""
    xs = np.arange(1, steps + 1, dtype=np.int32)

    def body(carry, over_time, number):
        carry, sums = jax.lax.scan(lambda c, x: (2 * c + x, 2 * c + x), carry, over_time, reverse=reverse)
        return carry, sums, number

    blocks = max(-(-steps // block_size), 1)
    carry, sums, numbers = scan_blocks(body, jnp.int32(1), jnp.asarray(xs), jnp.arange(blocks), block_size, reverse=reverse)
    expected, c = [], 1
    for x in xs[::-1] if reverse else xs:
        c = (2 * c + int(x)) % 2**32
        expected.append(c)
    assert np.asarray(sums).astype(np.uint32).tolist() == (expected[::-1] if reverse else expected)
    assert int(np.uint32(carry)) == c
    assert numbers.tolist() == list(range(blocks))

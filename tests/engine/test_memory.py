"""The memory that a compiled gradient needs in addition to its arguments and results."""

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj

pytestmark = pytest.mark.derivative


@pytest.fixture
def optimized():
    """Turns on the optimisations that the test suite turns off: they determine the memory."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def temporary_bytes(cell, T, B, D, H, **options):
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H, dtype=jnp.float32))
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)

    def loss(params, xs, weights):
        h_last, ys = gj.unroll(cell, params, xs, **options)
        return jnp.sum(jax.tree.leaves(h_last)[0]) if ys is None else jnp.sum(weights * ys)

    compiled = jax.jit(jax.grad(loss)).lower(params, shape(T, B, D), shape(T, B, H)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("cell", [gj.gru(), pytest.param(gj.lstm(), marks=pytest.mark.slow)], ids=["gru", "lstm"])
def test_memory_grows_as_the_root_of_time_if_only_the_last_state_is_returned(cell, optimized):
    sizes = {steps: temporary_bytes(cell, steps, 16, 4, 32, outputs="last") for steps in (1_000, 10_000, 100_000)}
    assert sizes[100_000] <= 3.5 * sizes[10_000]  # √10 = 3.2
    assert sizes[10_000] <= 3.5 * sizes[1_000]
    assert sizes[100_000] < 100_000 * 16 * 32 * 4 / 15  # a fifteenth of the memory of all states


def test_saved_states_need_their_own_size_and_saved_gates_four_times_as_much(optimized):
    T, B, H, block_size = 20_000, 16, 32, 125  # 125 divides 20,000, so all blocks are equal
    states, block = 4 * T * B * H, 4 * block_size * B * H  # bytes

    def measured(residuals):
        return temporary_bytes(gj.gru(), T, B, 4, H, derivative=gj.CustomVJP(residuals=residuals, block_size=block_size))

    assert measured("states") < states + 20 * block
    assert 4 * states < measured("gates") < 4 * states + 20 * block
    assert temporary_bytes(gj.gru(), T, B, 4, H, derivative=gj.Autodiff()) > 7 * states

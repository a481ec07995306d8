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


@pytest.mark.parametrize(
    "cell",
    [gj.elman(), *(pytest.param(cell, marks=pytest.mark.slow) for cell in (gj.gru(), gj.lstm()))],
    ids=["elman", "gru", "lstm"],
)
@pytest.mark.parametrize("steps", [pytest.param(1_000, marks=pytest.mark.slow), 10_000])
def test_memory_grows_as_the_root_of_time_if_only_the_last_state_is_returned(cell, steps, optimized):
    few, many = (temporary_bytes(cell, T, 16, 4, 32, outputs="last") for T in (steps, 10 * steps))
    assert many <= 3.5 * few  # √10 = 3.2
    if steps == 10_000:
        assert many < 100_000 * 16 * 32 * 4 / 15  # a fifteenth of the memory of all states


@pytest.mark.parametrize(
    "saved", ["states", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gates", "by autodiff"))]
)
def test_saved_states_need_their_own_size_and_saved_gates_four_times_as_much(saved, optimized):
    T, B, H, block_size = 20_000, 16, 32, 125  # 125 divides 20,000, so all blocks are equal
    states, block = 4 * T * B * H, 4 * block_size * B * H  # bytes
    derivative = gj.Autodiff() if saved == "by autodiff" else gj.CustomVJP(residuals=saved, block_size=block_size)
    measured = temporary_bytes(gj.gru(), T, B, 4, H, derivative=derivative)
    if saved == "states":
        assert measured < states + 20 * block
    elif saved == "gates":
        assert 4 * states < measured < 4 * states + 20 * block
    else:
        assert measured > 7 * states

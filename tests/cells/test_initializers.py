"""The parameters that `init` draws: their shapes, dtypes and distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import CELLS, D, H, compiled, distinct_cells, every_cell

KEY = jax.random.key(0)


@distinct_cells
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow), jnp.float16])
def test_the_letter_of_a_field_gives_its_shape_and_default_distribution(cell, dtype):
    params = cell.init(KEY, D, H, dtype=dtype)
    for field, leaf in params._asdict().items():
        if leaf is None:
            assert field[0] == "p"
            assert "True" not in cell.name
            continue
        assert leaf.dtype == dtype
        assert leaf.shape == {"W": (D, H), "U": (H, H)}.get(field[0], (H,))
        wide = np.asarray(leaf, np.float64)
        if field[0] == "W":  # Glorot, uniform
            assert 0 < np.abs(wide).max() <= (6 / (D + H)) ** 0.5 * 1.01
        elif field[0] == "U":
            np.testing.assert_allclose(wide @ wide.T, np.eye(H), atol=3 * float(jnp.finfo(dtype).eps))
        else:
            assert not wide.any()


@every_cell
def test_no_two_matrices_are_equal(cell):
    params = cell.init(KEY, H, H, recurrent_init=jax.nn.initializers.glorot_uniform())
    matrices = [leaf for field, leaf in params._asdict().items() if field[0] in "WU"]
    assert len({tuple(np.asarray(leaf).ravel()) for leaf in matrices}) == len(matrices)


@every_cell
def test_with_bias_false_all_biases_and_nothing_else_are_none(cell):
    params = cell.init(KEY, D, H, bias=False)
    for field, leaf in params._asdict().items():
        assert (leaf is None) == (field[0] in "bc" or (field[0] == "p" and "True" not in cell.name))


@every_cell
def test_initializers_of_jax_can_be_used(cell):
    options = dict(
        kernel_init=jax.nn.initializers.he_normal(),
        recurrent_init=jax.nn.initializers.constant(0.25),
        bias_init=jax.nn.initializers.ones,
    )
    for field, leaf in cell.init(KEY, D, H, **options)._asdict().items():
        if leaf is not None and field[0] != "W":
            assert (leaf == (0.25 if field[0] == "U" else 1)).all()


def test_symmetric_uniform_draws_from_the_interval_of_chung_et_al():
    draw = np.asarray(gj.initializers.symmetric_uniform(0.1)(KEY, (400, 50), jnp.float32))
    assert -0.1 <= draw.min() < -0.099
    assert 0.099 < draw.max() <= 0.1
    assert abs(draw.mean()) < 1e-3


def test_chrono_spreads_memory_times_from_two_steps_to_the_longest():
    def results(key):
        gru = gj.gru().init(key, D, 2000, recurrent_init=jax.nn.initializers.zeros)
        lstm = gj.lstm().init(key, D, 20, recurrent_init=jax.nn.initializers.glorot_uniform())
        return gj.initializers.chrono(key, gru, 101), lstm, gj.initializers.chrono(key, lstm, 101)

    gru, lstm, timed = compiled(results, KEY)
    forget = 1 / (1 + np.exp(np.asarray(gru.b_z, np.float64)))  # 1 − z
    memory = 1 / (1 - forget)  # in steps; 1 + U(1, 100)
    assert 2 <= memory.min() < 3
    assert 99 < memory.max() <= 101.5
    assert abs(memory.mean() - 51.5) < 2

    assert (timed.b_f == -timed.b_i).all()
    assert (timed.b_f >= 0).all()
    assert timed._replace(b_f=lstm.b_f, b_i=lstm.b_i) is not timed
    assert all((getattr(timed, f) == getattr(lstm, f)).all() for f in ("W_i", "U_f", "b_o", "b_g"))


@every_cell
def test_the_initial_state_has_the_batch_shape_and_the_dtype_of_the_parameters(cell):
    params = cell.init(KEY, D, H, dtype=jnp.bfloat16)
    for given, batch in [((), ()), (3, (3,)), (np.int64(3), (3,)), ((3, 2), (3, 2)), ([4], (4,))]:
        for leaf in jax.tree.leaves(cell.initial_state(params, given)):
            assert leaf.shape == (*batch, H)
            assert leaf.dtype == jnp.bfloat16
    assert jax.tree.leaves(cell.initial_state(params, 3, like=jnp.ones((5, 3, D))))[0].shape == (3, H)


def test_every_cell_has_the_name_of_the_call_that_makes_it():
    assert [cell.name for cell in CELLS.values()] == [
        "linear_rnn()", "elman('tanh')", "elman('relu')", "elman('sigmoid')", "elman('identity')",
        "gru()", "gru(reset_after=True)", "lstm(peephole=False)", "lstm(peephole=True)",
    ]  # fmt: skip

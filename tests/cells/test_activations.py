"""Cells with other activations: values, derivatives in every mode, names, and bad input.

tests/cells/test_cell_functions.py tests each function of their derivations.
"""

import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax.cells.activations import NAMES
from tests import reference
from tests.conditions import ALL_THREE
from tests.problems import (
    ACTIVATED,
    SEEDS,
    assert_close,
    assert_every_mode_equals_autodiff,
    assert_raises,
    compiled,
    errors,
    gradients,
    problem,
    scan_of_step,
)

Activation = gj.cells.Activation
PRE_ACTIVATIONS = np.concatenate([np.random.default_rng(0).normal(size=200) * 2, [-40.0, -3.5, 3.5, 40.0]])
OTHERS = {
    "leaky_relu, 0.3": (Activation("leaky_relu", alpha=0.3), lambda a: np.where(a >= 0, a, 0.3 * a)),
    "elu, 2": (Activation("elu", 2), lambda a: np.where(a > 0, a, 2 * (np.exp(a) - 1))),
    "scaled_tanh, 1, 1": (Activation("scaled_tanh", 1, 1), np.tanh),
    "hard_sigmoid, 0.3, 0.1": (Activation("hard_sigmoid", 0.3, 0.1), lambda a: np.clip(0.3 * a + 0.1, 0, 1)),
}
ALL = {name: (Activation(name), reference.ACTIVATIONS[name]) for name in NAMES} | OTHERS


@pytest.mark.parametrize("name", ALL)
def test_an_activation_and_its_slope_are_those_of_its_definition(name, needs_x64):
    activation, expected = ALL[name]
    a = jnp.asarray(PRE_ACTIVATIONS)

    def results(a):
        y, by_jax = jax.vmap(jax.value_and_grad(activation))(a)
        return y, by_jax, activation.slope(y), activation.times_slope(a, y)

    y, by_jax, slope, times_slope = compiled(results, a)
    np.testing.assert_allclose(y, expected(PRE_ACTIVATIONS), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(slope, by_jax, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(times_slope, PRE_ACTIVATIONS * by_jax, rtol=1e-12, atol=1e-13)
    step = 1e-6
    away_from_kinks = np.abs(expected(PRE_ACTIVATIONS + step) + expected(PRE_ACTIVATIONS - step) - 2 * y) < 1e-9
    numerical = (expected(PRE_ACTIVATIONS + step) - expected(PRE_ACTIVATIONS - step)) / (2 * step)
    np.testing.assert_allclose(slope[away_from_kinks], numerical[away_from_kinks], atol=1e-7)
    assert away_from_kinks.sum() > 190


@pytest.mark.parametrize("name", ALL)
def test_at_a_kink_the_slope_is_that_of_autodiff(name, needs_x64):
    activation, _ = ALL[name]
    kinks = [0.0]
    if activation.name == "hard_sigmoid":
        kinks = [(edge - activation.beta) / activation.alpha for edge in (0, 1)]
    for a in kinks:
        y, by_jax = jax.value_and_grad(activation)(a)
        assert float(activation.slope(y)) == float(by_jax)


def test_half_precision_keeps_its_dtype():
    for activation, _ in ALL.values():
        for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
            a = jax.ShapeDtypeStruct((3,), dtype)
            y = jax.eval_shape(activation, a)
            slope, product = jax.eval_shape(activation.slope, y), jax.eval_shape(activation.times_slope, a, y)
            assert y.dtype == slope.dtype == product.dtype == dtype


BY_DEFAULT = ("elman_leaky_relu", "gru_hard", "gru_reset_after_hard", "lstm_peephole_scaled")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in ACTIVATED]
)
def test_unroll_equals_a_numpy_loop(name, needs_x64):
    runs = {reverse: jax.jit(partial(gj.unroll, ACTIVATED[name], reverse=reverse)) for reverse in (False, True)}
    for seed, reverse in zip(SEEDS, (False, True, False), strict=True):
        p = problem(ACTIVATED[name], seed)
        h_last, ys = runs[reverse](p.params, p.xs, p.h0)
        expected_last, expected_ys, _ = reference.unroll(name, p.params, p.xs, p.h0, reverse=reverse)
        np.testing.assert_allclose(ys, expected_ys, rtol=1e-12, atol=1e-13)
        assert_close(tuple(jax.tree.leaves(h_last)), tuple(jax.tree.leaves(expected_last)))


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=name, marks=() if name == "gru_reset_after_hard" else pytest.mark.slow)
        for name, cell in ACTIVATED.items()
    ],
)
@pytest.mark.derivative
def test_derivatives_in_every_mode_equal_autodiff_of_the_plain_scan(cell):
    assert_every_mode_equals_autodiff(cell, **ALL_THREE)


@pytest.mark.derivative
def test_a_wrong_slope_is_noticed(needs_x64):
    class Wrong(Activation):
        def slope(self, y):
            return 1.01 * jnp.ones_like(y)

    cell = gj.gru(gate_activation=Wrong("hard_sigmoid"), activation=Wrong("leaky_relu"))
    runs = partial(scan_of_step, cell), partial(gj.unroll, cell)
    expected, bars = compiled(lambda p: [gradients(run, p)[1] for run in runs], problem(cell))
    assert max(errors(bars, expected).values()) > 1e-3


def test_names_say_which_activations_differ_from_the_defaults():
    assert gj.gru(gate_activation="sigmoid", activation=Activation("tanh")) == gj.gru()
    assert [cell.name for cell in ACTIVATED.values()][-4:] == [
        "gru(gate_activation='hard_sigmoid', activation='leaky_relu')",
        "gru(reset_after=True, gate_activation='hard_sigmoid_onnx', activation='softsign')",
        "lstm(peephole=False, gate_activation='hard_sigmoid', activation='relu')",
        "lstm(peephole=True, gate_activation='softsign', activation='scaled_tanh')",
    ]
    assert gj.elman(Activation("leaky_relu", alpha=0.3)).name == "elman(Activation('leaky_relu', alpha=0.3))"
    assert gj.elman("leaky_relu") == gj.elman(Activation("leaky_relu", 0.01)) != gj.elman(Activation("leaky_relu", 0.02))
    assert repr(Activation("hard_sigmoid", alpha=0.2)) == "'hard_sigmoid_onnx'"
    assert len(set(ACTIVATED.values())) == len(ACTIVATED)
    for cell in ACTIVATED.values():
        assert pickle.loads(pickle.dumps(cell)) == cell


def test_equal_arguments_give_the_same_cell():
    assert gj.gru() is gj.gru(False, gate_activation=Activation("sigmoid"), activation="tanh")
    assert gj.gru(True) is gj.gru(reset_after=True) is not gj.gru()
    assert gj.lstm(False, proj_size=2) is gj.lstm(proj_size=2) is not gj.lstm(peephole=True, proj_size=2)
    assert gj.elman("leaky_relu") is gj.elman(Activation("leaky_relu", alpha=0.01)) is not gj.elman()


BAD = {
    "an unknown name": (lambda: gj.gru(activation="gelu"), ValueError, "activation: got 'gelu', expected one of 'tanh'"),
    "an unknown gate": (lambda: gj.lstm(gate_activation="hard"), ValueError, "gate_activation: got 'hard', expected one of"),
    "a function": (lambda: gj.elman(jnp.tanh), TypeError, r"activation: got .*expected one of .*write your own gj\.Cell"),
    "α of 0": (lambda: Activation("leaky_relu", 0.0), ValueError, "alpha: got 0.0, expected a finite number above 0"),
    "α of tanh": (lambda: Activation("tanh", 1.0), ValueError, "alpha: got 1.0, expected None: tanh has no such parameter"),
    "β of elu": (lambda: Activation("elu", beta=1.0), ValueError, "beta: got 1.0, expected None: elu has no such parameter"),
    "β infinite": (lambda: Activation("scaled_tanh", 1.0, np.inf), ValueError, "beta: got inf, expected a finite number"),
    "β a string": (lambda: Activation("scaled_tanh", 1.0, "1"), TypeError, "beta: got '1', expected a number"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_raises(call, error, message):
    assert_raises(call, error, message)

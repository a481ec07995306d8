"""The LSTM with a projected output: values, derivatives in every mode, and its use in layers.

tests/cells/test_cell_functions.py tests each function of its derivation, and
tests/convert/test_pytorch.py compares with PyTorch.
"""

from functools import partial

import jax
import numpy as np
import pytest

import gru_jax as gj
from tests.conditions import ALL_THREE
from tests.problems import (
    PROJECTED,
    SEEDS,
    B,
    D,
    H,
    assert_close,
    assert_every_mode_equals_autodiff,
    assert_raises,
    compiled,
    problem,
    small_like,
)

KEY = jax.random.key(0)
P = 2
projected = pytest.mark.parametrize(("name", "size"), [("lstm_projected", 2), ("lstm_peephole_projected", 3)])


def numpy_loop(p, xs, h, c, sigma, phi):
    """Follows Sak et al. 2014, eqs. 1-6."""
    p = {field: 0.0 if leaf is None else np.asarray(leaf) for field, leaf in p._asdict().items()}
    ys = []
    for x in np.asarray(xs):
        at = lambda k, memory: x @ p[f"W_{k}"] + h @ p[f"U_{k}"] + p[f"b_{k}"] + p.get(f"p_{k}", 0.0) * memory
        i, f, g = sigma(at("i", c)), sigma(at("f", c)), phi(at("g", 0.0))
        c = f * c + i * g
        o = sigma(at("o", c))
        h = (o * phi(c)) @ p["R"]
        ys.append(h)
    return (h, c), np.stack(ys)


FUNCTIONS = {
    "lstm_projected": (lambda a: 1 / (1 + np.exp(-a)), np.tanh),
    "lstm_peephole_projected": (lambda a: np.clip(a + 3, 0, 6) / 6, lambda a: a / (1 + np.abs(a))),
}


@projected
def test_values_equal_a_numpy_loop(name, size, needs_x64):
    for seed in SEEDS:
        p = problem(PROJECTED[name], seed, bias=seed != 1)
        (h, c), ys = compiled(partial(gj.unroll, PROJECTED[name]), *p[:3])
        assert h.shape == (B, size)
        assert c.shape == (B, H)
        expected = numpy_loop(p.params, p.xs, np.asarray(p.h0.h), np.asarray(p.h0.c), *FUNCTIONS[name])
        assert_close(((h, c), ys), expected)


@pytest.mark.parametrize(
    ("name", "size"), [pytest.param("lstm_projected", 2, marks=pytest.mark.slow), ("lstm_peephole_projected", 3)]
)
@pytest.mark.derivative
def test_derivatives_in_every_mode_equal_autodiff_of_the_plain_scan(name, size):
    assert_every_mode_equals_autodiff(PROJECTED[name], **ALL_THREE)


def test_it_works_in_stacks_in_both_directions_and_under_wrappers():
    cell = gj.lstm(proj_size=P)
    both = gj.stack([gj.bidirectional(cell), gj.zoneout(cell, 0.1), gj.variational_dropout(cell, state=0.2)])
    params = small_like(0, jax.eval_shape(lambda key: both.init(key, D, H), KEY))
    h_last, ys = compiled(partial(gj.unroll, both, key=KEY), params, problem(cell).xs.astype(np.float32))
    assert params[1].W_i.shape == (2 * P, H)
    assert params[2].U_f.shape == (P, H)
    assert ys.shape[-1] == P == both.output_size(params)
    assert h_last[1].c.shape == (B, H)


def test_the_projection_starts_with_orthonormal_columns():
    R = np.asarray(gj.lstm(proj_size=P).init(KEY, D, H).R)
    np.testing.assert_allclose(R.T @ R, np.eye(P), atol=1e-5)


BAD = {
    "a size of 0": (lambda: gj.lstm(proj_size=0), ValueError, "proj_size: got 0, expected an int of at least 1"),
    "a size of 2.0": (lambda: gj.lstm(proj_size=2.0), TypeError, "proj_size: got 2.0, expected an int"),
    "another size": (
        lambda: gj.unroll(gj.lstm(proj_size=3), gj.lstm(proj_size=P).init(jax.random.key(0), D, H), np.ones((5, D))),
        ValueError,
        r"params.U_i: got shape \(2, 5\), expected \(3, 5\) for input size 4 and hidden size 5 and proj_size 3",
    ),
    "params of a plain LSTM": (
        lambda: gj.unroll(gj.lstm(proj_size=3), gj.lstm().init(jax.random.key(0), D, H), np.ones((5, D))),
        TypeError,
        "params: got LSTMParams, expected LSTMProjectedParams",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_raises(call, error, message):
    assert_raises(call, error, message)

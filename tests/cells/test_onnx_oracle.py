"""An independent reference: the complex step through the NumPy GRU of ONNX.

f′(x) = Im f(x + i·1e-30) / 1e-30 is exact up to rounding, and uses neither autodiff nor finite
differences. ONNX orders the gates z, r, h, and its z multiplies the old state, so every weight and
bias of z changes sign.
"""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from onnx.reference.ops.op_gru import GRU, CommonGRU

import gru_jax as gj
from tests.problems import CELLS, H, gradients, problem

STEP = 1e-30

pytestmark = pytest.mark.derivative


def to_onnx(params, *, reset_after):
    """Returns W (3H, D), R (3H, H) and B (6H) of the GRU node."""
    p = jax.tree.map(np.asarray, params)
    W = np.concatenate([-p.W_z.T, p.W_r.T, p.W_h.T])
    R = np.concatenate([-p.U_z.T, p.U_r.T, p.U_h.T])
    c_h = p.c_h if reset_after else np.zeros(H)
    return W, R, np.concatenate([-p.b_z, p.b_r, p.b_h, np.zeros(2 * H), c_h])


def from_onnx(W, R, bias, like):
    """Converts gradients with respect to W, R and B to those with respect to our parameters."""
    (W_z, W_r, W_h), (U_z, U_r, U_h) = np.split(W, 3), np.split(R, 3)
    b_z, b_r, b_h, _, _, c_h = np.split(bias, 6)
    fields = dict(W_z=-W_z.T, U_z=-U_z.T, b_z=-b_z, W_r=W_r.T, U_r=U_r.T, b_r=b_r, W_h=W_h.T, U_h=U_h.T, b_h=b_h, c_h=c_h)
    return type(like)(**{field: fields[field] for field in like._fields})


@pytest.mark.parametrize("name", ["gru", "gru_reset_after"])
def test_gradients_equal_the_complex_step_through_onnx(name, needs_x64):
    reset_after = name == "gru_reset_after"
    p = problem(CELLS[name], steps=5, batch=(2,))
    node = SimpleNamespace(
        f=lambda a: CommonGRU.f(None, a), g=lambda a: CommonGRU.g(None, a), linear_before_reset=int(reset_after)
    )
    ys_bar, h_bar = np.asarray(p.cotangents[1]), np.asarray(p.cotangents[0])

    def loss(X, W, R, bias, h0):
        ys, h_last = GRU._run_forward(node, X, R, bias, W, h0)
        return (ys * ys_bar).sum() + (h_last * h_bar).sum()

    def complex_step(args, i):
        bar = np.zeros(args[i].shape)
        for index in np.ndindex(*args[i].shape):
            moved = [arg.astype(complex) for arg in args]
            moved[i][index] += 1j * STEP
            bar[index] = loss(*moved).imag / STEP
        return bar

    args = [np.asarray(p.xs), *to_onnx(p.params, reset_after=reset_after), np.asarray(p.h0)]
    X_bar, W_bar, R_bar, B_bar, h0_bar = (complex_step(args, i) for i in range(5))

    (h_last, ys), (params_bar, xs_bar, h0_bar_ours) = gradients(lambda *a: gj.unroll(CELLS[name], *a), p)
    ys_onnx, h_onnx = GRU._run_forward(node, args[0], args[2], args[3], args[1], args[4])
    np.testing.assert_allclose(ys, ys_onnx, atol=1e-14)
    np.testing.assert_allclose(h_last, h_onnx, atol=1e-14)
    np.testing.assert_allclose(xs_bar, X_bar, atol=1e-13)
    np.testing.assert_allclose(h0_bar_ours, h0_bar, atol=1e-13)
    for field, ours, theirs in zip(params_bar._fields, params_bar, from_onnx(W_bar, R_bar, B_bar, params_bar), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-13, err_msg=field)

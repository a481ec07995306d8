"""Bad parameters and cells raise an error that names the fix. Dicts and lists are accepted."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import B, D, H, T, assert_close, assert_raises, gradients, problem

GRU = gj.gru()
P = problem(GRU, dtype=jnp.float32)
LSTM = problem(gj.lstm(), dtype=jnp.float32)
KEY = jax.random.key(0)
FIELDS = r"GRUParams\(W_z, U_z, b_z, W_r"


def unroll_with(**fields):
    """Runs the GRU with some of its parameters replaced."""
    return gj.unroll(GRU, P.params._replace(**fields), P.xs)


class Tensor:
    """Stands for a PyTorch tensor, which the checks recognise by the module of its type."""

    __module__ = "torch"
    shape, dtype, ndim = (T, B, D), "torch.float32", 3


PARAMS = {
    "another cell's params": (lambda: gj.unroll(gj.lstm(), P.params, P.xs), TypeError, r"params: got GRUParams, expected LSTMParams.*cell\.init"),
    "the other GRU's params": (lambda: gj.unroll(gj.gru(reset_after=True), P.params, P.xs), TypeError, r"params: got GRUParams, expected GRUResetAfterParams"),
    "None": (lambda: gj.unroll(GRU, None, P.xs), TypeError, r"params: got NoneType without arrays.*gru\(\).*cell\.init"),
    "integers": (lambda: unroll_with(b_z=jnp.ones(H, int)), TypeError, r"params\.b_z: got .*int.*expected an array of dtype float64"),
    "a Python number": (lambda: unroll_with(b_z=0.5), TypeError, r"params\.b_z: got float, expected an array"),
    "complex numbers": (lambda: unroll_with(U_h=P.params.U_h.astype(jnp.complex64)), TypeError, r"params\.U_h: got .*complex64, expected an array of dtype float64.*are real: take params\.U_h\.real"),
    "big-endian numbers": (lambda: unroll_with(b_z=np.ones(H, ">f4")), TypeError, r"params\.b_z: got an array.*newbyteorder\('='\)"),
    "a tensor of PyTorch": (lambda: unroll_with(b_z=Tensor()), TypeError, r"params\.b_z: got an array.*detach\(\).*gj\.convert\.from_pytorch"),
    "xs as a tensor of PyTorch": (lambda: gj.unroll(GRU, P.params, Tensor()), TypeError, r"xs: got an array.*detach\(\)"),
    "two dtypes": (lambda: unroll_with(U_z=P.params.U_z.astype(jnp.bfloat16)), TypeError, r"params: got the dtypes bfloat16, float32, expected one.*jax\.tree\.map"),
    "a missing weight": (lambda: unroll_with(U_z=None), TypeError, r"params\.U_z: got None, expected an array of shape \(5, 5\)"),
    "a missing input weight": (lambda: unroll_with(W_z=None), TypeError, r"params\.W_z: got None, expected"),
    "a transposed weight": (lambda: unroll_with(W_r=P.params.W_r.T), ValueError, r"params\.W_r: got shape \(5, 4\), expected \(4, 5\).*Transpose"),
    "a vector for a matrix": (lambda: unroll_with(W_z=P.params.b_z), ValueError, r"params\.W_z: got shape \(5,\), expected a matrix"),
    "unexpected peepholes": (lambda: gj.unroll(gj.lstm(), LSTM.params._replace(p_i=LSTM.params.b_i), LSTM.xs), TypeError, r"params\.p_i: got an array, expected None"),
    "missing peepholes": (lambda: gj.unroll(gj.lstm(True), LSTM.params, LSTM.xs), TypeError, r"params\.p_i: got None, expected an array of shape \(5,\)"),
    "a dict with other names": (lambda: gj.unroll(GRU, {"kernel": P.params.W_z, "bias": P.params.b_z}, P.xs), TypeError, r"params: got a dict with the keys kernel, bias, expected " + FIELDS + r".*gj\.cells\.GRUParams\(W="),
    "a dict with a name too many": (lambda: gj.unroll(GRU, P.params._asdict() | {"c_h": P.params.b_h}, P.xs), TypeError, r"params: got a dict with the keys W_z.*c_h, expected those of " + FIELDS),
    "a dict without a weight": (lambda: gj.unroll(GRU, {"W_z": P.params.W_z, "U_z": P.params.U_z}, P.xs), TypeError, r"params\.W_r: got None, expected an array"),
    "a plain tuple": (lambda: gj.unroll(GRU, tuple(P.params), P.xs), TypeError, r"params: got a tuple of 9, expected " + FIELDS + r".*gj\.cells\.GRUParams\(\*params\)"),
    "a list": (lambda: gj.unroll(GRU, list(P.params), P.xs), TypeError, r"params: got a list of 9, expected " + FIELDS),
}  # fmt: skip


def custom(**changes):
    """Makes a GRU as a custom cell, without `check_params`, with some functions replaced."""
    return replace(GRU, check_params=None, adjoint=None, tangent=None, name="mine", **changes)


CELLS_OF_USERS = {
    "the function that makes the cell": (lambda: gj.unroll(gj.gru, P.params, P.xs), TypeError, r"cell: got function, expected a gj\.Cell.*gj\.gru\(\) rather than"),
    "a string": (lambda: gj.unroll("gru", P.params, P.xs), TypeError, r"cell: got str, expected a gj\.Cell"),
    "an unknown activation": (lambda: gj.elman("gelu"), ValueError, r"activation: got 'gelu', expected one of 'tanh', 'sigmoid', 'relu'"),
    "a tangent without an adjoint": (lambda: replace(GRU, adjoint=None), ValueError, r"tangent: got a gj\.Tangent without adjoint, expected both"),
    "a function for an adjoint": (lambda: replace(GRU, adjoint=GRU.adjoint.state_vjp), TypeError, r"adjoint: got function, expected gj\.Adjoint\(…\) or None"),
    "no function": (lambda: replace(GRU, update=None), TypeError, r"update: got None, expected a function"),
    "a wrong input size": (lambda: gj.unroll(custom(), P.params, P.xs[..., :2]), TypeError, r"xs: got steps of shape \(3, 2\), which project of cell mine does not take.*input size"),
    "a zero state of another dtype": (lambda: gj.unroll(custom(zero_state=lambda params: jnp.zeros(H, jnp.float16)), P.params, P.xs), TypeError, r"cell: update of cell mine returned a state of dtype float32 from one of dtype float16, expected the same.*zero_state"),
    "a zero state of another shape": (lambda: gj.unroll(custom(update=lambda g, h: h + g.z, zero_state=lambda params: jnp.zeros((1, H), jnp.float32)), P.params, P.xs), ValueError, r"cell: update of cell mine returned a state of shape .*expected .*zero_state"),
    "an update of another structure": (lambda: gj.unroll(custom(update=lambda g, h: (h, h)), P.params, P.xs), TypeError, r"cell: update of cell mine returned a tuple of 2.*expected one array, the state it was given"),
    "gates without a time axis": (lambda: gj.unroll(replace(GRU, check_params=None, name="mine", gates=lambda params, u, h: GRU.gates(params, u, h)._replace(z=params.b_z)), P.params, P.xs), ValueError, r"cell: got gates of cell mine that return shape \(5,\) for two steps at once, expected \(2, 5\).*broadcast_to"),
    "a nonlinear output": (lambda: gj.unroll(custom(output=jnp.tanh), P.params, P.xs), TypeError, r"cell: got an output of cell mine that is not linear.*lambda state: state\.h"),
}  # fmt: skip

INITIALIZERS = {
    "hidden size": (lambda: GRU.init(KEY, 3, 0), ValueError, r"hidden_size: got 0, expected at least 1"),
    "a float for a size": (lambda: GRU.init(KEY, 3.0, 4), TypeError, r"input_size: got 3\.0, expected an int of at least 0"),
    "a negative input size": (lambda: GRU.init(KEY, -1, 4), ValueError, r"input_size: got -1, expected at least 0"),
    "an integer dtype": (lambda: GRU.init(KEY, 3, 4, dtype=jnp.int32), TypeError, r"dtype: got int32, expected float64"),
    "an initializer of another shape": (lambda: GRU.init(KEY, 3, 4, kernel_init=lambda key, shape, dtype: jnp.ones(shape[::-1])), ValueError, r"kernel_init: got an array of shape \(4, 3\) for W_z, expected \(3, 4\)"),
    "chrono without biases": (lambda: gj.initializers.chrono(KEY, GRU.init(KEY, 2, 3, bias=False), 9), TypeError, r"params: got GRUParams without b_z.*bias=True"),
    "chrono for an RNN": (lambda: gj.initializers.chrono(KEY, gj.elman().init(KEY, 2, 3), 9), TypeError, r"params: got ElmanParams without b_f and b_i"),
    "chrono for two steps": (lambda: gj.initializers.chrono(KEY, P.params, 2), ValueError, r"longest: got 2, expected at least 3"),
    "a negative bound": (lambda: gj.initializers.symmetric_uniform(-1), ValueError, r"bound: got -1, expected a number above 0"),
}  # fmt: skip

BAD = PARAMS | CELLS_OF_USERS | INITIALIZERS


@pytest.mark.parametrize("case", BAD)
def test_bad_params_and_cells_raise_and_name_the_fix(case):
    assert_raises(*BAD[case])


def test_mixed_dtypes_raise_the_same_error_under_jit():
    call, error, message = BAD["two dtypes"]
    assert_raises(jax.jit(lambda: call()), error, message)


def test_params_may_be_numpy_arrays():
    as_numpy = jax.tree.map(np.asarray, P.params)
    assert_close(gj.unroll(GRU, as_numpy, np.asarray(P.xs)), gj.unroll(GRU, P.params, P.xs), tol=0)


def assert_same_results(cell, p, params):
    """Asserts that `params` give the results of `p.params`, and gradients of the same structure."""
    outputs, (bars, *_) = gradients(partial(gj.unroll, cell), p)
    outputs_of_params, (bars_of_params, *_) = gradients(partial(gj.unroll, cell), p._replace(params=params))
    assert_close(outputs_of_params, outputs, tol=0)
    assert jax.tree.structure(bars_of_params) == jax.tree.structure(params)
    in_order = lambda tree: jax.tree.leaves(cell._validated_params(tree)[0])
    assert_close(in_order(bars_of_params), in_order(bars), tol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_params_may_be_a_dict_with_the_same_names(bias):
    p = problem(GRU, bias=bias)
    as_dict = {name: leaf for name, leaf in reversed(p.params._asdict().items()) if leaf is not None}
    assert_same_results(GRU, p, as_dict)
    assert_same_results(GRU, p, p.params._asdict())
    assert_close(gj.step(GRU, as_dict, p.h0, p.xs[0]), gj.step(GRU, p.params, p.h0, p.xs[0]), tol=0)


def test_params_of_a_stack_may_be_a_list_or_a_dict_with_numbers_for_keys():
    cell = gj.stack([GRU, gj.lstm()])
    p = problem(cell)
    as_dicts = [{name: leaf for name, leaf in layer._asdict().items() if leaf is not None} for layer in p.params]
    for params in (list(p.params), as_dicts, {"0": p.params[0], "1": p.params[1]}, {0: p.params[0], 1: as_dicts[1]}):
        assert_same_results(cell, p, params)
    # JAX sorts the keys of a dict where it differentiates, but an eager call does not
    in_reverse = {"1": p.params[1], "0": p.params[0]}
    assert_close(gj.unroll(cell, in_reverse, p.xs)[1], gj.unroll(cell, p.params, p.xs)[1], tol=0)


def test_params_of_a_bidirectional_layer_may_be_a_dict():
    cell = gj.bidirectional(GRU)
    p = problem(cell)
    assert_same_results(cell, p, {"forward": p.params.forward, "backward": p.params.backward._asdict()})

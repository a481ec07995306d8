"""Bad input is told: the argument, what arrived, what was expected, the fix."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import B, D, H, T, assert_told, problem

GRU = gj.gru()
P = problem(GRU, dtype=jnp.float32)
LSTM = problem(gj.lstm(), dtype=jnp.float32)

unroll = partial(gj.unroll, GRU, P.params)
half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), P.params)

BAD = {
    # name: (what is called, the error, what its message must hold, in this order)
    "rank of xs": (lambda: unroll(jnp.ones(D)), ValueError, r"xs: got shape \(4,\), expected \(T, \*batch, D\).*xs\[\.\.\., None\]"),
    "features of xs": (lambda: unroll(jnp.ones((T, B, D + 2))), ValueError, r"xs: got 6 features.*\(7, 3, 6\).*expected 4.*cell\.init\(key, 6"),
    "integer xs": (lambda: unroll(jnp.ones((T, B, D), jnp.int32)), TypeError, r"xs: got dtype int32, expected a floating.*astype.*one_hot"),
    "boolean xs": (lambda: unroll(np.ones((T, B, D), bool)), TypeError, r"xs: got dtype bool, expected a floating"),
    "complex xs": (lambda: unroll(jnp.ones((T, B, D), jnp.complex64)), TypeError, r"xs: got dtype complex64"),
    "a list for xs": (lambda: unroll([jnp.ones((B, D))] * T), TypeError, r"xs: got list, expected an array.*jnp\.stack"),
    "xs with a batch unlike h0": (lambda: unroll(P.xs[:, :2], P.h0), ValueError, r"h0: got.*\(3, 5\).*expected shape \(2, 5\).*initial_state"),
    "h0 without batch": (lambda: unroll(P.xs, P.h0[0]), ValueError, r"h0: got.*\(5,\).*expected shape \(3, 5\).*broadcast_to"),
    "dtype of h0": (lambda: unroll(P.xs, P.h0.astype(jnp.float16)), TypeError, r"h0: got dtype float16, expected float32.*astype"),
    "structure of h0": (lambda: unroll(P.xs, (P.h0, P.h0)), TypeError, r"h0: got tuple, expected the state of cell gru\(\).*initial_state"),
    "one array for an LSTM's h0": (lambda: gj.unroll(gj.lstm(), LSTM.params, LSTM.xs, LSTM.h0.h), TypeError, r"h0: got an array.*expected the state of cell lstm"),
    "another cell's params": (lambda: gj.unroll(gj.lstm(), P.params, P.xs), TypeError, r"params: got GRUParams, expected LSTMParams.*cell\.init"),
    "the other GRU's params": (lambda: gj.unroll(gj.gru(reset_after=True), P.params, P.xs), TypeError, r"params: got GRUParams, expected GRUResetAfterParams"),
    "a dict for params": (lambda: gj.unroll(GRU, P.params._asdict(), P.xs), TypeError, r"params: got dict, expected GRUParams"),
    "None for params": (lambda: gj.unroll(GRU, None, P.xs), TypeError, r"params: got NoneType without arrays.*gru\(\).*cell\.init"),
    "integer params": (lambda: gj.unroll(GRU, P.params._replace(b_z=jnp.ones(H, int)), P.xs), TypeError, r"params\.b_z: got .*int.*expected an array of dtype float64"),
    "a number for a weight": (lambda: gj.unroll(GRU, P.params._replace(b_z=0.5), P.xs), TypeError, r"params\.b_z: got float, expected an array"),
    "mixed params": (lambda: gj.unroll(GRU, P.params._replace(U_z=half.U_z), P.xs), TypeError, r"params: got the dtypes bfloat16, float32, expected one.*jax\.tree\.map"),
    "a missing weight": (lambda: gj.unroll(GRU, P.params._replace(U_z=None), P.xs), TypeError, r"params\.U_z: got None, expected an array of shape \(5, 5\)"),
    "a missing input weight": (lambda: gj.unroll(GRU, P.params._replace(W_z=None), P.xs), TypeError, r"params\.W_z: got None, expected"),
    "a transposed weight": (lambda: gj.unroll(GRU, P.params._replace(W_r=P.params.W_r.T), P.xs), ValueError, r"params\.W_r: got shape \(5, 4\), expected \(4, 5\).*transpose"),
    "a vector for a matrix": (lambda: gj.unroll(GRU, P.params._replace(W_z=P.params.b_z), P.xs), ValueError, r"params\.W_z: got shape \(5,\), expected a matrix"),
    "peepholes where there are none": (lambda: gj.unroll(gj.lstm(), LSTM.params._replace(p_i=LSTM.params.b_i), LSTM.xs), TypeError, r"params\.p_i: got an array, expected None"),
    "no peepholes where there are some": (lambda: gj.unroll(gj.lstm(True), LSTM.params, LSTM.xs), TypeError, r"params\.p_i: got None, expected an array of shape \(5,\)"),
    "the factory for the cell": (lambda: gj.unroll(gj.gru, P.params, P.xs), TypeError, r"cell: got function, expected a gj\.Cell.*gj\.gru\(\) rather than"),
    "a string for the cell": (lambda: gj.unroll("gru", P.params, P.xs), TypeError, r"cell: got str, expected a gj\.Cell"),
    "an unknown derivative": (lambda: unroll(P.xs, derivative="forward"), ValueError, r"derivative: got 'forward', expected one of 'adjoint', 'both', 'autodiff'"),
    "an unknown activation": (lambda: gj.elman("gelu"), ValueError, r"activation: got 'gelu', expected one of 'tanh', 'relu'"),
    "half an adjoint row": (lambda: gj.unroll(GRU._replace(collect=None), P.params, P.xs), ValueError, r"cell: got gru\(\) with a part.*expected collect too"),
    "a negative batch": (lambda: GRU.initial_state(P.params, (-1,)), ValueError, r"batch_shape: got \(-1,\), expected"),
    "features of x in step": (lambda: GRU.step(P.params, P.h0, P.xs[0, :, :2]), ValueError, r"x: got 2 features.*expected 4"),
    "state of step": (lambda: GRU.step(P.params, P.h0[:2], P.xs[0]), ValueError, r"h: got.*\(2, 5\).*expected shape \(3, 5\)"),
    "hidden size": (lambda: GRU.init(jax.random.key(0), 3, 0), ValueError, r"hidden_size: got 0, expected at least 1"),
    "dtype of init": (lambda: GRU.init(jax.random.key(0), 3, 4, dtype=jnp.int32), TypeError, r"dtype: got int32, expected float64"),
    "chrono without biases": (lambda: gj.initializers.chrono(jax.random.key(0), GRU.init(jax.random.key(0), 2, 3, bias=False), 9), TypeError, r"params: got GRUParams without b_z.*bias=True"),
    "chrono for an RNN": (lambda: gj.initializers.chrono(jax.random.key(0), gj.elman().init(jax.random.key(0), 2, 3), 9), TypeError, r"params: got ElmanParams without b_f and b_i"),
    "chrono for nothing": (lambda: gj.initializers.chrono(jax.random.key(0), P.params, 2), ValueError, r"longest: got 2, expected at least 3"),
    "a negative bound": (lambda: gj.initializers.symmetric_uniform(-1), ValueError, r"bound: got -1, expected a number above 0"),
    "a length beyond T": (lambda: unroll(P.xs, lengths=np.array([1, T + 2, 3])), ValueError, r"lengths: got 9 at \(1,\), expected 0 to 7.*Pad xs"),
    "a negative length": (lambda: unroll(P.xs, lengths=[1, 2, -1]), ValueError, r"lengths: got -1 at \(2,\), expected 0 to 7"),
    "float lengths": (lambda: unroll(P.xs, lengths=jnp.ones(B)), TypeError, r"lengths: got dtype float.*expected integers.*astype\(int\)"),
    "boolean lengths": (lambda: unroll(P.xs, lengths=jnp.ones(B, bool)), TypeError, r"lengths: got dtype bool, expected integers.*mask"),
    "lengths of another batch": (lambda: unroll(P.xs, lengths=jnp.ones(B + 1, int)), ValueError, r"lengths: got shape \(4,\), expected \(3,\)"),
    "one length for a batch": (lambda: unroll(P.xs, lengths=3), ValueError, r"lengths: got shape \(\), expected \(3,\)"),
    "an integer mask": (lambda: unroll(P.xs, mask=jnp.ones((T, B), int)), TypeError, r"mask: got an array.*int.*expected booleans.*jnp\.asarray\(mask, bool\)"),
    "a list for a mask": (lambda: unroll(P.xs, mask=[True] * T), TypeError, r"mask: got list, expected booleans"),
    "a batch-major mask": (lambda: unroll(P.xs, mask=np.ones((B, T), bool)), ValueError, r"mask: got shape \(3, 7\), expected \(7, 3\) \(T, \*batch\).*time_major"),
    "a time-major mask": (lambda: unroll(P.xs, mask=np.ones((B, T), bool), time_major=False), ValueError, r"mask: got shape \(3, 7\), expected \(7, 3\) \(\*batch, T\)"),
    "a mask of features": (lambda: unroll(P.xs, mask=np.ones((T, B, 1), bool)), ValueError, r"mask: got shape \(7, 3, 1\), expected \(7, 3\)"),
    "float resets": (lambda: unroll(P.xs, resets=jnp.zeros((T, B))), TypeError, r"resets: got an array.*float.*expected booleans"),
    "resets of one sequence": (lambda: unroll(P.xs, resets=np.zeros(T, bool)), ValueError, r"resets: got shape \(7,\), expected \(7, 3\).*broadcast_to"),
    "a reset state without resets": (lambda: unroll(P.xs, reset_state=P.h0), ValueError, r"reset_state: got a state without resets.*h0"),
    "the shape of a reset state": (lambda: unroll(P.xs, resets=np.zeros((T, B), bool), reset_state=jnp.zeros(H + 1, jnp.float32)), ValueError, r"reset_state: got an array of shape \(6,\).*expected shape \(3, 5\).*\(5,\)"),
    "the dtype of a reset state": (lambda: unroll(P.xs, resets=np.zeros((T, B), bool), reset_state=jnp.zeros(H, jnp.float16)), TypeError, r"reset_state: got dtype float16, expected float32.*astype"),
    "the structure of a reset state": (lambda: unroll(P.xs, resets=np.zeros((T, B), bool), reset_state=LSTM.h0), TypeError, r"reset_state: got LSTMState, expected the state of cell gru"),
    "a reset of step": (lambda: gj.step(GRU, P.params, P.h0, P.xs[0], np.zeros(B)), TypeError, r"reset: got an array.*expected booleans"),
    "the shape of a reset of step": (lambda: gj.step(GRU, P.params, P.h0, P.xs[0], np.zeros((T, B), bool)), ValueError, r"reset: got shape \(7, 3\), expected \(3,\)"),
    "a reset state without a reset": (lambda: gj.step(GRU, P.params, P.h0, P.xs[0], reset_state=P.h0), ValueError, r"reset_state: got a state without reset,"),
    "the factory for the cell of step": (lambda: gj.step(gj.gru, P.params, P.h0, P.xs[0]), TypeError, r"cell: got function, expected a gj\.Cell"),
    "unknown outputs": (lambda: unroll(P.xs, outputs="first"), ValueError, r"outputs: got 'first', expected one of 'all', 'last', 'states'"),
    "a wider compute dtype": (lambda: gj.unroll(GRU, half, P.xs, compute_dtype=jnp.float32), ValueError, r"compute_dtype: got float32.*no wider than the params' bfloat16"),
    "an integer compute dtype": (lambda: unroll(P.xs, compute_dtype=jnp.int8), ValueError, r"compute_dtype: got int8, expected one of float64"),
    "a seed for a key": (lambda: unroll(P.xs, key=3), TypeError, r"key: got int, expected a jax\.random key"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case):
    assert_told(*BAD[case])


@pytest.mark.parametrize(
    "case", ["features of xs", "dtype of h0", "mixed params", "an unknown derivative", "a length beyond T", "float resets"]
)
def test_a_traced_call_is_told_the_same(case):
    call, error, message = BAD[case]
    assert_told(jax.jit(lambda: call()), error, message)


def test_params_may_be_numpy_arrays():
    as_numpy = jax.tree.map(np.asarray, P.params)
    assert (gj.unroll(GRU, as_numpy, np.asarray(P.xs))[1] == unroll(P.xs)[1]).all()


def test_lengths_may_be_a_list():
    assert (unroll(P.xs, lengths=[1, 2, 3])[1] == unroll(P.xs, lengths=np.array([1, 2, 3]))[1]).all()


def test_a_key_may_be_of_the_old_kind_and_a_cell_without_noise_ignores_it():
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        assert (unroll(P.xs, key=key)[1] == unroll(P.xs)[1]).all()

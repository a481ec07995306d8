"""Bad input raises an error that names the argument, what arrived, what was expected, and the fix.

`test_bad_params` does the same for parameters and cells.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import B, D, H, T, assert_close, assert_raises, problem

GRU = gj.gru()
P = problem(GRU, dtype=jnp.float32)
LSTM = problem(gj.lstm(), dtype=jnp.float32)
STACK = gj.stack([GRU, gj.lstm()])

unroll = partial(gj.unroll, GRU, P.params)
unroll_lstm = partial(gj.unroll, gj.lstm(), LSTM.params, LSTM.xs)
step = partial(gj.step, GRU, P.params)
no_resets = np.zeros((T, B), bool)

# name: (call, type of error, pattern that its message must match)
INPUTS_AND_STATES = {
    "rank of xs": (lambda: unroll(jnp.ones(D)), ValueError, r"xs: got shape \(4,\), expected \(T, \*batch, D\).*xs\[\.\.\., None\]"),
    "features of xs": (lambda: unroll(jnp.ones((T, B, D + 2))), ValueError, r"xs: got 6 features.*\(7, 3, 6\).*expected 4.*cell\.init\(key, 6"),
    "integer xs": (lambda: unroll(jnp.ones((T, B, D), jnp.int32)), TypeError, r"xs: got dtype int32, expected a floating.*astype.*one_hot"),
    "boolean xs": (lambda: unroll(np.ones((T, B, D), bool)), TypeError, r"xs: got dtype bool, expected a floating"),
    "complex xs": (lambda: unroll(jnp.ones((T, B, D), jnp.complex64)), TypeError, r"xs: got dtype complex64"),
    "a list for xs": (lambda: unroll([jnp.ones((B, D))] * T), TypeError, r"xs: got list, expected an array.*jnp\.stack"),
    "masked xs": (lambda: unroll(np.ma.masked_array(np.ones((T, B, D), np.float32), False)), TypeError, r"xs: got a NumPy masked array, expected an array.*xs\.filled\(0\).*mask="),
    "big-endian xs": (lambda: unroll(np.ones((T, B, D), ">f4")), TypeError, r"xs: got an array.*expected an array of dtype float64.*newbyteorder\('='\)"),
    "batch of h0": (lambda: unroll(P.xs[:, :2], P.h0), ValueError, r"h0: got.*\(3, 5\).*expected shape \(2, 5\).*initial_state"),
    "units of h0": (lambda: unroll(P.xs, P.h0[:, :4]), ValueError, r"h0: got.*\(3, 4\).*expected shape \(3, 5\) \(\*batch, H\), or one that broadcasts to it such as \(5,\)"),
    "an axis too many of h0": (lambda: unroll(P.xs, P.h0[None]), ValueError, r"h0: got.*\(1, 3, 5\).*expected shape \(3, 5\)"),
    "h without batch": (lambda: gj.step(GRU, P.params, P.h0[0], P.xs[0]), ValueError, r"h: got.*\(5,\).*expected shape \(3, 5\).*broadcast_to"),
    "dtype of h0": (lambda: unroll(P.xs, P.h0.astype(jnp.float16)), TypeError, r"h0: got dtype float16, expected float32.*astype"),
    "structure of h0": (lambda: unroll(P.xs, (P.h0, P.h0)), TypeError, r"h0: got a tuple of 2.*expected one array, the state of cell gru\(\).*initial_state"),
    "one array for the h0 of an LSTM": (lambda: unroll_lstm(LSTM.h0.h), TypeError, r"h0: got one array, expected gj\.cells\.LSTMState\(h, c\), the state of cell lstm"),
    "a tuple for the h0 of an LSTM": (lambda: unroll_lstm(tuple(LSTM.h0)), TypeError, r"h0: got a tuple of 2.*expected gj\.cells\.LSTMState\(h, c\)"),
    "a list for the h0 of an LSTM": (lambda: unroll_lstm(list(LSTM.h0)), TypeError, r"h0: got a list of 2.*expected gj\.cells\.LSTMState\(h, c\)"),
    "a negative batch": (lambda: GRU.initial_state(P.params, (-1,)), ValueError, r"batch_shape: got \(-1,\), expected"),
}  # fmt: skip

CONDITIONS = {
    "a length beyond T": (lambda: unroll(P.xs, lengths=np.array([1, T + 2, 3])), ValueError, r"lengths: got 9 at \(1,\), expected 0 to 7.*Pad xs"),
    "a negative length": (lambda: unroll(P.xs, lengths=[1, 2, -1]), ValueError, r"lengths: got -1 at \(2,\), expected 0 to 7"),
    "float lengths": (lambda: unroll(P.xs, lengths=jnp.ones(B)), TypeError, r"lengths: got dtype float.*expected integers.*jnp\.asarray\(lengths, int\)"),
    "boolean lengths": (lambda: unroll(P.xs, lengths=jnp.ones(B, bool)), TypeError, r"lengths: got dtype bool, expected integers.*mask"),
    "lengths of another batch": (lambda: unroll(P.xs, lengths=jnp.ones(B + 1, int)), ValueError, r"lengths: got shape \(4,\), expected \(3,\).*time_major=False"),
    "one length for a batch": (lambda: unroll(P.xs, lengths=3), ValueError, r"lengths: got shape \(\), expected \(3,\)"),
    "an integer mask": (lambda: unroll(P.xs, mask=jnp.ones((T, B), int)), TypeError, r"mask: got an array.*int.*expected booleans.*jnp\.asarray\(mask, bool\)"),
    "a list for a mask": (lambda: unroll(P.xs, mask=[True] * T), TypeError, r"mask: got list, expected booleans"),
    "a batch-major mask": (lambda: unroll(P.xs, mask=np.ones((B, T), bool)), ValueError, r"mask: got shape \(3, 7\), expected \(7, 3\) \(T, \*batch\).*time_major"),
    "a time-major mask": (lambda: unroll(P.xs, mask=np.ones((B, T), bool), time_major=False), ValueError, r"mask: got shape \(3, 7\), expected \(7, 3\) \(\*batch, T\)"),
    "a mask with a feature axis": (lambda: unroll(P.xs, mask=np.ones((T, B, 1), bool)), ValueError, r"mask: got shape \(7, 3, 1\), expected \(7, 3\)"),
    "float resets": (lambda: unroll(P.xs, resets=jnp.zeros((T, B))), TypeError, r"resets: got an array.*float.*expected booleans"),
    "resets of one sequence": (lambda: unroll(P.xs, resets=np.zeros(T, bool)), ValueError, r"resets: got shape \(7,\), expected \(7, 3\).*broadcast_to"),
    "a reset state without resets": (lambda: unroll(P.xs, reset_state=P.h0), ValueError, r"reset_state: got a state without resets.*h0"),
    "the shape of a reset state": (lambda: unroll(P.xs, resets=no_resets, reset_state=jnp.zeros(H + 1, jnp.float32)), ValueError, r"reset_state: got an array of shape \(6,\).*expected shape \(3, 5\).*\(5,\)"),
    "the dtype of a reset state": (lambda: unroll(P.xs, resets=no_resets, reset_state=jnp.zeros(H, jnp.float16)), TypeError, r"reset_state: got dtype float16, expected float32.*astype"),
    "the structure of a reset state": (lambda: unroll(P.xs, resets=no_resets, reset_state=LSTM.h0), TypeError, r"reset_state: got gj\.cells\.LSTMState\(h, c\), expected one array, the state of cell gru"),
}  # fmt: skip

OPTIONS = {
    "a string for a derivative": (lambda: unroll(P.xs, derivative="autodiff"), TypeError, r"derivative: got 'autodiff', expected gj\.CustomVJP\(…\), gj\.CustomJVP\(\) or gj\.Autodiff\(\)"),
    "the class of a derivative": (lambda: unroll(P.xs, derivative=gj.Autodiff), TypeError, r"derivative: got <class.*expected gj\.CustomVJP\(…\).*Write gj\.Autodiff\(\)\."),
    **{f"a block size of {wrong!r}": (lambda wrong=wrong: gj.CustomVJP(block_size=wrong), error, rf"block_size: got {wrong!r}, expected an int of at least 1, or None") for wrong, error in ((0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError), ("4", TypeError))},
    "unknown residuals": (lambda: gj.CustomVJP(residuals="all"), ValueError, r"residuals: got 'all', expected one of 'auto', 'states', 'gates'"),
    "unknown outputs": (lambda: unroll(P.xs, outputs="first"), ValueError, r"outputs: got 'first', expected one of 'all', 'last', 'states'"),
    "a string for reverse": (lambda: unroll(P.xs, reverse="False"), TypeError, r"reverse: got 'False', expected True or False"),
    "a number for time_major": (lambda: unroll(P.xs, time_major=0), TypeError, r"time_major: got 0, expected True or False"),
    "a wider compute dtype": (lambda: gj.unroll(GRU, jax.tree.map(lambda p: p.astype(jnp.bfloat16), P.params), P.xs, compute_dtype=jnp.float32), ValueError, r"compute_dtype: got float32.*not wider than bfloat16, the dtype of params"),
    "an integer compute dtype": (lambda: unroll(P.xs, compute_dtype=jnp.int8), ValueError, r"compute_dtype: got int8, expected a floating dtype \(float64"),
    "a seed for a key": (lambda: unroll(P.xs, key=3), TypeError, r"key: got int, expected a jax\.random key"),
}  # fmt: skip

STEP = {
    "features of x": (lambda: GRU.step(P.params, P.h0, P.xs[0, :, :2]), ValueError, r"x: got 2 features.*expected 4"),
    "the shape of h": (lambda: GRU.step(P.params, P.h0[:2], P.xs[0]), ValueError, r"h: got.*\(2, 5\).*expected shape \(3, 5\)"),
    "float reset": (lambda: step(P.h0, P.xs[0], reset=np.zeros(B)), TypeError, r"reset: got an array.*expected booleans"),
    "a number for reset": (lambda: step(P.h0, P.xs[0], reset=1), TypeError, r"reset: got int, expected booleans"),
    "the shape of reset": (lambda: step(P.h0, P.xs[0], reset=np.zeros((T, B), bool)), ValueError, r"reset: got shape \(7, 3\), expected \(3,\)"),
    "a reset state without a reset": (lambda: step(P.h0, P.xs[0], reset_state=P.h0), ValueError, r"reset_state: got a state without reset,"),
    "the function that makes the cell": (lambda: gj.step(gj.gru, P.params, P.h0, P.xs[0]), TypeError, r"cell: got function, expected a gj\.Cell"),
}  # fmt: skip

BAD_INPUT = INPUTS_AND_STATES | CONDITIONS | OPTIONS | STEP


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_raises_and_names_the_fix(case):
    assert_raises(*BAD_INPUT[case])


@pytest.mark.parametrize(
    "case", ["features of xs", "dtype of h0", "a string for a derivative", "a length beyond T", "float resets"]
)
def test_bad_input_raises_the_same_error_under_jit(case):
    call, error, message = BAD_INPUT[case]
    assert_raises(jax.jit(lambda: call()), error, message)


def test_lengths_may_be_a_list():
    assert_close(unroll(P.xs, lengths=[1, 2, 3]), unroll(P.xs, lengths=np.array([1, 2, 3])), tol=0)


def test_a_key_may_be_of_either_kind_and_a_cell_without_noise_ignores_it():
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        assert_close(unroll(P.xs, key=key), unroll(P.xs), tol=0)

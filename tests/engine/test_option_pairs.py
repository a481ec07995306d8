"""Every pair of options of `unroll` together at least once, against autodiff of the plain scan."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from allpairspy import AllPairs

import gru_jax as gj
from tests.conditions import LENGTHS, MASK, RESETS, batch_major, random_reset_state
from tests.problems import (
    CELLS,
    B,
    D,
    H,
    T,
    assert_close,
    errors,
    gradients,
    normal_like,
    problem,
    scan_of_step,
    tolerance,
    without_derivation,
)

pytestmark = [pytest.mark.derivative, pytest.mark.slow]

OPTIONS = {
    "cell": list(CELLS),
    "dtype": ["float64", "float32", "bfloat16", "float16"],
    "outputs": ["all", "states", "last"],
    "derivative": ["derived", "local", "CustomJVP"],
    "resets": ["none", "to zeros", "to a state"],
    "lengths": [False, True],
    "mask": [False, True],
    "reverse": [False, True],
    "time_major": [True, False],
    "bias": [True, False],
    "residuals": ["auto", "states", "gates"],
    # by the plan; one step; a shorter last block; a last block of one step
    "block_size": [None, 1, 3, T - 1],
}
CASES = [dict(zip(OPTIONS, case, strict=True)) for case in AllPairs(list(OPTIONS.values()))]


def test_the_cases_contain_every_pair():
    for (one, values), (other, others) in combinations(OPTIONS.items(), 2):
        assert {(case[one], case[other]) for case in CASES} == {(a, b) for a in values for b in others}


def derivative_of(case):
    if case["derivative"] == "CustomJVP":
        return gj.CustomJVP()
    return gj.CustomVJP(residuals=case["residuals"], block_size=case["block_size"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_values_and_gradients_equal_autodiff_of_the_plain_scan(case, needs_x64):
    cell, dtype = CELLS[case["cell"]], jnp.dtype(case["dtype"])
    tested = without_derivation(cell) if case["derivative"] == "local" else cell
    p = problem(cell, dtype=dtype, bias=case["bias"])
    options = {"reverse": case["reverse"], "outputs": case["outputs"]}
    conditions = {name: value for name, value in (("lengths", LENGTHS), ("mask", MASK)) if case[name]}
    conditions |= {} if case["resets"] == "none" else {"resets": RESETS}
    reset_state = random_reset_state(cell, p.params) if case["resets"] == "to a state" else None
    out = jax.eval_shape(partial(gj.unroll, cell, **options), p.params, p.xs, p.h0)
    p = p._replace(params=(p.params, reset_state), cotangents=normal_like(3, out))

    def measured(params_and_reset_state, xs, h0):
        params, reset_state = params_and_reset_state
        run = partial(gj.unroll, tested, derivative=derivative_of(case), reset_state=reset_state, **options)
        if case["time_major"]:
            return run(params, xs, h0, **conditions)
        h_last, ys = run(params, jnp.moveaxis(xs, 0, 1), h0, time_major=False, **batch_major(conditions))
        return h_last, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), ys)

    def reference(params_and_reset_state, xs, h0):
        params, reset_state = params_and_reset_state
        return scan_of_step(cell, params, xs, h0, reset_state=reset_state, **options, **conditions)

    autodiff = jax.jit(partial(gradients, reference))
    in_float64 = autodiff(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p))
    expected = in_float64 if dtype == jnp.float64 else autodiff(p)
    result = jax.jit(partial(gradients, measured))(p)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {dtype}
    if dtype == jnp.float64:
        assert_close(result, expected)
        return
    error, error_of_autodiff = errors(result, in_float64), errors(expected, in_float64)
    for path in error:
        assert error[path] <= max(tolerance(dtype, T * B + D + H), 4 * error_of_autodiff[path]), path

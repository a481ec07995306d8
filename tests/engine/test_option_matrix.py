"""Every pair of options of `unroll` together at least once, against autodiff of the plain scan."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import pytest
from allpairspy import AllPairs

import gru_jax as gj
from gru_jax import ops
from tests.engine.test_when import LENGTHS, MASK, RESETS, reset_state_of
from tests.problems import CELLS, JOINT, B, D, H, T, assert_close, errors, gradients, problem, scan_of_step, tolerance

pytestmark = [pytest.mark.derivative, pytest.mark.slow]

OPTIONS = {
    "cell": list(CELLS),
    "dtype": ["float64", "float32", "bfloat16", "float16"],
    "outputs": ["all", "states", "last"],
    "derivative": ["derived", "local", "both"],
    "resets": ["none", "to zeros", "to a state"],
    "lengths": [False, True],
    "mask": [False, True],
    "reverse": [False, True],
    "time_major": [True, False],
    "bias": [True, False],
    "residuals": ["auto", "states", "gates"],
    "block_size": [None, 1, 3, T - 1],  # chosen: all at once; one step; with a shorter last one; with a last one of one step
}
CASES = [dict(zip(OPTIONS, case, strict=True)) for case in AllPairs(list(OPTIONS.values()))]


def test_the_cases_hold_every_pair():
    for (one, values), (other, others) in combinations(OPTIONS.items(), 2):
        assert {(case[one], case[other]) for case in CASES} == {(a, b) for a in values for b in others}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_values_and_gradients_equal_autodiff_of_the_plain_scan(case, needs_x64, monkeypatch):
    cell, dtype = CELLS[case["cell"]], jnp.dtype(case["dtype"])
    tested = cell._replace(coefficients=None, pull=None, collect=None) if case["derivative"] == "local" else cell
    p = problem(cell, dtype=dtype, bias=case["bias"])
    options = {"reverse": case["reverse"], "outputs": case["outputs"]}
    when = {name: value for name, value in (("lengths", LENGTHS), ("mask", MASK)) if case[name]}
    when |= {} if case["resets"] == "none" else {"resets": RESETS}
    fresh = reset_state_of(cell, p.params) if case["resets"] == "to a state" else None
    out = jax.eval_shape(partial(gj.unroll, cell, **options), p.params, p.xs, p.h0)
    key = iter(jax.random.split(jax.random.key(3), 9))
    cotangents = jax.tree.map(lambda leaf: jax.random.normal(next(key), leaf.shape, leaf.dtype), out)
    p = p._replace(params=(p.params, fresh), cotangents=cotangents)

    def measured(given, xs, h0):
        params, reset_state = given
        how = {"derivative": "both" if case["derivative"] == "both" else "adjoint", "reset_state": reset_state} | options
        how |= {"residuals": case["residuals"], "block_size": case["block_size"]}
        if case["time_major"]:
            return gj.unroll(tested, params, xs, h0, **how, **when)
        turned = {name: value if name == "lengths" else value.T for name, value in when.items()}
        h_last, ys = gj.unroll(tested, params, jnp.moveaxis(xs, 0, 1), h0, time_major=False, **how, **turned)
        return h_last, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), ys)

    def oracle(given, xs, h0):
        params, reset_state = given
        return scan_of_step(cell, params, xs, h0, reset_state=reset_state, **options, **when)

    autodiff = jax.jit(partial(gradients, oracle))
    expected, truth = autodiff(p), autodiff(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), p))
    by_autodiff = errors(expected, truth)
    # what small cells do and what larger ones do: [x, h] [W; U] in the loop, or x W before it and h U in it
    for joint in (True, False) if case["cell"] in JOINT and dtype.itemsize >= 4 else (True,):
        monkeypatch.setattr(ops, "JOINT_UP_TO", D + H if joint else 0)
        result = jax.jit(partial(gradients, measured))(p)
        assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {dtype}
        if dtype == jnp.float64:
            assert_close(result, expected)
            continue
        ours = errors(result, truth)
        for path in ours:
            assert ours[path] <= max(tolerance(dtype, T * B + D + H), 4 * by_autodiff[path]), path

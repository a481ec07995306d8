"""Wrong derivations, planted: each is caught, and the leaves it spoils are named, neither more nor fewer.

With one step every fault shows exactly in what it computes, so the set of wrong leaves is known. Over several steps, and at
saturated inputs, tests/verify/test_mutants.py plants the same faults. A suite in which a wrong sign passes proves nothing: these are
the tests of the tests.
"""

from functools import cache, partial

import jax
import pytest

import gru_jax as gj
from experiments.mutants.lines import FAULTS, with_fault
from tests.problems import CELLS, GATED, errors, gradients, problem, tolerance

pytestmark = [pytest.mark.derivative, pytest.mark.slow]


@cache
def by_rule(cell):
    return jax.jit(partial(gradients, partial(gj.unroll, cell)))


def wrong_leaves(cell, faulty, p):
    """Names of the leaves whose gradient under `faulty` is off."""
    _, bars = jax.jit(partial(gradients, partial(gj.unroll, faulty)))(p)
    _, expected = by_rule(cell)(p)
    names = {path: path.removeprefix("[0].").replace("[1]", "xs").replace("[2]", "h0") for path in errors(bars, expected)}
    limit = tolerance(jax.numpy.float64)
    return {names[path] for path, error in errors(bars, expected).items() if not error <= limit}


def test_every_gated_cell_has_at_least_ten_faults():
    assert set(FAULTS) == set(GATED)
    assert all(len(faults) >= 10 for faults in FAULTS.values())


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name in GATED for fault in FAULTS[name]])
def test_a_planted_fault_is_caught_and_its_leaf_named(name, fault, needs_x64):
    cell = CELLS[name]
    faulty = with_fault(cell, FAULTS[name][fault])
    assert wrong_leaves(cell, faulty, problem(cell, steps=1)) == FAULTS[name][fault][2]


@pytest.mark.parametrize("name", GATED)
def test_the_right_derivation_has_no_wrong_leaf(name, needs_x64):
    plain = CELLS[name]._replace(coefficients=None, pull=None, collect=None)
    assert wrong_leaves(plain, CELLS[name], problem(CELLS[name])) == set()

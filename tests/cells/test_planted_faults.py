"""Plants wrong derivations: each is detected, and exactly the leaves that it affects are wrong.

Over a single step, it is known which leaves each fault affects. tests/verify/test_mutants.py plants
the same faults over several steps and at saturated inputs. These tests show that the other tests
can fail.
"""

from functools import cache, partial

import jax
import pytest

import gru_jax as gj
from experiments.mutants.lines import FAULTS, with_fault
from tests.problems import CELLS, GATED, errors, gradients, problem, tolerance, without_derivation

pytestmark = [pytest.mark.derivative, pytest.mark.slow]


@cache
def compiled_gradients(cell):
    return jax.jit(partial(gradients, partial(gj.unroll, cell)))


def wrong_leaves(cell, faulty, p):
    """Returns the names of the leaves whose gradient differs between the two cells."""
    _, bars = jax.jit(partial(gradients, partial(gj.unroll, faulty)))(p)
    _, expected = compiled_gradients(cell)(p)
    names = {path: path.removeprefix("[0].").replace("[1]", "xs").replace("[2]", "h0") for path in errors(bars, expected)}
    limit = tolerance(jax.numpy.float64)
    return {names[path] for path, error in errors(bars, expected).items() if not error <= limit}


def test_every_gated_cell_has_at_least_ten_faults():
    assert set(FAULTS) == set(GATED)
    assert all(len(faults) >= 10 for faults in FAULTS.values())


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name in GATED for fault in FAULTS[name]])
def test_a_planted_fault_makes_exactly_its_leaves_wrong(name, fault, needs_x64):
    cell = CELLS[name]
    faulty = with_fault(cell, FAULTS[name][fault])
    assert wrong_leaves(cell, faulty, problem(cell, steps=1)) == FAULTS[name][fault][2]


@pytest.mark.parametrize("name", GATED)
def test_the_right_derivation_has_no_wrong_leaf(name, needs_x64):
    cell = CELLS[name]
    assert wrong_leaves(without_derivation(cell), cell, problem(cell)) == set()

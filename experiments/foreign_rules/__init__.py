"""Rules of other people, right and wrong, with their truth.

`python -m experiments.strangers` judges them. Each module has the cases of one class of rules.

    case            what a case is, and rules made from formulas
    truth           the truth of a case by differences in float64
    verdicts        whether a report judges a case rightly
    workers         judges cases in processes of their own
    kinks           relu, maximum, L1 and others, with data at their kinks
    domains         positive, sorted, unit-norm and positive definite arguments
    losses          softmax, cross-entropy, normalisations and activations
    attention       attention with masks of −inf
    linear_algebra  products, inverses, decompositions and transforms
    solvers         implicit derivatives of equations, fixed points and linear systems
    intended        gradients that are not derivatives: straight-through, reversal, clipping
    indexing        gathers, segments and permutations
    masks           masks, lengths and inputs that hide faults
    precision       half precision, callbacks and small constants
    forward_rules   custom_jvp, and functions without a rule of their own
    structures      pytrees, integers, complex numbers, keys, and ways to attach a rule
    control_flow    loops, branches and transformations in rules, and extreme sizes
    published       rules in published packages
"""

from experiments.foreign_rules import (
    attention,
    control_flow,
    domains,
    forward_rules,
    indexing,
    intended,
    kinks,
    linear_algebra,
    losses,
    masks,
    precision,
    solvers,
    structures,
)
from experiments.foreign_rules.case import Case

_MODULES = (
    kinks,
    domains,
    losses,
    attention,
    linear_algebra,
    solvers,
    intended,
    indexing,
    masks,
    precision,
    forward_rules,
    structures,
    control_flow,
)


def cases() -> dict[str, Case]:
    """Returns the cases that need no other package, by name."""
    return {f"{module.__name__.split('.')[-1]}: {name}": case for module in _MODULES for name, case in module.CASES.items()}

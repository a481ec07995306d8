"""Rules of other people are judged rightly.

These tests judge some of them. `python -m experiments.strangers` judges all, and published ones.
"""

import warnings

import pytest

import gru_jax as gj
from experiments import foreign_rules
from experiments.foreign_rules.truth import rule_is_right
from experiments.foreign_rules.verdicts import arguments_of, judgement_of, truth_of

CASES = foreign_rules.cases()
BY_DEFAULT = list(CASES)[::48]
SLOW = list(CASES)[::6]  # contains those that run by default


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in SLOW])
def test_a_rule_is_judged_rightly(name):
    case = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns outside the domain of a callback
        checks = ("fast", "native", "numerical", "edges")
        report = gj.verify_vjp(case.fun, *arguments_of(case), checks=checks, **case.options)
    assert judgement_of(case, report) == "good", report.full()
    assert len(str(report).splitlines()) <= 15


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in list(CASES)[::24]]
)
def test_the_truth_of_a_case_is_what_its_label_says(name):
    assert truth_of(CASES[name]) in ("confirmed", "by intention")


def test_there_are_enough_right_and_wrong_rules_of_each_class():
    labels = [case.label for case in CASES.values()]
    assert labels.count("right") > 60
    assert labels.count("wrong") > 50
    assert labels.count("invisible") > 8
    assert labels.count("intended") > 8


def test_the_truth_notices_an_error_of_one_per_cent():
    right, wrong = CASES["losses: softplus"], CASES["solvers: bisection, off by 1 %"]
    assert rule_is_right(right, right.args)
    assert not rule_is_right(wrong, wrong.args)

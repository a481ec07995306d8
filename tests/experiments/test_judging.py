"""Tests how `experiments.strangers` runs cases and counts judgements."""

import numpy as np
import pytest

from experiments import foreign_rules, strangers
from experiments.foreign_rules import published
from experiments.foreign_rules.case import Case, rule
from experiments.foreign_rules.truth import by_check_grads, rule_is_right
from experiments.foreign_rules.workers import Judged, judged
from experiments.summary_tables.formatting import record

SOFTPLUS = "losses: softplus"


def test_a_case_that_does_not_end_is_stopped():
    (found,) = judged([SOFTPLUS], processes=2, seconds=0.0)
    assert (found.name, found.judgement) == (SOFTPLUS, "out of time")
    assert found.report == "stopped after 0 s"


@pytest.mark.slow
def test_cases_are_judged_in_processes():
    wrong = "losses: softplus, tanh"
    found = {case.name: case for case in judged([SOFTPLUS, wrong], processes=2, seconds=300.0)}
    assert (found[SOFTPLUS].label, found[SOFTPLUS].verdict, found[SOFTPLUS].check_grads) == ("right", "RIGHT", "accepted")
    assert (found[wrong].label, found[wrong].verdict, found[wrong].check_grads) == ("wrong", "WRONG GRADIENT", "rejected")
    assert {case.judgement for case in found.values()} == {"good"}
    assert {case.truth for case in found.values()} == {"confirmed"}
    assert min(case.seconds for case in found.values()) > 0


def test_judgements_are_counted_by_class():
    case = lambda name, label, judgement, by_others, seconds: Judged(
        name, label, judgement, "", seconds, "confirmed", by_others, ""
    )
    cases = [
        case("a: one", "right", "right rejected", "accepted", 1.0),
        case("a: two", "wrong", "wrong accepted", "accepted", 2.0),
        case("b: three", "invisible", "unannounced", "accepted", 9.0),
        case("b: four", "no rule", "out of time", "rejected", 4.0),
        case("b: five", "intended", "good", "raised", 5.0),
    ]
    found = strangers.summary_of(cases)
    assert (found["cases"], found["right"], found["wrong"], found["invisible"]) == (5, 3, 1, 1)
    assert [found[fault] for fault in strangers.FAULTS] == [1, 0, 1, 0, 1]
    assert found["out of time"] == 1
    assert (found["right_rejected_by_check_grads"], found["wrong_accepted_by_check_grads"]) == (1, 1)
    assert (found["median_seconds"], found["largest_seconds"]) == (4.0, 9.0)
    assert list(map(strangers.class_of, cases)) == ["a", "a", "b", "b", "b"]
    assert "| b: four | no rule | confirmed |  | out of time | 4.0 |" in strangers.table(cases)


def test_the_committed_run_confirmed_the_label_of_every_case():
    found = {case["name"]: case for case in record("strangers")["results"]["cases"]}
    own = {name: case["label"] for name, case in found.items() if not name.startswith(published.PREFIX)}
    assert own == {name: case.label for name, case in foreign_rules.cases().items()}
    assert len(found) - len(own) > 40
    assert {case["truth"] for case in found.values()} == {"confirmed", "by intention"}
    assert record("strangers")["summary"]["not_installed"] == {}


def test_a_published_case_is_found_by_its_name():
    case = published.find("published: optax, scale_gradient")
    assert case.label == "intended"
    assert case.options["gradient"](case.args, np.float32(2.0)) == (1.0,)


@pytest.mark.slow
def test_the_truth_of_a_complex_rule_is_that_of_its_parts():
    z = (np.arange(1, 4) + 1j * np.arange(2, 5)).astype(np.complex64)
    square = lambda backward: Case(foreign_square(backward), (z,), "right")
    assert rule_is_right(square(lambda z, u: 2 * z * u), (z,))
    assert not rule_is_right(square(lambda z, u: 2 * z.conj() * u), (z,))
    assert by_check_grads(square(lambda z, u: 2 * z * u)) == "accepted"


def foreign_square(backward):
    """Returns the square of complex numbers with a rule `backward(z, u)`."""
    return rule(lambda z: z**2, lambda args, y, u: (backward(args[0], u),))

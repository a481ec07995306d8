"""Whether a report judges a case rightly, and whether the truth of a case is what its label says."""

from typing import Any

import gru_jax as gj
from experiments.foreign_rules.case import Case
from experiments.foreign_rules.truth import rule_is_right


def truth_of(case: Case) -> str:
    """Returns whether the truth of a case is what its label says: "confirmed", or what is found."""
    is_right = rule_is_right(case, case.args)
    if case.label == "invisible":
        shows = case.reveal is not None and not rule_is_right(case, case.reveal)
        return "confirmed" if is_right and shows else f"right here: {is_right}, wrong elsewhere: {shows}"
    if case.label == "intended" or {"gradient", "reference"} & set(case.options):
        return "by intention"
    return "confirmed" if is_right == (case.label in ("right", "no rule")) else f"right: {is_right}"


def arguments_of(case: Case) -> tuple[Any, ...]:
    """Returns the arguments to pass to `verify_vjp`: none if an option draws them."""
    return () if "sample" in case.options else case.args


def judgement_of(case: Case, report: gj.verify.Report) -> str:
    """Returns whether a report judges a case rightly: "good", or what is wrong with it."""
    if case.label == "no rule":
        return "right rejected" if report.failed else "good"
    accepted = report.ok and report.verdict in ("RIGHT", "RIGHT with notes", "REFERENCE UNRELIABLE")
    if case.label in ("right", "intended"):
        return "good" if accepted else "right rejected" if report.failed else "right undecided"
    if report.failed:
        return "good"
    if case.label == "invisible" and report["inputs"].blind_inputs:
        return "good"
    return {"wrong": "wrong accepted", "invisible": "unannounced"}[case.label] if accepted else "wrong undecided"

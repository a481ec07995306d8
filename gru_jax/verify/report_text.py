"""The text of a report: a short one of at most 15 lines, and a full one."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gru_jax.verify.comparison import Difference

if TYPE_CHECKING:
    from gru_jax.verify.report import Check, Report

WIDTH = 160
_MOST_NOTES = 6
_MOST_DIFFERENCES = 6
_UNDER = {"vmap", "scan", "checkpoint", "shard_map", "flags", "second_order", "edges", "eager"}


def short(report: "Report") -> list[str]:
    """Returns the verdict, the worst entry, the other failing checks, notes and how to reproduce."""
    lines = [first_line(report)]
    if report.failed:
        first = _deciding(report)
        if first.differences:
            lines.append(f"  {side_by_side(first.differences[0], first.name)}")
        elif first.text not in lines[0]:
            lines.append(f"  {first.name}: {first.text}")
        others = [check for check in report.failed if check is not first]
        if others:
            lines.append(f"  also failed: {', '.join(map(_with_leaves, others))}")
    for name in report.missing:
        if report[name].status != "FAIL":
            lines.append(f"  {name} is required: {report[name].text}")
    shown = report.notes[:_MOST_NOTES]
    lines += [f"  note: {note}" for note in shown]
    if len(report.notes) > len(shown):
        lines.append(f"  and {len(report.notes) - len(shown)} more notes")
    skipped = [check.name for check in report.with_status("NOT CHECKED") if check.requested]
    if skipped and not (report.verdict == "NOT CHECKED" and not report.notes and len(skipped) == len(report.checks)):
        lines.append(f"  not checked: {', '.join(skipped)}")
    if not report.ok:
        lines.append(f"  reproduce: {report.call}")
        lines.append("  every check, versions and settings: report.full()")
    return [line if len(line) <= WIDTH or "reproduce" in line else line[: WIDTH - 1] + "…" for line in lines]


def first_line(report: "Report") -> str:
    """Returns the verdict with what it is about."""
    verdict, name = report.verdict, report.function
    passed = f"{len(report.with_status('PASS'))} checks passed in {report.seconds:.1f} s"
    if report.failed:
        first = _deciding(report)
        outputs = list(dict.fromkeys(d.leaf for d in first.differences))
        leaves = ", ".join(report.wrong_leaves or outputs)
        under = f" ({first.name})" if first.name in _UNDER else ""
        cause = next((d.likely_cause for d in first.differences if d.likely_cause), "")
        cause = cause or ("" if first.differences else first.text)
        return f"{verdict}{' of ' if leaves else ''}{leaves}{under}: {name}{': ' if cause else ''}{cause}"
    if verdict == "NOT CHECKED":
        what = ", ".join(report.unchecked)
        reasons = dict.fromkeys(report[check].text for check in ("gradient", "numerical") if report[check].requested)
        reason = "; ".join(reasons) or "no check of values was requested"
        return (
            f"{verdict}: {name}: {what}: {reason}" if what else f"{verdict}: {name}: {', '.join(report.missing)} did not pass"
        )
    if verdict == "REFERENCE UNRELIABLE":
        leaves = ", ".join(dict.fromkeys(leaf for check in report.checks for leaf in check.unreliable))
        confirmed = "and nothing else decides" if report.unchecked else "and confirm the rule"
        return f"{verdict}: {name}: differences of values contradict autodiff in {leaves}, {confirmed}"
    return f"{verdict}: {name}: {passed}"


def side_by_side(difference: Difference, check: str = "gradient") -> str:
    """Returns an entry by the rule, by autodiff and by differences of values."""
    if np.isnan(difference.value) and np.isnan(difference.expected) and not difference.by_differences:
        return f"{difference.leaf}: {difference.condition}"
    expected = {"primal": "expected", "numerical": "differences"}.get(check, "autodiff")
    if check in _UNDER - {"second_order", "edges"} or check in ("linearity", "determinism"):
        expected = "expected"
    numbers = f"rule {difference.value:.7g}, {expected} {difference.expected:.7g}"
    if check not in ("numerical", "primal") and difference.by_differences:
        differences = [f"{value:.7g}" for value in difference.by_differences]
        numbers += f", differences {' before and '.join(differences)}{' after it' if len(differences) == 2 else ''}"
    return f"{difference.entry}: {numbers} ({difference.condition})"


def full(report: "Report") -> list[str]:
    """Returns every check with its time, and how the verification was run."""
    lines = [first_line(report)]
    if report.wrong_leaves:
        lines.append(f"wrong leaves: {', '.join(report.wrong_leaves)}")
    if report.unchecked:
        lines.append(f"unchecked leaves: {', '.join(report.unchecked)}")
    lines += [f"note: {note}" for note in report.notes]
    width = max((len(check.name) for check in report.checks), default=0)
    for check in (*report.failed, *report.with_status("PASS")):
        lines.append(f"{check.status:<11}  {check.name:<{width}}  {check.seconds:5.1f} s  {check.text}".rstrip())
        lines += _indented(check.differences, width + 24)
    skipped = report.with_status("NOT CHECKED")
    for reason in dict.fromkeys(check.text for check in skipped):
        names = ", ".join(check.name for check in skipped if check.text == reason)
        lines.append(f"NOT CHECKED  {names}: {reason}")
    lines += [f"{name}: {_one_line(value)}" for name, value in report.header.items()]
    return [*lines, f"reproduce: {report.call}"]


def _deciding(report: "Report") -> "Check":
    """Returns the failed check that the verdict quotes."""
    order = ["gradient", "numerical", "native", "cotangents", "dot_product"]
    rank = lambda check: order.index(check.name) if check.name in order else len(order)
    return min(report.failed, key=rank)


def _with_leaves(check: "Check") -> str:
    leaves = ", ".join(dict.fromkeys(d.leaf for d in check.differences))
    return f"{check.name} ({leaves})" if leaves else check.name


def _indented(differences: Sequence[Difference], width: int) -> list[str]:
    margin = " " * width
    lines = [margin + line for difference in differences[:_MOST_DIFFERENCES] for line in str(difference).splitlines()]
    hidden = len(differences) - _MOST_DIFFERENCES
    return [*lines, f"{margin}and {hidden} more"] if hidden > 0 else lines


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    is_list = isinstance(value, Iterable) and not isinstance(value, str)
    return ", ".join(map(str, value)) if is_list else str(value)

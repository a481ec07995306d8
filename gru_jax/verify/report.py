"""What a verification found: a verdict, the checks, and the circumstances under which they ran."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gru_jax.verify.compare import Difference

PASS, FAIL, NOT_CHECKED = "PASS", "FAIL", "NOT CHECKED"


class Check(NamedTuple):
    """One check.

    Attributes:
        name: of the check.
        status: "PASS", "FAIL" or "NOT CHECKED".
        text: what was measured, or why it failed or was not checked.
        differences: leaf by leaf, what was wrong; the worst first.
        data: figures for machines.
    """

    name: str
    status: str
    text: str
    differences: tuple[Difference, ...] = ()
    data: dict[str, Any] = {}  # noqa: RUF012 - never written to


@dataclass(frozen=True)
class Report:
    """What `verify_vjp` found. `print` it; `ok` says whether no check failed; `to_json` is for machines.

    Attributes:
        function: name of what was verified.
        leaves: names of the arguments' differentiable leaves.
        checks: every check, the skipped ones too.
        header: versions, device, settings, seed, scale of each leaf.
    """

    function: str
    leaves: tuple[str, ...]
    checks: tuple[Check, ...]
    header: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == FAIL)

    @property
    def wrong_leaves(self) -> tuple[str, ...]:
        """Names of the leaves that some failed check found wrong."""
        return tuple(dict.fromkeys(d.leaf for check in self.failed for d in check.differences if d.leaf in self.leaves))

    def __getitem__(self, name: str) -> Check:
        """The check of that name."""
        found = {check.name: check for check in self.checks}
        if name not in found:
            raise KeyError(f"no check {name!r} in this report; it has {', '.join(found)}")
        return found[name]

    def to_json(self) -> str:
        """The report as JSON: ok, function, checks, header."""
        checks = [
            {
                "name": check.name,
                "status": check.status,
                "text": check.text,
                "differences": [d._asdict() for d in check.differences],
                "data": check.data,
            }
            for check in self.checks
        ]
        whole = {"ok": self.ok, "function": self.function, "leaves": self.leaves, "checks": checks, "header": self.header}
        return json.dumps(_finite(whole), indent=1, allow_nan=False)

    def __str__(self) -> str:
        count = {status: sum(check.status == status for check in self.checks) for status in (PASS, FAIL, NOT_CHECKED)}
        verdict = "FAIL" if self.failed else "PASS"
        lines = [
            f"{verdict}: {self.function}: {count[FAIL]} failed, {count[PASS]} passed, {count[NOT_CHECKED]} not checked",
        ]
        if self.wrong_leaves:
            lines.append(f"wrong: {', '.join(self.wrong_leaves)}")
        width = max((len(check.name) for check in self.checks), default=0)
        for status in (FAIL, PASS):
            for check in self.checks:
                if check.status == status:
                    lines.append(f"{status:<11}  {check.name:<{width}}  {check.text}".rstrip())
                    lines += _indented(check.differences, width)
        skipped = [check for check in self.checks if check.status == NOT_CHECKED]
        for reason in dict.fromkeys(check.text for check in skipped):
            lines.append(f"{NOT_CHECKED:<11}  {', '.join(check.name for check in skipped if check.text == reason)}: {reason}")
        lines += [f"{name}: {_one_line(value)}" for name, value in self.header.items()]
        return "\n".join(lines)


_SHOWN = 6


def _indented(found: Sequence[Difference], width: int) -> list[str]:
    margin = " " * (width + 15)
    lines = [margin + line for difference in found[:_SHOWN] for line in str(difference).splitlines()]
    return lines + ([f"{margin}and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _finite(value: Any) -> Any:
    """`value` with infinities and NaN as strings, which JSON has no numbers for."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

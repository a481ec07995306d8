"""The result of a verification: a verdict, the checks, and how they were run."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gru_jax.verify.comparison import Difference
from gru_jax.verify.json_values import to_json_value

Status = Literal["PASS", "FAIL", "NOT CHECKED"]
PASS: Status = "PASS"
FAIL: Status = "FAIL"
NOT_CHECKED: Status = "NOT CHECKED"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Example:
        >>> import jax.numpy as jnp
        >>> import gru_jax as gj
        >>> report = gj.verify_vjp(jnp.sin, jnp.array([0.5, 2.0]), reference=jnp.sin, checks="fast")
        >>> report["gradient"].status
        'PASS'

    Attributes:
        name: Name of the check.
        status: "PASS", "FAIL" or "NOT CHECKED".
        text: What was measured, or why the check failed, did not run or could not decide.
        differences: The leaves that are wrong.
        requested: Whether the caller asked for the check.
        worst_error: The largest error found, relative to a leaf's scale. Set by the check
            `gradient`.
        allowed_error: The largest error allowed, relative to a leaf's scale. Set by the check
            `gradient`.
        blind_inputs: Properties of the inputs that hide faults. Set by the check `inputs`.
        details: Further measurements, which appear only in the JSON report.
    """

    name: str
    status: Status
    text: str
    differences: tuple[Difference, ...] = ()
    requested: bool = True
    worst_error: float | None = None
    allowed_error: float | None = None
    blind_inputs: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The result of `verify_vjp`. Print it for people, or call `to_json` for machines.

    Example:
        >>> import jax.numpy as jnp
        >>> import gru_jax as gj
        >>> report = gj.verify_vjp(jnp.sin, jnp.array([0.5, 2.0]), reference=jnp.sin, checks="fast")
        >>> report.ok, report.wrong_leaves
        (True, ())

    Attributes:
        function: Name of the function that was verified.
        leaves: Names of the differentiable leaves of its arguments.
        checks: Every check, including those that did not run.
        header: Versions, device, settings, seed, and the size of each leaf.
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
    def verdict(self) -> Status:
        """The overall status: "PASS" if no check failed, otherwise "FAIL"."""
        return PASS if self.ok else FAIL

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return self.with_status(FAIL)

    @property
    def wrong_leaves(self) -> tuple[str, ...]:
        """Names of the leaves that failed checks found wrong."""
        return tuple(dict.fromkeys(d.leaf for check in self.failed for d in check.differences if d.leaf in self.leaves))

    def with_status(self, status: Status) -> tuple[Check, ...]:
        """Returns the checks with that status."""
        return tuple(check for check in self.checks if check.status == status)

    def __getitem__(self, name: str) -> Check:
        """Returns the check of that name.

        Raises:
            KeyError: If the report has no such check.
        """
        found = {check.name: check for check in self.checks}
        if name not in found:
            raise KeyError(f"name must be a check of this report, got {name!r}; it has {', '.join(found)}")
        return found[name]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dict of values that JSON can hold."""
        return to_json_value(
            {
                "ok": self.ok,
                "function": self.function,
                "leaves": self.leaves,
                "checks": [dataclasses.asdict(check) for check in self.checks],
                "header": self.header,
            }
        )

    def to_json(self) -> str:
        """Returns `to_dict()` as JSON text. Infinities and NaN become strings."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def __str__(self) -> str:
        counts = ", ".join(
            f"{len(self.with_status(status))} {words}"
            for status, words in {FAIL: "failed", PASS: "passed", NOT_CHECKED: "not checked"}.items()
        )
        lines = [f"{self.verdict}: {self.function}: {counts}"]
        if self.wrong_leaves:
            lines.append(f"wrong leaves: {', '.join(self.wrong_leaves)}")
        width = max((len(check.name) for check in self.checks), default=0)
        for check in (*self.with_status(FAIL), *self.with_status(PASS)):
            lines.append(f"{check.status:<11}  {check.name:<{width}}  {check.text}".rstrip())
            lines += _indented(check.differences, width + 15)
        skipped = self.with_status(NOT_CHECKED)
        for reason in dict.fromkeys(check.text for check in skipped):
            names = ", ".join(check.name for check in skipped if check.text == reason)
            lines.append(f"{NOT_CHECKED:<11}  {names}: {reason}")
        lines += [f"{name}: {_one_line(value)}" for name, value in self.header.items()]
        return "\n".join(lines)


def pass_or_fail(faults: Sequence[Any] | Mapping[Any, Any]) -> Status:
    """Returns FAIL if there are faults, otherwise PASS."""
    return FAIL if faults else PASS


_MOST_SHOWN = 6


def _indented(differences: Sequence[Difference], width: int) -> list[str]:
    margin = " " * width
    lines = [margin + line for difference in differences[:_MOST_SHOWN] for line in str(difference).splitlines()]
    hidden = len(differences) - _MOST_SHOWN
    return [*lines, f"{margin}and {hidden} more"] if hidden > 0 else lines


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

"""The result of a verification: a verdict, the checks, and how they were run."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gru_jax.verify import report_text
from gru_jax.verify.comparison import Difference
from gru_jax.verify.json_values import to_json_value

Status = Literal["PASS", "FAIL", "NOT CHECKED"]
PASS: Status = "PASS"
FAIL: Status = "FAIL"
NOT_CHECKED: Status = "NOT CHECKED"
Verdict = Literal["RIGHT", "RIGHT with notes", "WRONG GRADIENT", "WRONG OUTPUT", "NOT CHECKED", "REFERENCE UNRELIABLE"]


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
        notes: What the verdict mentions, such as a kink or a transformation that raises.
        decided: Names of the leaves whose gradient the check compared with numbers from elsewhere.
        unreliable: Names of the leaves where differences of values contradict the reference.
        seconds: How long the check took.
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
    notes: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    unreliable: tuple[str, ...] = ()
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The result of `verify_vjp`. Print it for people, or call `to_json` for machines.

    Example:
        >>> import jax.numpy as jnp
        >>> import gru_jax as gj
        >>> report = gj.verify_vjp(jnp.sin, jnp.array([0.5, 2.0]), reference=jnp.sin, checks="fast")
        >>> report.ok, report.verdict, report.wrong_leaves
        (True, 'RIGHT', ())

    Attributes:
        function: Name of the function that was verified.
        leaves: Names of the differentiable leaves of its arguments.
        checks: Every check, including those that did not run.
        header: Versions, device, settings, seed, and the size of each leaf.
        empty: Names of the leaves without entries, which need no check.
        allow: Names of the leaves that may stay unchecked.
        require: Names of the checks that must pass.
        call: The call that reproduces the report.
    """

    function: str
    leaves: tuple[str, ...]
    checks: tuple[Check, ...]
    header: dict[str, Any]
    empty: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    call: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, and all leaves were checked, except those of `allow`."""
        return not self.failed and not self.missing and set(self.unchecked) <= set(self.allow)

    @property
    def verdict(self) -> Verdict:
        """What the checks say together.

        "RIGHT", "RIGHT with notes", "WRONG GRADIENT", "WRONG OUTPUT" if only the forward rule is
        wrong, "NOT CHECKED" if a leaf has no evidence or a required check did not pass, and
        "REFERENCE UNRELIABLE" if differences of values contradict the reference.
        """
        if self.failed:
            return "WRONG OUTPUT" if {check.name for check in self.failed} == {"primal"} else "WRONG GRADIENT"
        if any(check.unreliable for check in self.checks):
            return "REFERENCE UNRELIABLE"
        if self.unchecked or self.missing:
            return "NOT CHECKED"
        return "RIGHT with notes" if self.notes else "RIGHT"

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return self.with_status(FAIL)

    @property
    def wrong_leaves(self) -> tuple[str, ...]:
        """Names of the leaves that failed checks found wrong."""
        return tuple(dict.fromkeys(d.leaf for check in self.failed for d in check.differences if d.leaf in self.leaves))

    @property
    def evidence(self) -> dict[str, tuple[str, ...]]:
        """For each leaf, the checks that compared its gradient with numbers from elsewhere."""
        return {leaf: tuple(check.name for check in self.checks if leaf in check.decided) for leaf in self.leaves}

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Names of the leaves whose gradient nothing decided."""
        return tuple(leaf for leaf, checks in self.evidence.items() if not checks and leaf not in self.empty)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the checks that must pass and did not."""
        return tuple(name for name in self.require if self[name].status != PASS)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know although it is not a fault, such as inputs that hide faults."""
        return tuple(dict.fromkeys(note for check in self.checks for note in check.notes))

    @property
    def seconds(self) -> float:
        """How long the checks took."""
        return sum(check.seconds for check in self.checks)

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
                "verdict": self.verdict,
                "function": self.function,
                "leaves": self.leaves,
                "unchecked": self.unchecked,
                "notes": self.notes,
                "checks": [dataclasses.asdict(check) for check in self.checks],
                "header": self.header,
            }
        )

    def to_json(self) -> str:
        """Returns `to_dict()` as JSON text. Infinities and NaN become strings."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def full(self) -> str:
        """Returns the whole report as text: every check, versions and settings."""
        return "\n".join(report_text.full(self))

    def __str__(self) -> str:
        return "\n".join(report_text.short(self))


def pass_or_fail(faults: Sequence[Any] | Mapping[Any, Any]) -> Status:
    """Returns FAIL if there are faults, otherwise PASS."""
    return FAIL if faults else PASS

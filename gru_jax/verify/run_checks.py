"""Chooses the checks of a verification, and runs them."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence

from gru_jax.verify import budget
from gru_jax.verify.checks import ALL_CHECKS, FAST_CHECKS
from gru_jax.verify.errors import short_message
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check
from gru_jax.verify.verification import Verification

OF_VALUES = ("primal", "gradient", "cotangents", "numerical")  # these also run for further keys


def choose_checks(requested: Sequence[str]) -> list[str]:
    """Returns the names of the checks to run."""
    groups = {"all": list(ALL_CHECKS), "fast": list(FAST_CHECKS)}
    chosen: list[str] = []
    for name in requested:
        plain = name.removeprefix("-")
        if plain not in ALL_CHECKS and name not in groups:
            raise ValueError(
                f"checks must be 'all', 'fast' or names of checks, got {name!r}; "
                f"the names are {', '.join(ALL_CHECKS)}; a minus before a name leaves that check out"
            )
        chosen = [other for other in chosen if other != plain] if name != plain else chosen + groups.get(name, [name])
    if not chosen:
        raise ValueError(
            f"checks must select at least one check, got {requested!r}; "
            "put a group before the checks to leave out, as in ('all', '-second_order')"
        )
    return chosen


def run_checks(verification: Verification, requested: Sequence[str], *, progress: bool) -> list[Check]:
    """Runs the requested checks.

    If the rule raises, no other check runs and `structure` fails. If `structure` was not requested,
    a check named `rule` fails instead. If autodiff cannot decide, "fast" also runs `numerical`.
    """
    names = choose_checks(requested)
    failure = _why_rule_raises(verification)
    blamed = FAIL if verification.reference.is_independent else NOT_CHECKED  # autodiff itself may raise
    results: list[Check] = []
    for name, check in ALL_CHECKS.items():
        if name == "numerical" and not failure and _needs_differences(verification, requested, results):
            names = [*names, "numerical"]
        if name not in names:
            results.append(Check(name, NOT_CHECKED, "not requested", requested=False))
        elif failure and name == "structure":
            results.append(Check(name, blamed, failure))
        elif failure:
            results.append(Check(name, NOT_CHECKED, "the rule raises, so it returns nothing to check"))
        else:
            results.append(_timed(name, check, verification))
            if progress:
                print(f"{results[-1].status:<11}  {name}  {results[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    if failure and "structure" not in names:
        results.append(Check("rule", blamed, failure))
    return results


def merge(name: str, first: Sequence[Check], other: Sequence[Check]) -> list[Check]:
    """Returns the checks of a first key, with what the checks of another key found.

    Args:
        name: Names the other key in conditions.
        first: The checks of the first key.
        other: The checks of the other key, of which some did not run.
    """
    merged = []
    for a, b in zip(first, other, strict=False):
        if not b.requested or not a.requested:
            merged.append(a)
            continue
        statuses = {a.status, b.status}
        status = FAIL if FAIL in statuses else NOT_CHECKED if NOT_CHECKED in statuses else PASS
        new = tuple(dataclasses.replace(d, condition=f"{d.condition}, {name}") for d in b.differences)
        merged.append(
            dataclasses.replace(
                a,
                status=status,
                text=a.text if a.status == status else f"{name}: {b.text}",
                differences=(*a.differences, *new),
                notes=tuple(dict.fromkeys((*a.notes, *b.notes))),
                decided=tuple(leaf for leaf in a.decided if leaf in b.decided),
                unreliable=tuple(dict.fromkeys((*a.unreliable, *b.unreliable))),
                seconds=a.seconds + b.seconds,
            )
        )
    return [*merged, *first[len(merged) :], *other[len(merged) :]]


def _timed(name: str, check: Callable[[Verification], Check], verification: Verification) -> Check:
    began = time.perf_counter()
    try:
        result = check(verification)
    except budget.OutOfTime:
        result = Check(name, NOT_CHECKED, "out of time", notes=(f"out of time in {name}: pass more seconds=",))
    except Exception as error:
        text = f"running this check raises {short_message(error)}"
        result = Check(name, NOT_CHECKED, text, notes=(f"{name}: {text}",))
    return dataclasses.replace(result, seconds=time.perf_counter() - began)


def _needs_differences(verification: Verification, requested: Sequence[str], results: Sequence[Check]) -> bool:
    """Returns whether "fast" must also run `numerical`, because `gradient` does not decide."""
    if "fast" not in requested or "-numerical" in requested:
        return False
    return any(check.name == "gradient" and check.status == NOT_CHECKED for check in results)


def _why_rule_raises(verification: Verification) -> str:
    """Returns a message with the error that the rule raises. Empty if the rule runs."""
    try:
        verification.rule(verification.cotangents)
    except budget.OutOfTime:
        return ""
    except Exception as error:
        return f"the rule raises {short_message(error)}"
    return ""

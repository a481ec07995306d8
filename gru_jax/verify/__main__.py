"""`python -m gru_jax.verify`: every built-in cell and option, or a case of your own.

    python -m gru_jax.verify                          a table of all built-in cells and options
    python -m gru_jax.verify --only gru               those whose name begins so
    python -m gru_jax.verify package.module:case      what case() returns: function, arguments and, if given, options of verify_vjp

Exit status: 0 where no check failed, 1 where one did, 2 where the case could not be run.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from gru_jax.verify.report import NOT_CHECKED, PASS, Report
from gru_jax.verify.verify import verify_vjp

_HOW = (
    "it must return (function, arguments) or (function, arguments, options): arguments a tuple, options a dict for verify_vjp"
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser("python -m gru_jax.verify", description="Custom VJPs against autodiff.")
    parser.add_argument("case", nargs="?", help="package.module:case, a function that returns (function, arguments[, options])")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    parser.add_argument("--only", default="", metavar="NAME", help="of the built-in cases, those whose name begins so")
    parser.add_argument("--checks", help='"all", "fast" or names with commas, as in all,-second_order')
    given = parser.parse_args(argv)
    options = {"checks": tuple(given.checks.split(","))} if given.checks else {}
    try:
        if given.case:
            return _one(given.case, options, given.json)
        return _all(given.only, options, given.json)
    except _Unusable as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


class _Unusable(Exception):
    pass


def _one(name: str, options: dict[str, Any], as_json: bool) -> int:
    report = _verified(_case(name), name, options)
    print(report.to_json() if as_json else report)
    return 0 if report.ok else 1


def _all(only: str, options: dict[str, Any], as_json: bool) -> int:
    from gru_jax.verify.cases import cases

    chosen = {name: make for name, make in cases().items() if name.startswith(only)}
    if not chosen:
        raise _Unusable(f"no built-in case begins with {only!r}; there are {', '.join(cases())}")
    width = max(map(len, chosen))
    reports: dict[str, Report] = {}
    if not as_json:
        print(f"{'case':<{width}}  verdict  passed  failed  worst error  allowed  not checked", flush=True)
    for name, make in chosen.items():
        reports[name] = _verified(make, name, options)
        if not as_json:
            print(_row(name, reports[name], width), flush=True)
    if as_json:
        print(json.dumps({name: json.loads(report.to_json()) for name, report in reports.items()}, indent=1))
    else:
        for name, report in reports.items():
            if not report.ok:
                print(f"\n{name}\n{report}")
        failed = sum(not report.ok for report in reports.values())
        print(f"\n{'FAIL' if failed else 'PASS'}: {len(reports) - failed} of {len(reports)} cases have no failed check")
    return 0 if all(report.ok for report in reports.values()) else 1


def _row(name: str, report: Report, width: int) -> str:
    """A line of the table; of what was not checked only what was asked for."""
    passed = sum(check.status == PASS for check in report.checks)
    skipped = [check.name for check in report.checks if check.status == NOT_CHECKED and check.text != "not asked for"]
    data = next((check.data for check in report.checks if check.name == "gradient" and "worst" in check.data), None)
    figures = f"{data['worst']:<11.1e}  {data['allowed']:<7.1e}" if data else f"{'-':<11}  {'-':<7}"
    verdict = "PASS" if report.ok else "FAIL"
    return f"{name:<{width}}  {verdict:<7}  {passed:<6}  {len(report.failed):<6}  {figures}  {', '.join(skipped)}".rstrip()


def _case(name: str) -> Callable[[], Any]:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise _Unusable(f"case must read package.module:case, got {name!r}")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _Unusable(f"cannot import {module!r}: {error}; run from the folder that holds it") from error
    make = getattr(found, attribute, None)
    if not callable(make):
        raise _Unusable(f"{module} has no function {attribute!r}; {_HOW}")
    return make


def _verified(make: Callable[[], Any], name: str, options: dict[str, Any]) -> Report:
    case = make()
    valid = isinstance(case, tuple) and len(case) in (2, 3) and callable(case[0]) and isinstance(case[1], tuple)
    if not valid or (len(case) == 3 and not isinstance(case[2], dict)):
        raise _Unusable(f"{name} returned {case!r:.200}; {_HOW}")
    return verify_vjp(case[0], *case[1], **{**(case[2] if len(case) == 3 else {}), **options})


if __name__ == "__main__":
    sys.exit(main())

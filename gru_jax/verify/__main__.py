"""The command `python -m gru_jax.verify`: verifies the built-in cells, or a case of your own.

    python -m gru_jax.verify                          verifies all built-in cells and options
    python -m gru_jax.verify --only gru               verifies those whose name begins with "gru"
    python -m gru_jax.verify file.py::case            verifies what case() in file.py returns
    python -m gru_jax.verify package.module:case      verifies what case() returns

A case returns `(fun, args)` or `(fun, args, options)`, where `args` is a tuple and `options` is a
dict of options for `verify_vjp`. The exit status is 0 if every gradient is right, 1 if one is wrong
or was not checked, and 2 if the case could not be run.
"""

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gru_jax.verify.api import verify_vjp
from gru_jax.verify.errors import short_message
from gru_jax.verify.report import NOT_CHECKED, PASS, Report

_CASE_FORMAT = "it must return (fun, args) or (fun, args, options), with args a tuple and options a dict for verify_vjp"


class UsageError(Exception):
    """Raised if a case cannot be run. The message says why and what to change."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Example:
        >>> main(["not-a-case"])  # prints how to name a case, to stderr
        2

    Args:
        argv: The command-line arguments. Defaults to `sys.argv[1:]`.
    """
    parser = argparse.ArgumentParser("python -m gru_jax.verify", description="Verifies custom VJPs against autodiff.")
    parser.add_argument(
        "case", nargs="?", help="file.py::case or package.module:case, a function that returns (fun, args[, options])"
    )
    parser.add_argument("--full", action="store_true", help="print every check, versions and settings")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--only", default="", metavar="PREFIX", help="verify the built-in cases whose names begin with PREFIX")
    parser.add_argument("--checks", help='"all", "fast", or names separated by commas, for example: all,-second_order')
    parser.add_argument("--seconds", type=float, help="leave out the checks that remain after this time, for each case")
    given = parser.parse_args(argv)
    options: dict[str, Any] = {"checks": tuple(given.checks.split(","))} if given.checks else {}
    options |= {"seconds": given.seconds} if given.seconds is not None else {}
    try:
        if given.case:
            options |= {"progress": sys.stderr.isatty()}
            return _verify_one(given.case, options, as_json=given.json, full=given.full)
        return _verify_built_in(given.only, options, as_json=given.json)
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def _verify_one(name: str, options: dict[str, Any], *, as_json: bool, full: bool) -> int:
    report = _verify(_import_case(name), name, options)
    print(report.to_json() if as_json else report.full() if full else report)
    return 0 if report.ok else 1


def _verify_built_in(prefix: str, options: dict[str, Any], *, as_json: bool) -> int:
    from gru_jax.verify.cases import cases

    chosen = {name: make for name, make in cases().items() if name.startswith(prefix)}
    if not chosen:
        raise UsageError(
            f"--only must be the start of a built-in case's name, got {prefix!r}; the names are {', '.join(cases())}"
        )
    width = max(map(len, chosen))
    reports: dict[str, Report] = {}
    if not as_json:
        print(f"{'case':<{width}}  verdict           passed  failed  worst error  allowed  not checked", flush=True)
    for name, make in chosen.items():
        reports[name] = _verify(make, name, options)
        if not as_json:
            print(_table_row(name, reports[name], width), flush=True)
    if as_json:
        print(json.dumps({name: report.to_dict() for name, report in reports.items()}, indent=1))
    else:
        _print_summary(reports)
    return 0 if all(report.ok for report in reports.values()) else 1


def _table_row(name: str, report: Report, width: int) -> str:
    """Returns one row of the table. The last column names requested checks that could not run."""
    passed = len(report.with_status(PASS))
    skipped = [check.name for check in report.with_status(NOT_CHECKED) if check.requested]
    check = report["gradient"]
    worst = "-" if check.worst_error is None else f"{check.worst_error:.1e}"
    allowed = "-" if check.allowed_error is None else f"{check.allowed_error:.1e}"
    counts = f"{report.verdict:<16}  {passed:<6}  {len(report.failed):<6}"
    return f"{name:<{width}}  {counts}  {worst:<11}  {allowed:<7}  {', '.join(skipped)}".rstrip()


def _print_summary(reports: dict[str, Report]) -> None:
    for name, report in reports.items():
        if not report.ok:
            print(f"\n{name}\n{report}")
    failed = sum(not report.ok for report in reports.values())
    print(f"\n{failed} of {len(reports)} cases are wrong or not checked")


def _import_case(name: str) -> Callable[[], Any]:
    place, colon, attribute = name.partition("::" if ".py::" in name else ":")
    if not (place and colon and attribute):
        raise UsageError(
            f"case must have the form file.py::case or package.module:case, got {name!r}; "
            "examples are tests/my_rules.py::gru_case and tests.my_rules:gru_case"
        )
    try:
        found = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except FileNotFoundError as error:
        raise UsageError(f"case must name a file, got {place!r}, which does not exist") from error
    except ModuleNotFoundError as error:
        fix = "run the command in the folder that contains the module, or set PYTHONPATH"
        raise UsageError(f"case must name an importable module, got {place!r} ({error}); {fix}") from error
    except Exception as error:
        raise UsageError(f"importing {place} raises {short_message(error)}") from error
    make = getattr(found, attribute, None)
    if not callable(make):
        raise UsageError(f"case must name a function in {place}, got {attribute!r}; {_CASE_FORMAT}")
    return make


def _load_file(path: Path) -> Any:
    """Imports a file by its path. It may import files beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module


def _verify(make: Callable[[], Any], name: str, options: dict[str, Any]) -> Report:
    try:
        case = make()
    except Exception as error:
        raise UsageError(f"{name} raises {short_message(error)}") from error
    valid = isinstance(case, tuple) and len(case) in (2, 3) and callable(case[0]) and isinstance(case[1], tuple)
    if not valid or (len(case) == 3 and not isinstance(case[2], dict)):
        raise UsageError(f"{name} returned {case!r:.200}; {_CASE_FORMAT}")
    try:
        return verify_vjp(case[0], *case[1], **{**(case[2] if len(case) == 3 else {}), **options})
    except Exception as error:
        raise UsageError(f"verifying {name} raises {short_message(error)}") from error


if __name__ == "__main__":
    sys.exit(main())

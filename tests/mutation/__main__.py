"""Measures how many planted faults the tests notice.

    python -m tests.mutation --suite likely --only cells

For each fault of `tests/mutation/faults` it plants the fault in a copy of the checkout and runs the
tests until one fails: first the test that noticed in the run before, then the modules that are most
likely to notice, then, with `--suite default`, the rest of the default suite, and with `--suite all`
the slow tests too. It prints a table and the faults that no test noticed, and writes one record for
each fault to `--out`.

Programs that a fault does not change are compiled once. `--keep` tries only the faults that are new or
survived before.

`results.json` holds the last run, and `results_before.json` that of the tests before the faults were
written.
"""

import argparse
import datetime
import json
import platform
import queue
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.mutation.planting import GROUPS, ROOT, Fault, all_faults, with_fault
from tests.mutation.running import STAGES, SUITES, Result, arguments_of, copy_checkout, run_pytest, try_fault

OUT = Path(__file__).with_name("results.json")


def main() -> int:
    given = arguments()
    chosen = [
        fault for fault in all_faults() if given.only in (None, fault.group) and given.match in f"{fault.file}: {fault.what}"
    ]
    for fault in chosen:
        with_fault(fault, (ROOT / "gru_jax" / fault.file).read_text("utf-8"))
    records = read_records(given.out)  # each stays until its fault has been tried again
    to_try = [fault for fault in chosen if not (given.keep and records.get(key_of(fault), {}).get("stage"))]
    with tempfile.TemporaryDirectory() as directory:
        checkouts: queue.Queue[Path] = queue.Queue()
        for i in range(given.jobs):
            checkouts.put(copy_checkout(Path(directory) / str(i)))
        if not given.skip_baseline:
            check_baseline(to_try, checkouts)

        def try_one(fault: Fault) -> Result:
            checkout = checkouts.get()
            try:
                noticed_by = records.get(key_of(fault), {}).get("killed_by")
                return try_fault(fault, checkout, given.suite, noticed_by, timeout=given.timeout)
            finally:
                checkouts.put(checkout)

        with ThreadPoolExecutor(given.jobs) as pool:
            for number, done in enumerate(as_completed([pool.submit(try_one, fault) for fault in to_try]), 1):
                result = done.result()
                records[key_of(result.fault)] = record_of(result)
                write_records(given.out, records, given.suite)
                killed_by = result.killed_by or "SURVIVES"
                print(f"{number}/{len(to_try)} {key_of(result.fault)}: {killed_by} ({result.seconds:.0f} s)", flush=True)
    print_table(records)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.mutation", description=__doc__.split("\n")[0])
    parser.add_argument("--suite", choices=SUITES, default="default", help="the last tests to run (default: %(default)s)")
    parser.add_argument("--only", choices=GROUPS, help="plant the faults of one file of tests/mutation/faults")
    parser.add_argument("--match", default="", metavar="TEXT", help="plant the faults whose file and description contain TEXT")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="try only the faults that are new or survived before")
    parser.add_argument("--jobs", type=int, default=1, help="the number of faults tried at once (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the likely modules (default: %(default)g)")
    parser.add_argument("--skip-baseline", action="store_true", help="do not check that the tests pass without a fault")
    return parser.parse_args()


def check_baseline(faults: list[Fault], checkouts: "queue.Queue[Path]") -> None:
    """Raises unless the likely modules pass without a fault: otherwise every fault would seem noticed."""
    modules = tuple(dict.fromkeys(module for fault in faults for module in fault.likely))
    checkout = checkouts.get()
    outcome = run_pytest(checkout, *arguments_of("likely", modules), timeout=7200) if modules else None
    if outcome and not outcome.passed:
        raise SystemExit(f"{outcome.text} fails without a fault")
    checkouts.put(checkout)


def key_of(fault: Fault) -> str:
    return f"{fault.file}: {fault.what}"


def record_of(result: Result) -> dict[str, Any]:
    return {
        "group": result.fault.group,
        "stage": result.stage,
        "killed_by": result.killed_by,
        "seconds": round(result.seconds, 1),
    }


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the records of an earlier run, without those of faults that exist no more."""
    present = {key_of(fault) for fault in all_faults()}
    found = json.loads(path.read_text("utf-8"))["faults"] if path.exists() else {}
    return {key: record for key, record in found.items() if key in present}


def write_records(path: Path, records: dict[str, dict[str, Any]], suite: str) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    header = {
        "date": datetime.date.today().isoformat(),
        "commit": commit or "unknown",
        "versions": {"python": platform.python_version(), "jax": version("jax"), "jaxlib": version("jaxlib")},
        "suite": suite,
    }
    keys = [key_of(fault) for fault in all_faults() if key_of(fault) in records]
    lines = [f"  {json.dumps(key, ensure_ascii=False)}: {json.dumps(records[key])}" for key in keys]  # one for each fault
    text = json.dumps(header, indent=1).removesuffix("\n}") + ',\n "faults": {\n' + ",\n".join(lines) + "\n }\n}\n"
    path.write_text(text, "utf-8")


def print_table(records: dict[str, dict[str, Any]]) -> None:
    """Prints how many faults each stage noticed, and those that survived."""
    columns = [*STAGES, "survive"]
    print(f"\n{'group':<14}{'faults':>8}" + "".join(f"{column:>10}" for column in columns))
    for group in [*GROUPS, "all"]:
        of_group = [record for record in records.values() if group in ("all", record["group"])]
        counts = [sum(record["stage"] == stage for record in of_group) for stage in (*STAGES, None)]
        print(f"{group:<14}{len(of_group):>8}" + "".join(f"{count:>10}" for count in counts))
    for key, record in records.items():
        if record["stage"] is None:
            print(f"survives: {key}")


if __name__ == "__main__":
    sys.exit(main())

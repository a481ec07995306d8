"""Does `gj.verify_vjp` judge the rules of other people rightly?

The cases are in `experiments.foreign_rules`: right and wrong rules by class (kinks, domains, losses,
attention, linear algebra, solvers, straight-through estimators, indexing, masks, precision, forward
rules), and rules in published packages. Cases of a package that is not installed are NOT RUN. Install
the extra `strangers` for them.

Method: the truth of each case comes from differences of its values in float64, or from mpmath, by
code that shares nothing with `gru_jax.verify`. Each case then gets a default run of `gj.verify_vjp`
with the options that its user would pass, in 60 seconds at most. A right rule must be called right,
and a wrong one wrong. A rule whose fault its inputs hide must be announced as having blind inputs.
Nothing undecided may be called right. Each CPU core runs cases of its own. Seconds are CPU time of
the first run of a case, with all compilation.

Expectation: no right rule is rejected, no visible wrong one accepted, and every blind input is
announced. The median run takes at most 10 seconds.
"""

import multiprocessing
import os
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import gru_jax as gj
from experiments import foreign_rules
from experiments.common import Options, Outcome, main
from experiments.foreign_rules.case import Case
from experiments.foreign_rules.truth import rule_is_right

SECONDS = 60.0
QUICK = 12  # every so many cases run with --quick


def truth_of(case: Case) -> str:
    """Returns whether the truth of a case is what its label says: "confirmed", or what is found."""
    is_right = rule_is_right(case, case.args)
    if case.label == "invisible":
        shows = case.reveal is not None and not rule_is_right(case, case.reveal)
        return "confirmed" if is_right and shows else f"right here: {is_right}, wrong elsewhere: {shows}"
    if case.label == "intended" or {"gradient", "reference"} & set(case.options):
        return "by intention"
    return "confirmed" if is_right == (case.label == "right") else f"right: {is_right}"


def judgement_of(case: Case, report: gj.verify.Report) -> str:
    """Returns whether a report judges a case rightly: "good", or what is wrong with it."""
    accepted = report.ok and report.verdict in ("RIGHT", "RIGHT with notes", "REFERENCE UNRELIABLE")
    if case.label in ("right", "intended"):
        return "good" if accepted else "right rejected" if report.failed else "right undecided"
    if report.failed:
        return "good"
    if case.label == "invisible" and report["inputs"].blind_inputs:
        return "good"
    return {"wrong": "wrong accepted", "invisible": "unannounced"}[case.label] if accepted else "wrong undecided"


def run_case(case: Case) -> dict[str, Any]:
    """Verifies a case. Returns its truth, the verdict, the judgement, and the time."""
    began, began_cpu = time.perf_counter(), time.process_time()
    args = () if "sample" in case.options else case.args
    report = gj.verify_vjp(case.fun, *args, **{"seconds": SECONDS, **case.options})
    elapsed = {"seconds": time.process_time() - began_cpu, "seconds_by_the_clock": time.perf_counter() - began}
    return {
        "label": case.label,
        "truth": truth_of(case),
        "verdict": report.verdict,
        "judgement": judgement_of(case, report),
        **elapsed,
        "report": str(report).splitlines(),
        "failed": [check.name for check in report.failed],
        "notes": list(report.notes),
    }


def run_named(name: str) -> dict[str, Any]:
    """Verifies the case of that name in this process. An error becomes its judgement."""
    case = foreign_rules.cases()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages
        try:
            result = run_case(case)
        except Exception as error:
            judgement = f"raises {type(error).__name__}: {str(error)[:200]}"
            result = {"label": case.label, "judgement": judgement, "seconds": 0.0, "report": []}
    jax.clear_caches()
    return result


def run(options: Options) -> Outcome:
    """Verifies every case."""
    names = list(foreign_rules.cases())
    names = names[::QUICK] if options.quick else names
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        found = tqdm(pool.map(run_named, names), desc="cases", total=len(names), disable=None)
        results: dict[str, Any] = dict(zip(names, found, strict=True))
    counts = Counter(result["judgement"] if "raises" not in result["judgement"] else "raises" for result in results.values())
    seconds = [result["seconds"] for result in results.values()]
    summary = {
        "cases": dict(Counter(result["label"] for result in results.values())),
        "judgements": dict(counts),
        "truth_not_confirmed": [name for name, r in results.items() if r.get("truth") not in ("confirmed", "by intention")],
        "not_good": [name for name, result in results.items() if result["judgement"] != "good"],
        "not_run": foreign_rules.not_run(),
        "median_seconds": float(np.median(seconds)),
        "longest_seconds": max(seconds),
        "most_lines": max(len(result["report"]) for result in results.values()),
    }
    return Outcome(
        summary, {"cases": results}, {"seconds.png": draw(seconds)}, {"verdicts.md": table(results, summary["not_run"])}
    )


def table(results: dict[str, Any], not_run: dict[str, str]) -> str:
    """Returns a table of the verdicts."""
    rows = ["| case | truth | verdict | judgement | seconds |", "| --- | --- | --- | --- | --- |"]
    for name, result in results.items():
        verdict = result.get("verdict", "–")
        rows.append(f"| {name} | {result['label']} | {verdict} | {result['judgement']} | {result['seconds']:.1f} |")
    rows += [f"| {package} | – | NOT RUN: {error} | – | – |" for package, error in not_run.items()]
    return "\n".join(rows) + "\n"


def draw(seconds: list[float]) -> plt.Figure:
    """Plots how long the runs took."""
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.hist(seconds, bins=40)
    axes.axvline(float(np.median(seconds)), color="black", linestyle="--", label="median")
    axes.set(xlabel="seconds of a default run", ylabel="cases")
    axes.legend()
    return figure


if __name__ == "__main__":
    main(run)

"""Judges rules of other people: `python -m experiments.foreign_rules`.

Prints whether `verify_vjp` judges each case rightly, its verdict and its time. The exit status is 1
if a case is not judged rightly.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections import Counter

import gru_jax as gj
from experiments import foreign_rules
from experiments.foreign_rules import published
from experiments.foreign_rules.verdicts import arguments_of, judgement_of


def main() -> int:
    """Judges the chosen cases and returns the exit status."""
    parser = argparse.ArgumentParser("python -m experiments.foreign_rules", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", metavar="PREFIX", help="judge the cases whose names begin with PREFIX")
    parser.add_argument("--checks", default="all", help='"all", "fast" or the name of a check (default: %(default)s)')
    given = parser.parse_args()
    of_packages, missing = published.collect()
    chosen = {name: case for name, case in (foreign_rules.cases() | of_packages).items() if name.startswith(given.only)}
    if not chosen:
        parser.error(f"--only must be the start of a case's name, got {given.only!r}")
    warnings.simplefilter("ignore")  # NumPy warns outside the domain of a callback
    judgements, seconds = Counter[str](), []
    for name, case in chosen.items():
        began = time.perf_counter()
        report = gj.verify_vjp(case.fun, *arguments_of(case), **{"checks": given.checks, **case.options})
        seconds.append(time.perf_counter() - began)
        judgement = judgement_of(case, report)
        judgements[judgement] += 1
        print(f"{judgement:<15}  {report.verdict:<20}  {seconds[-1]:5.1f} s  {name}", flush=True)
    counts = ", ".join(f"{count} {judgement}" for judgement, count in judgements.most_common())
    print(f"{len(chosen)} cases: {counts}; {statistics.median(seconds):.1f} s at the median")
    for package, error in missing.items():
        print(f"not run: {package}: {error}")
    return 0 if set(judgements) == {"good"} else 1


if __name__ == "__main__":
    sys.exit(main())

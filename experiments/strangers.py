"""Does `gj.verify_vjp` judge the rules of other people rightly?

There are some 400 cases (`experiments.foreign_rules`): right and wrong rules of the kinds that
people write, with data at kinks, masks of −inf, callbacks, solvers, half precision, gradients that
are intended rather than derived, and rules of published packages (the extra `strangers`). Each case
is labelled with its truth. This run establishes the truth again, by differences of values in
float64 or by mpmath, without `gru_jax.verify`.

`gj.verify_vjp` judges each case with all checks, without a time limit, and with the options that
the author of the rule would pass, such as the tolerance of a solver. Its verdict is

    right rejected      a right rule is called wrong
    right undecided     a right rule is neither accepted nor called wrong
    wrong accepted      a wrong rule is accepted
    wrong undecided     a wrong rule is neither accepted nor called wrong
    unannounced         the inputs hide a fault, and the report does not say that they hide faults
    good                otherwise

Nothing is compiled before a case is timed. Times are CPU seconds, which other work hardly changes.
For comparison, `jax.test_util.check_grads` judges the same rules in float64, at its defaults.

Expectation: no right rule is rejected, no wrong one accepted, every input that hides the fault is
announced, and the median case takes at most 10 s of CPU time.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import matplotlib.pyplot as plt
import tyro
from tqdm import tqdm

from experiments import foreign_rules
from experiments.common import Options, Outcome, main
from experiments.foreign_rules.workers import PROCESSES, Judged, all_names, judged

FAULTS = ("right rejected", "right undecided", "wrong accepted", "wrong undecided", "unannounced")
RIGHT = ("right", "no rule", "intended")  # the labels of rules that must be accepted
EVERY = 100  # a quick run judges every so many cases


@dataclass(frozen=True)
class StrangersOptions(Options):
    """The options of this experiment.

    Attributes:
        only: Judge the cases whose names begin with this.
        seconds: Time after which a case is stopped.
        processes: How many cases to judge at a time.
    """

    only: Annotated[str, tyro.conf.arg(metavar="PREFIX")] = ""
    seconds: float = 900.0
    processes: int = PROCESSES


def run(options: StrangersOptions) -> Outcome:
    """Judges the chosen cases."""
    names, missing = (list(foreign_rules.cases())[::EVERY], {}) if options.quick else all_names()
    names = [name for name in names if name.startswith(options.only)]
    if not names:
        raise SystemExit(f"--only must be the start of a case's name, got {options.only!r}")
    found = {}
    running = judged(names, processes=options.processes, seconds=options.seconds)
    for case in tqdm(running, "rules", len(names), unit="case", disable=None, leave=False):
        found[case.name] = case
        if case.judgement != "good" or case.truth not in ("confirmed", "by intention"):
            tqdm.write(f"{case.name}: {case.judgement}, truth {case.truth or 'unknown'}. {case.report}")
    cases = [found[name] for name in names]
    by_class = {
        kind: summary_of([case for case in cases if class_of(case) == kind]) for kind in dict.fromkeys(map(class_of, cases))
    }
    summary = {**summary_of(cases), "not_installed": missing}
    results = {"by_class": by_class, "cases": [case._asdict() for case in cases]}
    return Outcome(summary, results, {"seconds.png": draw(cases)}, {"tables.md": table(cases)})


def class_of(case: Judged) -> str:
    """Returns the class of a case: "kinks" for "kinks: relu by maximum"."""
    return case.name.split(":")[0]


def summary_of(cases: Sequence[Judged]) -> dict[str, Any]:
    """Counts cases by their truth and by what is wrong with the verdict, and summarises the time."""
    judgements = Counter(case.judgement for case in cases)
    others = sorted(set(judgements) - {"good", *FAULTS})
    seconds = sorted(case.seconds for case in cases)
    return {
        "cases": len(cases),
        "right": sum(case.label in RIGHT for case in cases),
        "wrong": sum(case.label == "wrong" for case in cases),
        "invisible": sum(case.label == "invisible" for case in cases),
        "truth_confirmed": sum(case.truth == "confirmed" for case in cases),
        "truth_by_intention": sum(case.truth == "by intention" for case in cases),
        **{fault: judgements[fault] for fault in FAULTS},
        **{other: judgements[other] for other in others},
        "right_rejected_by_check_grads": sum(c.label in RIGHT and c.check_grads == "rejected" for c in cases),
        "wrong_accepted_by_check_grads": sum(c.label == "wrong" and c.check_grads == "accepted" for c in cases),
        "median_seconds": round(statistics.median(seconds), 1),
        "largest_seconds": round(seconds[-1], 1),
    }


def table(cases: Iterable[Judged]) -> str:
    """Tabulates the verdict on each case."""
    rows = [f"| {c.name} | {c.label} | {c.truth} | {c.verdict} | {c.judgement} | {c.seconds:.1f} |" for c in cases]
    return (
        "\n".join(("| case | rule | truth | verdict | judged | seconds |", "| --- | --- | --- | --- | --- | --- |", *rows))
        + "\n"
    )


def draw(cases: Sequence[Judged]) -> plt.Figure:
    """Plots the time that each case took, by class."""
    kinds = list(dict.fromkeys(map(class_of, cases)))
    figure, axes = plt.subplots(figsize=(8, 0.35 * len(kinds) + 1.2), layout="constrained")
    for i, kind in enumerate(kinds):
        seconds = [case.seconds for case in cases if class_of(case) == kind]
        axes.plot(seconds, [i] * len(seconds), "o", alpha=0.4, color="C0")
        axes.plot([statistics.median(seconds)], [i], "|", ms=16, mew=2, color="C1", label=None if i else "median")
    axes.set(xlabel="CPU seconds", title="time of gj.verify_vjp with all checks", xscale="log")
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.legend()
    return figure


if __name__ == "__main__":
    main(run, StrangersOptions)

"""Builds the result tables of the READMEs and of the documentation from the committed results.

`python -m experiments.summary_tables` rewrites the tables in place. A table stands between the
lines `<!-- table: NAME -->` and `<!-- end -->`. Each cell has at most one number.
"""

import re
from collections.abc import Callable

from experiments.summary_tables import accuracy, derivations, gpu, overview, planted_faults, speed, training
from experiments.summary_tables.formatting import ROOT

PAGES = tuple(
    ROOT / path
    for path in (
        "README.md",
        "experiments/README.md",
        "docs/results.md",
        "docs/performance.md",
        "docs/how-to/gpu.md",
        "docs/how-to/train.md",
        "tests/README.md",
    )
)
TABLES: dict[str, Callable[[], str]] = {
    "index": overview.index,
    "main_results": overview.main_results,
    "why": overview.why,
    "digits": accuracy.digits,
    "music": accuracy.music,
    "memory_tasks": accuracy.memory_tasks,
    "binary_addition": accuracy.binary_addition,
    "characters": accuracy.characters,
    "tutorials": derivations.tutorials,
    "derivations": derivations.derivations,
    "checkers": derivations.checkers,
    "strangers": derivations.strangers,
    "strangers_by_class": derivations.strangers_by_class,
    "flow": derivations.flow,
    "flow_cost": derivations.flow_cost,
    "benchmark": speed.benchmark,
    "benchmark_growth": speed.benchmark_growth,
    "benchmark_other": speed.benchmark_other,
    "thresholds": speed.thresholds,
    "plan_rules": speed.plan_rules,
    "derivative_cost": speed.derivative_cost,
    "without_derivation": speed.without_derivation,
    "training_speed": speed.training_speed,
    "faults": training.faults,
    "faults_in_short": training.faults_in_short,
    "checkpoint_cost": training.checkpoint_cost,
    "planted_faults": planted_faults.planted_faults,
    "launches": gpu.launches,
    "launches_by_cell": gpu.launches_by_cell,
    "fused_launches": gpu.fused_launches,
    "fused_kernels": gpu.fused_kernels,
    "fused_precision": gpu.fused_precision,
    "fused_chunks": gpu.fused_chunks,
}
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """Returns the text of a page with every table rebuilt from the results."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}", text)


def tables_in(text: str) -> list[str]:
    """Returns the names of the tables in the text of a page."""
    return [match[2] for match in _BLOCK.finditer(text)]

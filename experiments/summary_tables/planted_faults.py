"""The table of the faults that `python -m tests.mutation` plants in the package."""

import json
from typing import Any

from experiments.summary_tables.formatting import ROOT, markdown, percent

_SUBJECTS = {
    "engine": "engine",
    "cells": "cells",
    "forward_mode": "forward mode",
    "layers": "layers and noise",
    "train": "training",
    "convert": "conversions",
    "analysis": "heads, flow, plots, verification",
    "calls": "messages of wrong calls",
}


def planted_faults() -> str:
    """Tabulates how many planted faults the tests notice, by the part of the package."""
    now, before = _records("results.json"), _records("results_before.json")
    rows = []
    for group, subject in [*_SUBJECTS.items(), (None, "all")]:
        chosen = [found for found in now if group in (None, found["group"])]
        earlier = [found for found in before if group in (None, found["group"])]
        by_default = [found for found in chosen if found["stage"] in ("likely", "default")]
        by_all = [found for found in chosen if found["stage"]]
        share = lambda noticed, tried: percent(0)(len(noticed) / len(tried)) if tried else "–"
        rows.append(
            (
                subject,
                str(len(chosen)),
                share([found for found in earlier if found["stage"]], earlier),
                share(by_default, chosen),
                share(by_all, chosen),
            )
        )
    return markdown(("faults of", "planted", "earlier tests", "default suite", "all tests"), rows)


def _records(file: str) -> list[dict[str, Any]]:
    return list(json.loads((ROOT / "tests" / "mutation" / file).read_text("utf-8"))["faults"].values())

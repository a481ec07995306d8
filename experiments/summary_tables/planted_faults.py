"""The table of the faults that `python -m tests.mutation` plants in the package."""

import json

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
_DEFAULT = ("likely", "default")
_ALL = (*_DEFAULT, "slow")


def planted_faults() -> str:
    """Tabulates how many planted faults the tests notice, by the part of the package."""
    rows = []
    for group, subject in [*_SUBJECTS.items(), (None, "all")]:
        now, before = _stages("results.json", group), _stages("results_before.json", group)
        shares = _share(before, _ALL), _share(now, _DEFAULT), _share(now, _ALL)
        rows.append((subject, str(len(now)), *shares))
    return markdown(("faults of", "planted", "earlier tests", "default suite", "all tests"), rows)


def _stages(file: str, group: str | None) -> list[str | None]:
    """Returns the stage that noticed each fault of a group, or of all groups."""
    faults = json.loads((ROOT / "tests" / "mutation" / file).read_text("utf-8"))["faults"].values()
    return [found["stage"] for found in faults if group in (None, found["group"])]


def _share(stages: list[str | None], noticed_in: tuple[str, ...]) -> str:
    return percent(0)(sum(stage in noticed_in for stage in stages) / len(stages))

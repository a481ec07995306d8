"""Formats the tables and draws the figures of the polyphonic music experiment."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.music.model import Averages

PAPER = {  # Chung et al. 2014, Table 2, test
    "tanh RNN": {"JSB Chorales": 9.10, "Nottingham": 3.13, "MuseData": 6.23, "Piano-midi": 9.03},
    "GRU": {"JSB Chorales": 8.54, "Nottingham": 3.23, "MuseData": 5.99, "Piano-midi": 8.82},
    "LSTM": {"JSB Chorales": 8.67, "Nottingham": 3.20, "MuseData": 6.23, "Piano-midi": 9.03},
}
OTHERS = {  # test, Bernoulli outputs; BL: Boulanger-Lewandowski et al. 2012, first frames counted
    "RNN, BL": {"JSB Chorales": 8.71, "Nottingham": 4.46, "MuseData": 8.13, "Piano-midi": 8.37},
    "RNN, Hessian-free, BL": {"JSB Chorales": 8.58, "Nottingham": 3.89, "MuseData": 7.19, "Piano-midi": 7.66},
    "RNN, clipping and regularisation, Pascanu et al. 2012": {"Nottingham": 3.36, "MuseData": 6.97, "Piano-midi": 7.46},
    "GRU of 300,000 to a million parameters, Bai et al. 2018": {"JSB Chorales": 8.43, "Nottingham": 3.46},
    "TCN, Bai et al. 2018": {"JSB Chorales": 8.10, "Nottingham": 3.07},
}
AVERAGES = {
    "pooled": "frames pooled, first not counted",
    "pooled_first": "frames pooled, first counted",
    "per_piece": "mean over pieces, first not counted",
    "per_piece_first": "mean over pieces, first counted",
}
assert tuple(AVERAGES) == Averages._fields


def mean(runs: list[dict[str, Any]], split: str, average: str) -> float:
    """Returns the mean over seeds."""
    return float(np.mean([run[split][average] for run in runs]))


def table(results: dict[str, Any], baselines: dict[str, Any]) -> str:
    """Formats the four averages of each unit as one Markdown table per set.

    A cell has the mean over seeds with the smallest and the largest value. The last column is the
    paper's number.
    """
    lines = ["# Nats per frame on the test pieces: mean over seeds (smallest – largest)", ""]
    for name, by_unit in results.items():
        lines += [
            f"## {name}",
            "",
            "| | " + " | ".join(AVERAGES.values()) + " | train, pooled | paper: test |",
            "|" + "---|" * 7,
        ]
        for unit, found in by_unit.items():
            cells = []
            for average in AVERAGES:
                values = [run["test"][average] for run in found["runs"]]
                cells.append(f"{np.mean(values):.2f} ({min(values):.2f} – {max(values):.2f})")
            paper = PAPER.get(unit, {}).get(name)
            cells += [f"{mean(found['runs'], 'train', 'pooled'):.2f}", "–" if paper is None else f"{paper:.2f}"]
            lines.append(f"| {unit}, {found['units']} units, {found['parameters']:,} parameters | " + " | ".join(cells) + " |")
        for what, published in OTHERS.items():
            if name in published:
                first_two = f"| {published[name]:.2f}" if what.endswith("BL") else f"{published[name]:.2f} |"
                lines.append(f"| {what} | {first_two} | | | | |")
        for what, value in baselines[name].items():
            lines.append(f"| {what}, computed here as BL do | | {value:.2f} | | | | |")
        lines += [
            "",
            "Validation loss (frames pooled, first not counted) of the first seed in each setting. The setting with the smallest one "
            "is tested.",
            "",
        ]
        for unit, found in by_unit.items():
            lines.append(f"- {unit}: " + ", ".join(f"{setting} {value:.3f}" for setting, value in found["tried"].items()))
        lines.append("")
    return "\n".join(lines)


def draw_curves(results: dict[str, Any]) -> plt.Figure:
    """Draws the learning curves over updates and seconds, as the paper's figures 2 and 3."""
    figure, all_axes = plt.subplots(len(results), 2, figsize=(12, 3.4 * len(results)), layout="constrained", squeeze=False)
    for row, (name, by_unit) in zip(all_axes, results.items(), strict=True):
        lowest = min(np.min(curve["valid"]) for found in by_unit.values() for curve in found["curves"])
        for colour, (unit, found) in enumerate(by_unit.items()):
            for i, (run, curve) in enumerate(zip(found["runs"], found["curves"], strict=True)):
                per_update = (run["seconds_per_epoch"] or np.nan) / run["updates_per_epoch"]
                for axes, scale in zip(row, (1.0, per_update), strict=True):
                    updates = np.asarray(curve["updates"])
                    axes.plot(scale * updates, curve["valid"], color=f"C{colour}", alpha=0.8, label=unit if i == 0 else None)
                    axes.plot(scale * updates[1:], curve["train"], "--", color=f"C{colour}", alpha=0.35)
        for axes, label in zip(row, ("updates", "seconds of training"), strict=True):
            axes.set(xlabel=label, ylabel="nats per frame", title=name, ylim=(0.85 * lowest, 1.4 * lowest))
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
    figure.suptitle("solid: validation; dashed: training, with dropout")
    return figure

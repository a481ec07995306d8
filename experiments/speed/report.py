"""Summarises the benchmark: ratios, tables and figures."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

NOT_JAX_PEERS = ("ours", "ours, states", "ours, gates", "autodiff", "PyTorch", "cuDNN")


def fastest(measured: dict[str, Any], checkpointed: bool | None = None) -> float:
    """Returns the milliseconds of the fastest other JAX library.

    `checkpointed` restricts the candidates to checkpointed (True) or plain (False) ones. Defaults
    to all.
    """
    others = {name: found["ms"] for name, found in measured.items() if name not in NOT_JAX_PEERS}
    if checkpointed is not None:
        others = {name: ms for name, ms in others.items() if ("checkpointed" in name) == checkpointed}
    return min(others.values(), default=math.nan)


def leanest(measured: dict[str, Any], checkpointed: bool) -> float:
    """Returns the smallest MiB of temporaries among the other JAX libraries, checkpointed or plain."""
    peers = (name for name in measured if name not in NOT_JAX_PEERS and ("checkpointed" in name) == checkpointed)
    return min((measured[name]["temp_mib"] for name in peers), default=math.nan)


def case_line(case: dict[str, Any]) -> str:
    """Formats one case as a line for the terminal."""
    measured = case["measured"]
    own = measured["ours"]["ms"]
    ratios = {name: round(found["ms"] / own, 2) for name, found in measured.items() if name != "ours"}
    return f"{case['group']:10} {case['cell']:16} {case['shape']!s:22} {own:9.3f} ms; time of others over ours: {ratios}"


def geomean(values: Any) -> float:
    """Returns the geometric mean, rounded to three digits."""
    return round(float(np.exp(np.mean(np.log(list(values))))), 3)


def mean_and_least(ratios: list[float]) -> dict[str, float]:
    """Returns the geometric mean and the smallest of some ratios."""
    return {"mean": geomean(ratios), "least": round(min(ratios), 3)}


def summarize_gradients(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarises times, memory and compile times of one cell over the shapes of a group."""
    ms = lambda name: [case["measured"][name]["ms"] for case in cases]
    mib = lambda name: [max(case["measured"][name]["temp_mib"], 1e-4) for case in cases]
    ratios = lambda others, own: [other / one for other, one in zip(others, own, strict=True)]
    entry: dict[str, Any] = {"shapes": len(cases), "autodiff_over_ours": mean_and_least(ratios(ms("autodiff"), ms("ours")))}
    entry["temp_ours_over_autodiff"] = geomean(ratios(mib("ours"), mib("autodiff")))
    entry["time_over_floor"] = geomean(ratios(ms("ours"), [case["floor_gates_ms"] for case in cases]))
    if "PyTorch" in cases[0]["measured"]:
        entry["PyTorch_over_ours"] = mean_and_least(ratios(ms("PyTorch"), ms("ours")))
    if "cuDNN" in cases[0]["measured"]:
        entry["cuDNN_over_ours"] = mean_and_least(ratios(ms("cuDNN"), ms("ours")))
    if math.isnan(fastest(cases[0]["measured"])):
        return entry
    entry["fastest_over_ours"] = mean_and_least(ratios([fastest(case["measured"]) for case in cases], ms("ours")))
    for kind, checkpointed in (("plain", False), ("checkpointed", True)):
        if math.isnan(leanest(cases[0]["measured"], checkpointed)):
            continue
        lean = [max(leanest(case["measured"], checkpointed), 1e-4) for case in cases]
        entry[f"temp_states_over_leanest_{kind}"] = geomean(ratios(mib("ours, states"), lean))
        entry[f"fastest_{kind}_over_states"] = geomean(
            ratios([fastest(case["measured"], checkpointed) for case in cases], ms("ours, states"))
        )
    compiling = [
        max(found["compile_s"] for name, found in case["measured"].items() if name not in NOT_JAX_PEERS) for case in cases
    ]
    entry["compile_ours_over_slowest"] = geomean(ratios([case["measured"]["ours"]["compile_s"] for case in cases], compiling))
    return entry


def summarize_devices(cases: list[dict[str, Any]], way: str) -> dict[str, Any]:
    """Summarises the runs on several devices, for "shard_map" or "Auto jit"."""
    best, plain = [], []
    for case in cases:
        ms = {name.partition(": ")[2]: found["ms"] for name, found in case["measured"].items() if name.startswith(way)}
        best.append(fastest({name: {"ms": value} for name, value in ms.items()}) / ms["ours"])
        plain.append(ms["autodiff"] / ms["ours"])
    return {"fastest_over_ours": mean_and_least(best), "autodiff_over_ours": mean_and_least(plain)}


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Summarises the whole benchmark by group and cell."""
    found: dict[str, Any] = {"matmul_gflops": round(results["matmul_gflops"], 1), "cores": results["cores"]}
    for group, cell in dict.fromkeys((case["group"], case["cell"]) for case in results["cases"]):
        chosen = [case for case in results["cases"] if (case["group"], case["cell"]) == (group, cell)]
        found[f"{group}, {cell}"] = summarize_gradients(chosen)
    ratio = lambda case: round(fastest(case["measured"]) / case["measured"]["ours"]["ms"], 3)
    for axis, cases in results.get("growth", {}).items():
        found[f"over {axis}, fastest_over_ours"] = [ratio(case) for case in cases]
    for what, cell in dict.fromkeys((case["group"], case["cell"]) for case in results.get("passes", [])):
        chosen = [case for case in results["passes"] if (case["group"], case["cell"]) == (what, cell)]
        found[f"{what}, {cell}, fastest_over_ours"] = mean_and_least([ratio(case) for case in chosen])
    if results.get("devices"):
        found |= {f"devices, {way}": summarize_devices(results["devices"], way) for way in ("shard_map", "Auto jit")}
    for kind, programs in results.get("around", {}).items():
        others = {name: program for name, program in programs.items() if name != "ours"}
        found[kind] = {name: round(program["ms"] / programs["ours"]["ms"], 3) for name, program in others.items()}
    return found


def tables(results: dict[str, Any]) -> str:
    """Formats milliseconds and MiB of temporaries as one Markdown table per group and cell."""
    text = ["# Milliseconds of a gradient (MiB of temporaries)", ""]
    text += ["Shapes are (T, B, D, H). The floor is the time of the unavoidable operations at the rate of a large matmul.", ""]
    everything = [
        *results["cases"],
        *(case for cases in results.get("growth", {}).values() for case in cases),
        *results.get("passes", []),
    ]
    everything += results.get("devices", [])
    for group, cell in dict.fromkeys((case["group"], case["cell"]) for case in everything):
        chosen = [case for case in everything if (case["group"], case["cell"]) == (group, cell)]
        names = list(chosen[0]["measured"])
        text += [f"## {cell}: {group}", "", "| shape | floor | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
        for case in chosen:
            cells = []
            for name in names:
                found = case["measured"][name]
                cells.append(f"{found['ms']:.3g}" + (f" ({found['temp_mib']:.3g})" if "temp_mib" in found else ""))
            floor = f"{case['floor_gates_ms']:.3g}" if "floor_gates_ms" in case else "–"
            text.append(f"| {case['shape']} | {floor} | " + " | ".join(cells) + " |")
        text.append("")
    if by_variant := results.get("variants"):
        shapes = list(next(iter(by_variant.values())))
        text += [
            "## Variants of the engine: time of the engine over that of the variant",
            "",
            "| | " + " | ".join(shapes) + " |",
            "|" + "---|" * (len(shapes) + 1),
        ]
        text += [
            f"| {name} | " + " | ".join(f"{by[shape]:.2f}" for shape in shapes) + " |" for name, by in by_variant.items()
        ] + [""]
    for kind, programs in results.get("around", {}).items():
        text += [
            f"## {kind}",
            "",
            "| | ms |",
            "|---|---|",
            *(f"| {name} | {found['ms']:.4g} |" for name, found in programs.items()),
            "",
        ]
    return "\n".join(text)


def draw(growth: dict[str, list[dict[str, Any]]]) -> dict[str, plt.Figure]:
    """Draws the time over T, B and H with the floor above the memory, on logarithmic axes."""
    names = [axis for axis in growth if axis in "TBH"]
    figure, grid = plt.subplots(2, len(names), figsize=(4.6 * len(names), 7), layout="constrained", squeeze=False)
    for axis, time_axes, memory_axes in zip(names, *grid, strict=True):
        cases = growth[axis]
        at = [case["shape"]["TBDH".index(axis)] for case in cases]
        for name, first in cases[0]["measured"].items():
            style = "o-" if name.startswith("ours") else ".--"
            measured = [case["measured"][name] for case in cases]
            (line,) = time_axes.plot(at, [found["ms"] for found in measured], style, label=name)
            if "temp_mib" in first:
                memory_axes.plot(at, [found["temp_mib"] for found in measured], style, color=line.get_color(), label=name)
        time_axes.plot(at, [case["floor_gates_ms"] for case in cases], ":", color="grey", label="floor")
        fixed = ", ".join(
            f"{letter} = {size}" for letter, size in zip("TBDH", cases[0]["shape"], strict=True) if letter != axis
        )
        time_axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="ms", title=f"time over {axis}\n{fixed}")
        memory_axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="MiB of temporaries", title=f"memory over {axis}")
    grid[0][0].legend(fontsize="x-small")
    return {"growth.png": figure}

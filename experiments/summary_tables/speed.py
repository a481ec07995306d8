"""The tables of time and memory."""

import re
from collections.abc import Callable

from experiments.summary_tables.formatting import NONE, ROOT, fixed, markdown, record, summary

RATIOS = ("time of the other over ours", "target", "mean over shapes", "worst shape")
CELLS = {
    "GRU, reset after": "GRU (reset after)",
    "GRU": "GRU (reset before)",
    "LSTM": "LSTM",
    "tanh RNN": "tanh RNN",
}
GROUPS = {
    "larger": "six larger shapes",
    "tiny": "seven tiny shapes",
    "batched": "four shapes with many sequences",
    "untuned": "four shapes on which no rule was chosen",
}


def ratio(entry: dict[str, float]) -> tuple[str, str]:
    """Formats the geometric mean and the worst of some ratios."""
    return fixed(2)(entry["mean"]), fixed(2)(entry["least"])


def benchmark() -> str:
    """Tabulates the benchmark against other libraries and autodiff."""
    found = summary("benchmark")
    targets = {"larger": "≥ 1.4", "tiny": "≥ 1.3", "untuned": "≥ 1.2"}
    rows = [
        (
            f"fastest other JAX library: {label}, {GROUPS[group]}",
            targets.get(group, "≥ 1") if cell == "GRU, reset after" else "≥ 1",
            *ratio(found[f"{group}, {cell}"]["fastest_over_ours"]),
        )
        for cell, label in CELLS.items()
        for group in GROUPS
    ]
    rows += [
        (f"autodiff of the same cell: {label}, {GROUPS[group]}", "> 1", *ratio(found[f"{group}, {cell}"]["autodiff_over_ours"]))
        for cell, label in CELLS.items()
        for group in ("larger", "tiny")
    ]
    after = "GRU, reset after"
    rows += [
        (f"PyTorch: {CELLS[after]}, {GROUPS[group]}", "> 1", *ratio(found[f"{group}, {after}"]["PyTorch_over_ours"]))
        for group in ("larger", "tiny")
    ]
    rows += [
        (f"forward pass alone: {CELLS[cell]}, {GROUPS['larger']}", "≥ 1", *ratio(found[f"forward, {cell}, fastest_over_ours"]))
        for cell in (after, "GRU", "LSTM")
    ]
    inputs = ratio(found[f"weights and inputs, {after}, fastest_over_ours"])
    rows.append((f"gradient with respect to weights and inputs: {CELLS[after]}, {GROUPS['larger']}", "≥ 1", *inputs))
    devices = ratio(found["devices, shard_map"]["fastest_over_ours"])
    rows.append(("two CPU devices: fastest other library, all in `shard_map`", "≥ 1.3", *devices))
    devices = ratio(found["devices, Auto jit"]["autodiff_over_ours"])
    rows.append(("two CPU devices: autodiff, plain `jit`", "≥ 2.5", *devices))
    return markdown(RATIOS, rows)


def benchmark_growth() -> str:
    """Tabulates how the speed-up over Flax NNX and Equinox depends on the size of the problem."""
    growth, found = record("benchmark")["results"]["growth"], summary("benchmark")
    names = {"T": "longer", "B": "more sequences", "H": "wider", "bfloat16": "bfloat16"}
    rows = [
        (names[axis], f"({', '.join(map(str, case['shape']))})", fixed(2)(value))
        for axis, cases in growth.items()
        for case, value in zip(cases, found[f"over {axis}, fastest_over_ours"], strict=True)
    ]
    return markdown(("", "T, B, D, H", "time of the faster of Flax NNX and Equinox over ours"), rows)


def benchmark_other() -> str:
    """Tabulates memory, compile time, the floor, a policy update and a single step."""
    found, after = summary("benchmark"), "GRU, reset after"
    larger = found[f"larger, {after}"]
    value = fixed(2)
    kinds = {"plain": ("≤ 1/3", "≥ 1.15"), "checkpointed": ("≤ 1", "≥ 1.4")}
    rows = []
    for kind, (memory, speed) in kinds.items():
        ours, theirs = larger[f"temp_states_over_leanest_{kind}"], larger[f"fastest_{kind}_over_states"]
        rows.append((f'`CustomVJP(residuals="states")`: memory over that of the leanest {kind} library', memory, value(ours)))
        rows.append((f'`CustomVJP(residuals="states")`: time of the fastest {kind} library over ours', speed, value(theirs)))
    rows += [
        (
            f"compile time over that of the slowest other library: {label}, {GROUPS[group]}",
            "≤ 1",
            value(found[f"{group}, {cell}"]["compile_ours_over_slowest"]),
        )
        for cell, label in CELLS.items()
        for group in ("larger", "tiny")
    ]
    rows.append((f"time over the floor: {CELLS[after]}, {GROUPS['larger']}", "1", value(larger["time_over_floor"])))
    policy, step = found["policy updates"], found["a single step"]
    rows += [
        (f"update of 16 recurrent policies: {name} over ours", "> 1", value(policy[name])) for name in ("Flax NNX", "autodiff")
    ]
    rows += [
        (f"a single step, weights as arguments: {name} over ours", NONE, value(step[name])) for name in ("Flax NNX", "Equinox")
    ]
    ours = step["ours, weights fixed"]
    rows += [
        (f"a single step, weights as constants: {name} over ours", NONE, value(step[f"{name}, weights fixed"] / ours))
        for name in ("Flax NNX", "Equinox")
    ]
    return markdown(("", "target", "result"), rows)


def plan_rules() -> str:
    """Tabulates the time of a gradient without each rule of the plan over the time with it."""
    show = lambda entry, kind: fixed(2)(entry[kind]) if kind in entry else NONE
    rows = [
        (name, show(entry, "tuned"), show(entry, "random"), fixed(2)(entry["least"]))
        for name, entry in summary("plan_rules")["rules"].items()
    ]
    return markdown(("rule", "mean, tuned shapes", "mean, random shapes", "worst case"), rows)


def thresholds() -> str:
    """Tabulates the constants of the engine's plan, with the comments that explain them."""
    files = (ROOT / "gru_jax" / "_engine" / name for name in ("plan.py", "plan_kernel.py"))
    source = "\n".join(path.read_text("utf-8") for path in files)
    found = re.findall(r"^([A-Z_]+) = (\S+)  # (.+)$", source, re.MULTILINE)
    rows = [(f"`{name}`", value.replace("**", "^").replace("_", " "), meaning) for name, value, meaning in found]
    return markdown(("threshold", "value", "meaning"), rows)


def derivative_cost() -> str:
    """Tabulates the cost of the derived gradients and tangents."""
    found = summary("derivative_cost")
    quantities = {
        "autodiff_over_adjoint": ("gradient: time of autodiff over the custom VJP", "> 1"),
        "slowest_autodiff_over_adjoint": ("the same, worst case", "> 1"),
        "temp_adjoint_over_autodiff": ("gradient: memory of the custom VJP over autodiff", "< 1"),
        "both_over_adjoint": ("gradient: time by the custom JVP over the custom VJP", "> 1"),
        "tangent_autodiff_over_both": ("tangent: time of autodiff over the custom JVP", "< 1"),
    }
    rows = [
        (label, expected, *(fixed(2)(found[kind][key]) for kind in ("plain", "lengths and resets")))
        for key, (label, expected) in quantities.items()
    ]
    return markdown(("", "expected", "plain", "with lengths and resets"), rows)


def without_derivation() -> str:
    """Tabulates the cost of cells without a derivation relative to a checkpointed scan."""
    cases = record("derivative_cost")["results"]["without_derivation"]
    labels = {
        "checkpointed_over_ours": "time of the scan over ours",
        "temp_ours_over_checkpointed": "our memory over the scan's",
    }
    cells = list(dict.fromkeys(case["cell"] for case in cases))

    def entry(cell: str, key: str, choose: Callable[..., float]) -> str:
        return fixed(2)(choose(case["ratios"][key] for case in cases if case["cell"] == cell))

    rows = [
        (f"{label}, {name} of three shapes", *(entry(cell, key, choose) for cell in cells))
        for key, label in labels.items()
        for name, choose in (("least", min), ("most", max))
    ]
    return markdown(("", *cells), rows)


def training_speed() -> str:
    """Tabulates the speed of training on one device per core, and the time to start."""
    found = summary("training_speed")
    ensembles = {"adding": 3, "copy_memory": 3, "binary_addition": 5}
    rows = [
        (f"one device per core over one device: {size} GRU", fixed(2)(gain))
        for size, gain in found["gain of one device per core"].items()
    ]
    rows += [
        (f"one device per core over one device: {ensembles[name]} seeds of {name} at once", fixed(2)(gain))
        for name, gain in found["the same, several seeds at once"].items()
    ]
    rows += [
        (f"`fit` on one device over a Python loop: {size} GRU", fixed(2)(gain))
        for size, gain in found["gain over a Python loop"].items()
    ]
    rows += [(f"seconds at the start: {part}", fixed(2)(seconds)) for part, seconds in found["seconds at the start"].items()]
    return markdown(("", "result"), rows)

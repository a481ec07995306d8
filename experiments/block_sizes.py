"""How far is what the engine chooses by the shapes, its blocks, what it keeps, its products, from the best of what it could choose?

`gru_jax._engine.blocks.chosen` picks a block size and what is kept from the forward pass, `gru_jax.ops` which products are taken
in one matmul; the sizes in both were swept by hand. Here is such a sweep: three cells, shapes on both sides of those sizes (but for
those of a forward pass alone, and of half precision), the gradient in float32 as it comes; in blocks of other sizes, keeping states or
gates; and with the products of the loop together or apart. All make the same gradients; they take turns; medians.

Expectation: within a tenth of the best in the mean. A single best of some twenty is luck in part: programs that are the same differ by
two or three percent, at worst by nine, and the best is taken with that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.common import Options, Outcome, main
from experiments.speed.measure import Program, gradient_program, interleaved, relative_difference
from experiments.speed.peers import ours
from experiments.speed.problem import CELLS, Problem, Shape, random_problem
from experiments.speed.report import geomean
from gru_jax import ops
from gru_jax._engine.blocks import chosen

SHAPES = {
    (50, 1, 16, 32): "tiny",
    (100, 8, 16, 32): "B·H below 512",
    (100, 16, 16, 32): "B·H of 512",
    (1000, 1, 48, 64): "D + H above 64",
    (100, 64, 16, 64): "small: 409,600 states",
    (100, 128, 32, 64): "up to twice as large, B·H of 8,192",
    (200, 32, 64, 128): "up to twice as large, B·H of 4,096",
    (400, 64, 16, 32): "up to twice as large, B·H of 2,048",
    (1000, 16, 32, 64): "up to twice as large, B·H of 1,024",
    (1000, 64, 16, 32): "larger, 32 units",
    (8000, 1, 4, 16): "small, but for more than 4,096 steps",
    (500, 32, 1, 128): "128 units",
    (200, 64, 128, 256): "256 units, 64 rows",
    (60, 16, 256, 512): "512 units",
}
FACTORS = (1 / 4, 1 / 2, 2, 4)  # of the block size that is chosen; one block too
PRODUCTS = {
    "[x, h] joined": {"JOINT_UP_TO": 2**31},
    "x and h apart": {"JOINT_UP_TO": 0},
    "h by all gates": {"JOINT_UP_TO": 0, "WIDE_UP_TO": 2**30},
    "h by one gate after the other": {"JOINT_UP_TO": 0, "WIDE_UP_TO": 0},
}
AS_CHOSEN = "as chosen"


@contextmanager
def sizes(**constants: Any) -> Iterator[None]:
    """With other sizes in `ops`; what was traced with the ones before is forgotten on the way in and out."""
    with patch.multiple(ops, **constants):
        jax.clear_caches()
        yield
    jax.clear_caches()


def programs_of(problem: Problem, quick: bool) -> tuple[str, dict[str, Program]]:
    """What is chosen, in words; the programs by name."""
    steps = len(problem.xs)
    choice = chosen("auto", None, "all", problem.xs, problem.weights[0])
    near = {min(max(round(factor * choice.block_size), 1), steps) for factor in (FACTORS[:1] if quick else FACTORS)}
    gradient = partial(gradient_program, problem=problem)
    found = {AS_CHOSEN: gradient(ours(problem))}
    for size in sorted(near | {choice.block_size, steps}):
        for kept in ("states", "gates"):
            if (size, kept) != (choice.block_size, choice.residuals):
                found[f"{size}, {kept}"] = gradient(ours(problem, block_size=size, residuals=kept))
    for name, constants in list(PRODUCTS.items())[: 1 if quick else None]:
        with sizes(**constants):
            found[name] = gradient(ours(problem))
    return f"{choice.block_size}, {choice.residuals}", found


def swept(cell: str, shape: Shape, options: Options) -> dict[str, Any]:
    """One case: all programs compared, then timed."""
    choice, programs = programs_of(random_problem(CELLS[cell], shape, options.seed), options.quick)
    made = {name: program.call(*program.arguments) for name, program in programs.items()}
    differences = [relative_difference(gradient, made[AS_CHOSEN]) for gradient in made.values()]
    assert np.max(differences) < 1e-3, dict(zip(made, differences, strict=True))
    measured = interleaved(programs, 3 if options.quick else 9)
    ms = {name: found["ms"] for name, found in measured.items()}
    best = lambda of: min((name for name in ms if name == AS_CHOSEN or (name in PRODUCTS) == of), key=ms.__getitem__)
    blocks, products = best(False), best(True)
    return {
        "cell": cell,
        "shape": shape,
        "chosen": choice,
        "best_blocks": blocks,
        "best_products": products,
        "chosen_over_best_blocks": round(ms[AS_CHOSEN] / ms[blocks], 3),
        "chosen_over_best_products": round(ms[AS_CHOSEN] / ms[products], 3),
        "measured": measured,
    }


def table(cases: list[dict[str, Any]]) -> str:
    """Every case: what is chosen, the best, and the time and memory of both."""
    lines = [
        "Milliseconds of a gradient and MiB of its temporaries, as chosen by the shapes and for the best of the sweep: block size and",
        "what is kept; and products. A best one within nine percent decides nothing.",
        "",
        "| T, B, D, H | | cell | chosen | | best blocks | | best products | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        told = lambda name, found=case["measured"]: f"{found[name]['ms']:.3g} ms, {found[name]['temp_mib']:.3g} MiB"
        best = " | ".join(
            f"{case[kind] if case[kind] != AS_CHOSEN else ''} | {told(case[kind])}" for kind in ("best_blocks", "best_products")
        )
        lines.append(
            f"| {case['shape']} | {SHAPES.get(case['shape'], '')} | {case['cell']} | {case['chosen']} | {told(AS_CHOSEN)} | {best} |"
        )
    return "\n".join(lines) + "\n"


def draw(cases: list[dict[str, Any]]) -> plt.Figure:
    """Time over that of what is chosen, by block size; a row for each cell."""
    cells = list(dict.fromkeys(case["cell"] for case in cases))
    figure, all_axes = plt.subplots(
        len(cells), 2, figsize=(9, 2.6 * len(cells)), layout="constrained", squeeze=False, sharey=True
    )
    for axes_of_cell, cell in zip(all_axes, cells, strict=True):
        for axes, kept in zip(axes_of_cell, ("states", "gates"), strict=True):
            of_cell = [case for case in cases if case["cell"] == cell]
            for case, colour in zip(of_cell, plt.get_cmap("turbo")(np.linspace(0, 1, len(of_cell))), strict=True):
                ms = {name: found["ms"] for name, found in case["measured"].items()}
                if case["chosen"].endswith(kept):
                    ms[case["chosen"]] = ms[AS_CHOSEN]
                points = sorted((int(name.split(",")[0]), value) for name, value in ms.items() if name.endswith(f", {kept}"))
                axes.plot(
                    *zip(*[(size, value / ms[AS_CHOSEN]) for size, value in points], strict=True),
                    ".-",
                    color=colour,
                    label=str(case["shape"]),
                )
            axes.axhline(1, color="grey", linewidth=0.8)
            axes.set(xscale="log", title=f"{cell}, {kept} kept", xlabel="block size", ylabel="time over the chosen one's")
            axes.grid(alpha=0.3)
    figure.legend(
        *all_axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize="x-small", title="T, B, D, H"
    )
    return figure


def run(options: Options) -> Outcome:
    """Every shape and gated cell."""
    shapes = [Shape(20, 4, 8, 16)] if options.quick else [Shape(*sizes) for sizes in SHAPES]
    cells = ["GRU"] if options.quick else ["GRU", "GRU, reset after", "LSTM"]
    cases = []
    for shape in shapes:
        for cell in cells:
            cases.append(case := swept(cell, shape, options))
            told = {key: case[f"best_{key}"] for key in ("blocks", "products")} | {
                f"over the best {key}": case[f"chosen_over_best_{key}"] for key in ("blocks", "products")
            }
            print(f"{shape!s:22} {cell:16} {case['chosen']:14} {told}", flush=True)
    summary = {
        f"chosen over best {key}": {
            "mean": geomean(case[f"chosen_over_best_{key}"] for case in cases),
            "most": max(case[f"chosen_over_best_{key}"] for case in cases),
        }
        for key in ("blocks", "products")
    }
    return Outcome(summary | {"cases": len(cases)}, {"cases": cases}, {"sweep.png": draw(cases)}, {"tables.md": table(cases)})


if __name__ == "__main__":
    main(run)

"""How much time does each rule of the engine's plan save, on tuned shapes and on others?

`gru_jax/_engine/plan.py` decides from the shapes how time is cut into blocks, what the forward pass
saves, and which products are joined into one matmul. This experiment compares the plan with and
without each rule.

Measured: the gradient of a weighted sum of all outputs with respect to the parameters, in float32,
for three cells. Some shapes are those on which the rules were chosen. The others are drawn at
random from a seed. A rule is measured only on shapes where it changes the plan.

Method: the engine takes the plan as an argument, so both programs differ in nothing else. They are
compiled, their results compared, and then timed in turns over several rounds. A ratio above 1 means
that the rule makes the gradient faster. The committed times are from two CPU cores.

Expectation: each rule gains at least 5 % in the geometric mean, or 25 % on a shape that users run.
This holds on the random shapes too. Even identical programs differ in time here, so a single shape
proves nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import gru_jax as gj
from experiments.common import Options, Outcome, main, progress
from experiments.speed.measure import Program, compile_program, interleaved, relative_difference
from experiments.speed.problem import CELLS, Shape, random_problem
from experiments.speed.report import geomean
from gru_jax._engine.forward import Loop
from gru_jax._engine.plan import Device, Plan, Shapes, make_plan
from gru_jax._engine.recursion import recursion
from gru_jax._engine.step_flags import StepFlags


@dataclass(frozen=True)
class RuleOptions(Options):
    """The command-line options.

    Attributes:
        random_shapes: How many random shapes to draw for each rule.
    """

    random_shapes: int = 4


TUNED = (
    Shape(50, 1, 16, 32),
    Shape(20, 32, 16, 16),
    Shape(100, 8, 16, 32),
    Shape(500, 1, 16, 64),
    Shape(100, 64, 16, 64),
    Shape(100, 32, 64, 128),
    Shape(1000, 16, 32, 64),
    Shape(500, 32, 1, 128),
    Shape(200, 64, 128, 256),
    Shape(60, 16, 256, 512),
)
QUICK_SHAPES = (Shape(20, 4, 8, 16), Shape(12, 40, 3, 16))
CELL_NAMES = ("GRU", "GRU, reset after", "LSTM")

# For each rule, a function that removes it from a plan.
RULES: dict[str, Callable[[Plan, Shape], Plan]] = {
    "a small sequence is one block": lambda plan, shape: (
        replace(plan, block_size=max(shape.T // 4, 1)) if plan.block_size is None else plan
    ),
    "a large sequence is cut into blocks": lambda plan, shape: replace(plan, block_size=None),
    "blocks of 2^17 states, not 2^16": lambda plan, shape: _with_block(plan, shape, 1 / 2),
    "blocks of 2^17 states, not 2^18": lambda plan, shape: _with_block(plan, shape, 2),
    "gates are saved for 256 units or more": lambda plan, shape: replace(plan, residuals="states") if shape.H >= 256 else plan,
    "a wide sequence in one block saves its gates": lambda plan, shape: (
        replace(plan, residuals="states") if shape.H < 256 else plan
    ),
    "other sequences do not save their gates": lambda plan, shape: replace(plan, residuals="gates"),
    "products are joined in the loop up to 256 units": lambda plan, shape: replace(
        plan, join_in_loop=False, join_outside=False
    ),
    "products are not joined in the loop for more units": lambda plan, shape: replace(plan, join_in_loop=True),
    "products are joined outside the loop for few states": lambda plan, shape: replace(plan, join_outside=False),
    "products are not joined outside the loop for many states": lambda plan, shape: replace(
        plan, join_outside=plan.join_in_loop
    ),
}


def _with_block(plan: Plan, shape: Shape, factor: float) -> Plan:
    """Returns the plan with its block size multiplied by `factor`. A single block is kept."""
    return replace(plan, block_size=plan.block_size and max(round(plan.block_size * factor), 1))


def plan_for(shape: Shape) -> Plan:
    """Returns the engine's plan for one CPU device."""
    return make_plan(Shapes(shape.T, shape.B, shape.H), Device(), gj.CustomVJP())


def gradient_with(plan: Plan, cell_name: str, shape: Shape, seed: int) -> Program:
    """Compiles the gradient of one cell and shape, executed according to the plan."""
    cell, params, xs, weights = random_problem(CELLS[cell_name], shape, seed)
    h0 = cell.initial_state(params, shape.B)

    def loss(params: Any, xs: jax.Array, weights: jax.Array) -> jax.Array:
        return (recursion(cell, Loop(plan), params, xs, h0, None, StepFlags())[1] * weights).sum()

    return compile_program(jax.grad(loss), params, xs, weights)


def draw_shapes(rule: Callable[[Plan, Shape], Plan], count: int, seed: int) -> list[Shape]:
    """Draws shapes on which the rule changes the plan, log-uniformly, small enough to measure."""
    random = np.random.default_rng(seed)
    size = lambda low, high: round(float(np.exp(random.uniform(np.log(low), np.log(high)))))
    found: list[Shape] = []
    for _ in range(100_000):
        shape = Shape(size(10, 2000), size(1, 256), size(1, 256), size(8, 512))
        states = shape.T * shape.B * shape.H
        measurable = 2**9 < states < 2**22 and states * (shape.D + shape.H) < 2e9
        if measurable and rule(plan_for(shape), shape) != plan_for(shape):
            found.append(shape)
        if len(found) == count:
            break
    return found


def measure(name: str, kind: str, shape: Shape, cell: str, options: RuleOptions) -> dict[str, Any]:
    """Times the plan with and without one rule, on one shape and cell."""
    compiled = partial(gradient_with, cell_name=cell, shape=shape, seed=options.seed)
    programs = {"with": compiled(plan_for(shape)), "without": compiled(RULES[name](plan_for(shape), shape))}
    results = [program.call(*program.arguments) for program in programs.values()]
    difference = relative_difference(*results)
    assert difference < 1e-3, (name, shape, cell, difference)
    measured = interleaved(programs, 3 if options.quick else 11)
    ratio = measured["without"]["ms"] / measured["with"]["ms"]
    tqdm.write(f"{name}: {kind} {shape!s:22} {cell:16} {ratio:.2f}")
    return {"rule": name, "shapes": kind, "cell": cell, "shape": shape, "ratio": round(ratio, 3), "measured": measured}


def summarize(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns, for each rule, the geometric means over tuned and random shapes, and the extremes."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(case["rule"] for case in cases):
        own = [case for case in cases if case["rule"] == name]
        of = lambda kind, own=own: [case["ratio"] for case in own if case["shapes"] == kind]
        entry: dict[str, Any] = {kind: geomean(of(kind)) for kind in ("tuned", "random") if of(kind)}
        found[name] = entry | {
            "least": min(case["ratio"] for case in own),
            "most": max(case["ratio"] for case in own),
            "cases": len(own),
        }
    return found


def table(rules: dict[str, Any]) -> str:
    """Formats the summary as a Markdown table."""
    lines = [
        "Time of a gradient without each rule over the time with it. Above 1, the rule makes the gradient faster.",
        "",
        "| rule | mean, tuned shapes | mean, random shapes | least | most | cases |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in rules.items():
        values = [entry.get("tuned", "–"), entry.get("random", "–"), entry["least"], entry["most"], entry["cases"]]
        lines.append(f"| {name} | {' | '.join(map(str, values))} |")
    return "\n".join(lines) + "\n"


def draw(cases: list[dict[str, Any]]) -> plt.Figure:
    """Draws every ratio, a row for each rule."""
    names = list(dict.fromkeys(case["rule"] for case in cases))
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(names) + 1.5), layout="constrained")
    for kind, marker in (("tuned", "o"), ("random", "x")):
        own = [case for case in cases if case["shapes"] == kind]
        axes.plot(
            [case["ratio"] for case in own],
            [names.index(case["rule"]) for case in own],
            marker,
            label=f"{kind} shapes",
            alpha=0.7,
        )
    axes.axvline(1, color="grey", linewidth=1)
    axes.set(yticks=range(len(names)), yticklabels=names, xscale="log", xlabel="time without the rule over time with it")
    axes.set_xticks([0.7, 1, 1.5, 2, 3], ["0.7", "1", "1.5", "2", "3"])
    axes.invert_yaxis()
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def run(options: RuleOptions) -> Outcome:
    """Measures every rule on the shapes where it changes the plan."""
    rows = []
    for i, (name, rule) in enumerate(RULES.items()):
        shapes = [("tuned", shape) for shape in (QUICK_SHAPES if options.quick else TUNED)]
        if not options.quick:
            shapes += [("random", shape) for shape in draw_shapes(rule, options.random_shapes, options.seed + 100 + i)]
        changed = [(kind, shape) for kind, shape in shapes if rule(plan_for(shape), shape) != plan_for(shape)]
        cells = CELL_NAMES[: 1 if options.quick else None]
        rows += [(name, kind, shape, cell) for kind, shape in changed for cell in cells]
    cases = [measure(*row, options) for row in progress(rows, "rules")]
    rules = summarize(cases)
    return Outcome({"rules": rules}, {"cases": cases}, {"rules.png": draw(cases)}, {"tables.md": table(rules)})


if __name__ == "__main__":
    main(run, RuleOptions)

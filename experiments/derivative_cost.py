"""What do the derived gradients and tangents cost compared with autodiff?

Measured: the gradient of a weighted sum of all outputs with respect to the parameters, in float32,
for each cell and shape, with and without lengths and resets. It is computed in three ways, all with
the same forward pass: `CustomVJP`, `CustomJVP` (whose transpose is derived too) and `Autodiff`. The
tangent in a random direction is timed with `CustomJVP` and with `Autodiff`.

Three cells without a derivation are measured beside the plain `lax.scan` of their step and the one
with a checkpointed step.

Method: the programs are compiled, their results compared, and then timed in turns over several
rounds. Ratios of medians are reported. The committed times are from two CPU cores.

Expectation: the derived gradient is faster than autodiff's and needs less memory, with and without
lengths and resets. The gradient with `CustomJVP` costs little more. For a tangent alone, autodiff
is faster, because it makes one pass where `CustomJVP` makes two. A cell without a derivation takes
no more time than the checkpointed scan, and at most a third more memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import gru_jax as gj
from experiments.common import Options, Outcome, main, progress
from experiments.speed import without_derivation
from experiments.speed.measure import Program, compile_program, interleaved, relative_difference
from experiments.speed.problem import CELLS
from experiments.speed.report import geomean

SHAPES = ((100, 32, 64, 128), (1000, 16, 32, 64), (60, 16, 256, 512))  # T, B, D, H
QUICK_SHAPES = ((20, 4, 8, 16),)
CONDITIONS = {"plain": False, "lengths and resets": True}  # whether lengths and resets are given
# The names are keys of results.json.
DERIVATIVES = {"adjoint": gj.CustomVJP(), "both": gj.CustomJVP(), "autodiff": gj.Autodiff()}
# the memory of a gradient is that of its states, or more: T, B, D, H
SHAPES_WITHOUT = ((100, 32, 32, 64), (100, 8, 32, 128), (1000, 16, 32, 64))
GRADIENTS, TANGENTS = ("adjoint", "both", "autodiff"), ("both", "autodiff")


def candidates(cell: gj.Cell, shape: tuple[int, ...], *, with_step_flags: bool, seed: int) -> dict[str, Program]:
    """Compiles the gradients and the tangents of one cell and shape, by name.

    With `with_step_flags`, the sequences have different lengths and are reset at random steps.
    """
    T, B, D, H = shape
    keys = jax.random.split(jax.random.key(seed), 6)
    params = cell.init(keys[0], D, H)
    xs, weights = jax.random.normal(keys[1], (T, B, D)), jax.random.normal(keys[2], (T, B, H))
    lengths, resets = jax.random.randint(keys[3], (B,), T // 2, T + 1), jax.random.bernoulli(keys[4], 0.02, (T, B))
    direction = jax.tree.map(lambda p: jax.random.normal(keys[5], p.shape), params)

    def loss(derivative: Any, params: Any, xs: jax.Array, lengths: jax.Array, resets: jax.Array) -> jax.Array:
        step_flags: Any = {"lengths": lengths, "resets": resets} if with_step_flags else {}
        return (gj.unroll(cell, params, xs, derivative=derivative, **step_flags)[1] * weights).sum()

    def tangent(derivative: Any, params: Any, *data: jax.Array) -> jax.Array:
        return jax.jvp(lambda params: loss(derivative, params, *data), (params,), (direction,))[1]

    programs: dict[str, Callable[..., Any]] = {
        f"gradient, {name}": jax.grad(partial(loss, DERIVATIVES[name])) for name in GRADIENTS
    }
    programs |= {f"tangent, {name}": partial(tangent, DERIVATIVES[name]) for name in TANGENTS}
    arguments = (params, xs, lengths, resets)
    return {name: compile_program(program, *arguments) for name, program in programs.items()}


def largest_difference(programs: dict[str, Program], kind: str) -> float:
    """Returns the largest difference from autodiff, relative to each leaf's scale."""
    results = {name: program.call(*program.arguments) for name, program in programs.items() if name.startswith(kind)}
    reference = results[f"{kind}, autodiff"]
    return float(np.max([relative_difference(result, reference) for result in results.values()]))


def time_without_derivation(shapes: tuple[tuple[int, ...], ...], rounds: int, seed: int) -> list[dict[str, Any]]:
    """Times the cells without a derivation beside scans of their step."""
    cases = []
    rows = [(shape, name, cell) for shape in shapes for name, cell in without_derivation.CELLS.items()]
    for shape, name, cell in progress(rows, "without a derivation"):
        T, B, D, H = shape
        keys = jax.random.split(jax.random.key(seed), 3)
        arguments = cell.init(keys[0], D, H), jax.random.normal(keys[1], (T, B, D))
        weights = jax.random.normal(keys[2], (T, B, H))

        def loss(kind: str, params: Any, xs: jax.Array, cell: Any = cell, weights: Any = weights) -> jax.Array:
            return (without_derivation.run(cell, kind, params, xs) * weights).sum()

        programs = {
            kind: compile_program(jax.grad(partial(loss, kind)), *arguments) for kind in ("ours", "plain", "checkpointed")
        }
        results = [program.call(*arguments) for program in programs.values()]
        difference = max(relative_difference(result, results[-1]) for result in results)
        assert difference < 1e-3, (shape, name, difference)
        measured = interleaved(programs, rounds)
        time = measured["checkpointed"]["ms"] / measured["ours"]["ms"]
        memory = measured["ours"]["temp_mib"] / max(measured["checkpointed"]["temp_mib"], 1e-9)
        ratios = {"checkpointed_over_ours": round(time, 3), "temp_ours_over_checkpointed": round(memory, 3)}
        cases.append({"shape": shape, "cell": name, "difference": difference, "ratios": ratios, "measured": measured})
        tqdm.write(f"{shape} {name} {ratios}")
    return cases


def run(options: Options) -> Outcome:
    """Times every shape and cell, with and without lengths and resets."""
    rounds = 3 if options.quick else 15
    without = time_without_derivation(QUICK_SHAPES if options.quick else SHAPES_WITHOUT, rounds, options.seed)
    cases = []
    rows = [
        (shape, name, condition)
        for shape in (QUICK_SHAPES if options.quick else SHAPES)
        for name in CELLS
        for condition in CONDITIONS
    ]
    for shape, name, condition in progress(rows, "derivatives"):
        programs = candidates(CELLS[name], shape, with_step_flags=CONDITIONS[condition], seed=options.seed)
        difference = float(np.max([largest_difference(programs, kind) for kind in ("gradient", "tangent")]))
        assert difference < 1e-3, (shape, name, condition, difference)  # the time of a wrong result means nothing
        measured = interleaved(programs, rounds)
        ms = {program: figures["ms"] for program, figures in measured.items()}
        mib = {program: figures["temp_mib"] for program, figures in measured.items()}
        ratios = {
            "autodiff_over_adjoint": ms["gradient, autodiff"] / ms["gradient, adjoint"],
            "both_over_adjoint": ms["gradient, both"] / ms["gradient, adjoint"],
            "tangent_autodiff_over_both": ms["tangent, autodiff"] / ms["tangent, both"],
            "temp_adjoint_over_autodiff": mib["gradient, adjoint"] / max(mib["gradient, autodiff"], 1e-9),
        }
        case = {"shape": shape, "cell": name, "conditions": condition, "difference": difference}
        cases.append(case | {"ratios": {key: round(value, 3) for key, value in ratios.items()}, "measured": measured})
        tqdm.write(f"{shape} {name} {condition} { {key: f'{value:.2f}' for key, value in ratios.items()} }")
    results = {"rounds": rounds, "cases": cases, "without_derivation": without}
    return Outcome(summary(cases, without), results, {"ratios.png": draw(cases)})


def summary(cases: list[dict[str, Any]], without: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the geometric means, with and without lengths and resets, and for the cells without a
    derivation.
    """
    found: dict[str, Any] = {"cases": len(cases), "largest_difference": max(case["difference"] for case in cases)}
    for condition in CONDITIONS:
        chosen = [case for case in cases if case["conditions"] == condition]
        found[condition] = {key: geomean([case["ratios"][key] for case in chosen]) for key in chosen[0]["ratios"]}
        found[condition]["slowest_autodiff_over_adjoint"] = min(case["ratios"]["autodiff_over_adjoint"] for case in chosen)
    gradient = lambda case: case["measured"]["gradient, adjoint"]["ms"]
    found["conditions_over_plain"] = geomean(
        [gradient(with_) / gradient(plain) for plain, with_ in zip(cases[::2], cases[1::2], strict=True)]
    )
    of = lambda key: [case["ratios"][key] for case in without]
    time, memory = of("checkpointed_over_ours"), of("temp_ours_over_checkpointed")
    found["without_derivation"] = {
        "checkpointed_over_ours": geomean(time),
        "slowest_checkpointed_over_ours": min(time),
        "temp_ours_over_checkpointed": geomean(memory),
        "most_temp_ours_over_checkpointed": max(memory),
    }
    return found


def draw(cases: list[dict[str, Any]]) -> plt.Figure:
    """Draws the time of autodiff over that of the derived gradient and the derived tangent."""
    figure, axes = plt.subplots(figsize=(11, 0.32 * len(cases) + 1.6), layout="constrained")
    labels = [f"{case['cell']}, {tuple(case['shape'])}, {case['conditions']}" for case in cases]
    at = np.arange(len(cases))
    for i, (key, label) in enumerate(
        {
            "autodiff_over_adjoint": "gradient: autodiff / adjoint",
            "tangent_autodiff_over_both": "tangent: autodiff / both",
        }.items()
    ):
        axes.barh(at + 0.4 * i, [case["ratios"][key] for case in cases], height=0.38, label=label)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set(yticks=at + 0.2, yticklabels=labels, xlabel="times faster", title="Derived against autodiff of the same cell")
    axes.invert_yaxis()
    axes.legend()
    return figure


if __name__ == "__main__":
    main(run)

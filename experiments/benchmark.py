"""How fast is a gradient here, and how small, beside every other library's?

The gradient of a weighted sum of all outputs by the weights, float32, random everything: `gj.unroll` as it comes, with each kind of
residuals, and with autodiff; Flax NNX, Equinox, Haiku and Keras (on JAX), each as its users write it and with its step checkpointed;
then PyTorch in a process of its own. All are checked to make the same gradients from the same weights (moved by
`gj.convert`); those of JAX take turns; medians. The GRU with the reset after the matmul is what most libraries have, before it Haiku
and Keras. Beside the time: that of tracing and compiling, the memory of temporaries, and the floor: the floating-point operations that
cannot be avoided, over the rate of a large matmul on this device.

Then the same over the CPU's cores as devices; over long, wide and bfloat16 sequences; the forward pass alone and the gradient of the
inputs; a recurrent policy's update; a single step. The targets: never slower than the fastest of the other JAX libraries, 1.4 times as
fast on the six larger shapes (geometric mean), 1.3 times on the tiny ones.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import Options, Outcome, main
from experiments.speed import report, sharded, torch_process, variants
from experiments.speed.cases import policy_updates, single_steps
from experiments.speed.measure import (
    difference,
    forward_program,
    gradient_program,
    interleaved,
    matmul_rate,
    relative_difference,
)
from experiments.speed.peers import cudnn_lstm, ours, peers_of
from experiments.speed.problem import CELLS, Candidate, Problem, Shape, floor_flop, posed

LARGER = [
    (100, 32, 64, 128),
    (200, 64, 128, 256),
    (1000, 16, 32, 64),
    (500, 32, 1, 128),
    (100, 128, 512, 512),
    (60, 16, 256, 512),
]
TINY = [
    (50, 1, 16, 32),
    (500, 1, 16, 64),
    (200, 1, 64, 256),
    (50, 2, 8, 8),
    (100, 4, 8, 32),
    (20, 32, 16, 16),
    (2000, 1, 4, 16),
]
BATCHED = [(50, 128, 16, 16), (100, 64, 16, 32), (300, 32, 8, 32), (100, 128, 32, 64)]  # many sequences, few units
BEYOND = {
    "T": [(10, 16, 32, 64), (100, 16, 32, 64), (1_000, 16, 32, 64), (10_000, 16, 32, 64), (20_000, 16, 32, 64)],
    "B": [(100, 1, 64, 128), (100, 8, 64, 128), (100, 64, 64, 128), (100, 512, 64, 128)],
    "H": [(100, 16, 64, 8), (100, 16, 64, 32), (100, 16, 64, 128), (100, 16, 64, 512), (50, 16, 64, 1024)],
}
AFTER = "GRU, reset after"
Peer = Literal["Flax NNX", "Equinox", "Haiku", "Keras", "PyTorch"]
MODULES = {"Flax NNX": "flax", "Equinox": "equinox", "Haiku": "haiku", "Keras": "keras", "PyTorch": "torch"}
DISTRIBUTIONS = {"Haiku": "dm-haiku"}  # where it is not named as the module is


@dataclass(frozen=True)
class BenchmarkOptions(Options):
    """Also:

    Attributes:
        shapes: T,B,D,H of each, instead of all.
        peers: which of the other libraries.
    """

    shapes: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = get_args(Peer)


def candidates_of(
    problem: Problem, peers: Sequence[str], residuals: bool = True, checkpointed: bool = True
) -> dict[str, Candidate]:
    """By name; the first is what a user gets."""
    found = {"ours": ours(problem)}
    if residuals:
        found |= {f"ours, {kept}": ours(problem, residuals=kept) for kept in ("states", "gates")}
    found |= {"autodiff": ours(problem, derivative="autodiff")}
    if problem.cell is CELLS["LSTM"] and jax.default_backend() == "gpu":
        found["cuDNN"] = cudnn_lstm(problem)
    others = {name: maker(problem) for name, maker in peers_of(problem.cell, peers).items()}
    return found | {name: candidate for name, candidate in others.items() if checkpointed or "checkpointed" not in name}


def gradients(problem: Problem, peers: Sequence[str], rounds: int, tolerance: float = 1e-3, **how: Any) -> dict[str, Any]:
    """Every candidate's gradient: compared, then timed."""
    candidates = candidates_of(problem, peers, **how)
    programs = {name: gradient_program(candidate, problem) for name, candidate in candidates.items()}
    made = {name: program.call(*program.arguments) for name, program in programs.items()}
    differences = {name: difference(candidates[name], gradient, made["autodiff"]) for name, gradient in made.items()}
    measured = interleaved(programs, rounds)
    if "PyTorch" in peers and CELLS[AFTER] is problem.cell and problem.xs.dtype == jnp.float32:
        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        measured["PyTorch"], candidate, theirs = torch_process.timed(problem, min(rounds, 9), device)
        differences["PyTorch"] = difference(candidate, theirs, made["autodiff"])
    assert all(error < tolerance for error in differences.values()), differences  # no speed of a wrong result, nor of NaN
    return {"difference": max(differences.values()), "measured": measured}


def with_floor(case: dict[str, Any], problem: Problem, rate: float) -> dict[str, Any]:
    """The milliseconds that its operations take at this rate, with and without the gates once more."""
    ms = {f"floor_{name}_ms": 1e3 * floor_flop(problem, name == "states") / rate for name in ("gates", "states")}
    return case | {name: round(value, 5) for name, value in ms.items()}


def shapes_of(texts: tuple[str, ...]) -> list[Shape]:
    """The shapes that `--shapes` names."""
    found = []
    for text in texts:
        sizes = [int(part) for part in text.split(",") if part.strip().isdigit()]
        if len(sizes) != 4 or text.count(",") != 3 or min(sizes) < 1:
            raise SystemExit(f"--shapes: got {text!r}, expected T,B,D,H, four positive integers: 100,32,64,128 for one")
        found.append(Shape(*sizes))
    return found


def main_table(options: BenchmarkOptions, rounds: int, rate: float) -> list[dict[str, Any]]:
    """Every cell on every shape; the tables' rows."""
    given = shapes_of(options.shapes)
    groups = {"given": given} if given else {"larger": LARGER, "tiny": TINY, "batched": BATCHED}
    if options.quick and not given:
        groups = {"tiny": [(20, 4, 8, 16)]}
    cases = []
    for group, shapes in groups.items():
        for shape in map(lambda sizes: Shape(*sizes), shapes):
            for name in (AFTER,) if options.quick else CELLS:
                problem = posed(CELLS[name], shape, options.seed)
                case = {"group": group, "cell": name, "shape": shape} | gradients(problem, options.peers, rounds)
                cases.append(with_floor(case, problem, rate))
                print(report.line(cases[-1]), flush=True)
    return cases


def growth(options: BenchmarkOptions, rounds: int, rate: float) -> dict[str, list[dict[str, Any]]]:
    """Time and memory over T, B and H, and in bfloat16, against Flax NNX and Equinox."""
    peers = tuple(name for name in ("Flax NNX", "Equinox") if name in options.peers)[: 1 if options.quick else None]
    sweeps: dict[str, Any] = {"T": [(10, 4, 4, 8)]} if options.quick else BEYOND
    found: dict[str, list[dict[str, Any]]] = {}
    for axis, shapes in sweeps.items():
        for shape in map(lambda sizes: Shape(*sizes), shapes):
            problem = posed(CELLS[AFTER], shape, options.seed)
            case = {"group": axis, "cell": AFTER, "shape": shape} | gradients(problem, peers, rounds, residuals=False)
            found.setdefault(axis, []).append(with_floor(case, problem, rate))
            print(report.line(found[axis][-1]), flush=True)
    shape = Shape(*(sweeps["T"][0] if options.quick else LARGER[0]))
    problem = posed(CELLS[AFTER], shape, options.seed, jnp.bfloat16)
    case = {"group": "bfloat16", "cell": AFTER, "shape": shape} | gradients(problem, peers, rounds, 0.3, residuals=False)
    found["bfloat16"] = [case]
    print(report.line(case), flush=True)
    return found


def other_passes(options: BenchmarkOptions, rounds: int) -> list[dict[str, Any]]:
    """The loss alone, of the gated cells, and the gradient by weights and inputs."""
    cases = []
    of = [("forward", name) for name in (AFTER, "GRU", "LSTM")[: 1 if options.quick else None]] + [
        ("weights and inputs", AFTER)
    ]
    for shape in map(lambda sizes: Shape(*sizes), [(20, 4, 8, 16)] if options.quick else LARGER):
        for what, cell in of:
            problem = posed(CELLS[cell], shape, options.seed)
            peers = options.peers[: 1 if options.quick else None]
            candidates = candidates_of(problem, peers, residuals=False, checkpointed=False)
            make: Any = forward_program if what == "forward" else partial(gradient_program, argnums=(0, 1))
            programs = {name: make(candidate, problem) for name, candidate in candidates.items()}
            made = {name: program.call(*program.arguments) for name, program in programs.items()}
            if what == "forward":
                assert np.ptp(np.array(list(made.values()))) < 1e-3 * problem.weights.size**0.5, made
            else:
                differences = [difference_of_both(candidates[name], both, made["autodiff"]) for name, both in made.items()]
                assert np.max(differences) < 1e-3, dict(zip(made, differences, strict=True))
            cases.append({"group": what, "cell": cell, "shape": shape, "measured": interleaved(programs, rounds)})
            print(report.line(cases[-1]), flush=True)
    return cases


def difference_of_both(candidate: Candidate, both: Any, reference: Any) -> float:
    """`difference`, and that of the inputs' gradients."""
    turned = jnp.swapaxes(both[1], 0, 1) if candidate.batch_major else both[1]
    return float(np.max([difference(candidate, both[0], reference[0]), relative_difference(turned, reference[1])]))


def over_devices(options: BenchmarkOptions, rounds: int) -> list[dict[str, Any]]:
    """The larger shapes over one CPU device per core."""
    cases = []
    for shape in [(20, 4, 8, 16)] if options.quick else LARGER:
        devices = max(math.gcd(os.cpu_count() or 1, shape[1]), 2)  # the batch divides by it
        peers: list[str] = list(options.peers[: 1 if options.quick else None])
        timed = sharded.timed(AFTER, shape, peers, rounds, devices, options.seed)
        cases.append({"group": f"{devices} devices", "cell": AFTER, "shape": Shape(*shape)} | timed)
        print(f"{devices} devices", Shape(*shape), {name: found["ms"] for name, found in timed["measured"].items()}, flush=True)
    return cases


def variants_of_the_engine(options: BenchmarkOptions, rounds: int) -> dict[str, dict[str, float]]:
    """How many times faster each is than the engine as it is, by shape."""
    backend = jax.default_backend()
    chosen = variants.VARIANTS | (variants.ON_GPU if backend == "gpu" else {})
    if options.quick:
        chosen = {name: chosen[name] for name in ("a product per gate",)}
    found: dict[str, dict[str, float]] = {}
    for shape in [(20, 4, 8, 16)] if options.quick else [LARGER[0], LARGER[4]]:
        for name, variant in chosen.items():
            timed = variants.timed(AFTER, shape, variant, rounds, backend, options.seed)
            ms = {kind: case["ms"] for kind, case in timed.items()}
            found.setdefault(name, {})[str(Shape(*shape))] = round(ms["as it is"] / ms["variant"], 3)
        print(Shape(*shape), {name: by[str(Shape(*shape))] for name, by in found.items()}, flush=True)
    return found


def run(options: BenchmarkOptions) -> Outcome:
    """All of it; with `--shapes` the first table only."""
    missing = [name for name in options.peers if find_spec(MODULES[name]) is None]
    if missing:
        print(f"not installed, so left out: {', '.join(missing)} (pip install 'gru_jax[peers]')", flush=True)
        options = replace(options, peers=tuple(name for name in options.peers if name not in missing))
    rounds = 3 if options.quick else 11
    shapes_of(options.shapes)
    rate = matmul_rate()
    print(f"{rate / 1e9:.0f} GFLOP/s in a matmul", flush=True)
    results: dict[str, Any] = {"libraries": {name: version(DISTRIBUTIONS.get(name, MODULES[name])) for name in options.peers}}
    results |= {"matmul_gflops": rate / 1e9, "cores": os.cpu_count(), "cases": main_table(options, rounds, rate)}
    if not options.shapes:
        results["growth"] = growth(options, rounds, rate)
        results["passes"] = other_passes(options, rounds)
        if jax.default_backend() == "cpu":
            results["devices"] = over_devices(options, rounds)
        results["variants"] = variants_of_the_engine(options, rounds)
        sizes = (16, 4, 2, 8) if options.quick else (128, 64, 16, 64)
        programs = {
            "policy updates": policy_updates(*sizes, options.peers, options.seed),
            "a single step": single_steps(1, 64, options.peers, options.seed),
        }
        results["around"] = {kind: interleaved(found, 3 * rounds) for kind, found in programs.items()}
        print(
            {kind: {name: case["ms"] for name, case in found.items()} for kind, found in results["around"].items()}, flush=True
        )
    figures = report.draw(results["growth"]) if "growth" in results else {}
    return Outcome(report.summary(results), results, figures, {"tables.md": report.tables(results)})


if __name__ == "__main__":
    main(run, BenchmarkOptions)

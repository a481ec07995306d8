"""How much time and memory does a gradient take, compared with other libraries?

Measured: the gradient of a weighted sum of all outputs with respect to the weights, in float32,
with random weights and data. The record has its time, the time to trace and compile it, and its
memory for temporaries. The floor is the time that the unavoidable floating-point operations take at
the rate of a large matmul on this device.

Candidates:
- `gj.unroll` with its defaults, with each kind of residuals, and with autodiff;
- Flax NNX, Equinox, Haiku and Keras (on JAX), as their users would write it, and also with the step
  in `jax.checkpoint`;
- PyTorch, in a process of its own.

Most libraries have the GRU that resets after the matmul. Only Haiku and Keras have the GRU that
resets before it.

Method: weights are converted by `gj.convert`, and the gradients of all candidates are compared
before they are timed. The JAX programs take turns, and medians are reported.

Also measured: the batch over several CPU devices; long, wide and bfloat16 problems; the forward
pass alone; the gradient with respect to weights and inputs; the update of a recurrent policy; a
single step.

All cells here have a derivation. Those without one are measured by `derivative_cost`, beside the
scan over their checkpointed step.

Expectation: `gj.unroll` is never slower than the fastest other JAX library. In the geometric mean
it is 1.4 times as fast on the six larger shapes, and 1.3 times as fast on the tiny ones.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

import gru_jax as gj
from experiments.common import Options, Outcome, main, progress
from experiments.speed import report, sharded, torch_process, variants
from experiments.speed.measure import (
    difference,
    forward_program,
    gradient_program,
    interleaved,
    matmul_rate,
    relative_difference,
)
from experiments.speed.peers import cudnn_lstm, ours, peers_of
from experiments.speed.policy_and_step import policy_updates, single_steps
from experiments.speed.problem import CELLS, Candidate, Problem, Shape, floor_flop, random_problem

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
UNTUNED = [(150, 24, 40, 96), (80, 64, 200, 320), (700, 8, 16, 48), (300, 48, 3, 160)]  # no rule of the plan was chosen on them
SWEEPS = {
    "T": [(10, 16, 32, 64), (100, 16, 32, 64), (1_000, 16, 32, 64), (10_000, 16, 32, 64), (20_000, 16, 32, 64)],
    "B": [(100, 1, 64, 128), (100, 8, 64, 128), (100, 64, 64, 128), (100, 512, 64, 128)],
    "H": [(100, 16, 64, 8), (100, 16, 64, 32), (100, 16, 64, 128), (100, 16, 64, 512), (100, 16, 64, 1024)],
}
RESET_AFTER = "GRU, reset after"
Peer = Literal["Flax NNX", "Equinox", "Haiku", "Keras", "PyTorch"]
MODULES = {"Flax NNX": "flax", "Equinox": "equinox", "Haiku": "haiku", "Keras": "keras", "PyTorch": "torch"}
DISTRIBUTIONS = {"Haiku": "dm-haiku"}  # distributions whose name differs from the module's


@dataclass(frozen=True)
class BenchmarkOptions(Options):
    """The options of the benchmark.

    Attributes:
        shapes: Shapes to time, for example 100,32,64,128.
        peers: Other libraries to compare with.
    """

    shapes: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[T,B,D,H ...]", help_behavior_hint="(default: the full benchmark)")
    ] = ()
    peers: Annotated[tuple[Peer, ...], tyro.conf.arg(help_behavior_hint="(default: all)")] = get_args(Peer)


def candidates_of(
    problem: Problem, peers: Sequence[str], *, residuals: bool = True, checkpointed: bool = True
) -> dict[str, Candidate]:
    """Returns the candidates by name.

    Args:
        problem: The problem.
        peers: Names of the other libraries.
        residuals: Whether to include one candidate per kind of residuals. Defaults to True.
        checkpointed: Whether to include other libraries with their step checkpointed. Defaults to
            True.
    """
    found = {"ours": ours(problem)}
    if residuals:
        found |= {f"ours, {kind}": ours(problem, derivative=gj.CustomVJP(residuals=kind)) for kind in ("states", "gates")}
    found |= {"autodiff": ours(problem, derivative=gj.Autodiff())}
    if problem.cell == CELLS["LSTM"] and jax.default_backend() == "gpu":
        found["cuDNN"] = cudnn_lstm(problem)
    others = {name: maker(problem) for name, maker in peers_of(problem.cell, peers).items()}
    return found | {name: candidate for name, candidate in others.items() if checkpointed or "checkpointed" not in name}


def time_gradients(
    problem: Problem, peers: Sequence[str], rounds: int, tolerance: float = 1e-3, **options: Any
) -> dict[str, Any]:
    """Compares the gradients of all candidates, and times them.

    `options` are those of `candidates_of`.
    """
    candidates = candidates_of(problem, peers, **options)
    programs = {name: gradient_program(candidate, problem) for name, candidate in candidates.items()}
    gradients = {name: program.call(*program.arguments) for name, program in programs.items()}
    reference = gradients["autodiff"]
    differences = {name: difference(candidates[name], gradient, reference) for name, gradient in gradients.items()}
    measured = interleaved(programs, rounds)
    if "PyTorch" in peers and CELLS[RESET_AFTER] == problem.cell and problem.xs.dtype == jnp.float32:
        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        measured["PyTorch"], candidate, torch_gradient = torch_process.timed(problem, min(rounds, 9), device)
        differences["PyTorch"] = difference(candidate, torch_gradient, reference)
    # The time of a wrong result means nothing. The comparison also fails for NaN.
    assert all(error < tolerance for error in differences.values()), differences
    return {"difference": max(differences.values()), "measured": measured}


def with_floor(case: dict[str, Any], problem: Problem, rate: float) -> dict[str, Any]:
    """Adds two floors in milliseconds to a case: with the gates computed once, and twice."""
    flop = {name: floor_flop(problem, recompute_gates=name == "states") for name in ("gates", "states")}
    ms = {f"floor_{name}_ms": 1e3 * count / rate for name, count in flop.items()}
    return case | {name: round(value, 5) for name, value in ms.items()}


def shapes_of(texts: tuple[str, ...]) -> list[Shape]:
    """Parses the shapes given by `--shapes`."""
    found = []
    for text in texts:
        sizes = [int(part) for part in text.split(",") if part.strip().isdigit()]
        if len(sizes) != 4 or text.count(",") != 3 or min(sizes) < 1:
            raise SystemExit(f"--shapes: got {text!r}, expected T,B,D,H, four positive integers, for example 100,32,64,128.")
        found.append(Shape(*sizes))
    return found


def main_table(options: BenchmarkOptions, rounds: int, rate: float) -> list[dict[str, Any]]:
    """Times every cell on every shape. Returns the rows of the tables."""
    given = shapes_of(options.shapes)
    groups = {"given": given} if given else {"larger": LARGER, "tiny": TINY, "batched": BATCHED, "untuned": UNTUNED}
    if options.quick and not given:
        groups = {"tiny": [(20, 4, 8, 16)]}
    names = (RESET_AFTER,) if options.quick else tuple(CELLS)
    rows = [(group, Shape(*sizes), name) for group, shapes in groups.items() for sizes in shapes for name in names]
    cases = []
    for group, shape, name in progress(rows, "gradients"):
        problem = random_problem(CELLS[name], shape, options.seed)
        case = {"group": group, "cell": name, "shape": shape} | time_gradients(problem, options.peers, rounds)
        cases.append(with_floor(case, problem, rate))
        tqdm.write(report.case_line(cases[-1]))
    return cases


def growth(options: BenchmarkOptions, rounds: int, rate: float) -> dict[str, list[dict[str, Any]]]:
    """Times the GRU over T, B and H, and in bfloat16, against Flax NNX and Equinox."""
    peers = tuple(name for name in ("Flax NNX", "Equinox") if name in options.peers)[: 1 if options.quick else None]
    sweeps: dict[str, Any] = {"T": [(10, 4, 4, 8)]} if options.quick else SWEEPS
    found: dict[str, list[dict[str, Any]]] = {}
    rows = [(axis, Shape(*sizes)) for axis, shapes in sweeps.items() for sizes in shapes]
    for axis, shape in progress(rows, "growth"):
        problem = random_problem(CELLS[RESET_AFTER], shape, options.seed)
        case = {"group": axis, "cell": RESET_AFTER, "shape": shape} | time_gradients(problem, peers, rounds)
        found.setdefault(axis, []).append(with_floor(case, problem, rate))
        tqdm.write(report.case_line(found[axis][-1]))
    shape = Shape(*(sweeps["T"][0] if options.quick else LARGER[0]))
    problem = random_problem(CELLS[RESET_AFTER], shape, options.seed, jnp.bfloat16)
    case = {"group": "bfloat16", "cell": RESET_AFTER, "shape": shape} | time_gradients(
        problem, peers, rounds, 0.3, residuals=False
    )
    found["bfloat16"] = [case]
    tqdm.write(report.case_line(case))
    return found


def other_passes(options: BenchmarkOptions, rounds: int) -> list[dict[str, Any]]:
    """Times the forward pass of gated cells, and the gradient for both weights and inputs."""
    cases = []
    forward_cells = (RESET_AFTER, "GRU", "LSTM")[: 1 if options.quick else None]
    passes = [*(("forward", name) for name in forward_cells), ("weights and inputs", RESET_AFTER)]
    shapes = [Shape(*sizes) for sizes in ([(20, 4, 8, 16)] if options.quick else LARGER)]
    for shape, (kind, cell) in progress([(shape, each) for shape in shapes for each in passes], "other passes"):
        problem = random_problem(CELLS[cell], shape, options.seed)
        peers = options.peers[: 1 if options.quick else None]
        candidates = candidates_of(problem, peers, residuals=False, checkpointed=False)
        make: Any = forward_program if kind == "forward" else partial(gradient_program, argnums=(0, 1))
        programs = {name: make(candidate, problem) for name, candidate in candidates.items()}
        values = {name: program.call(*program.arguments) for name, program in programs.items()}
        if kind == "forward":
            assert np.ptp(np.array(list(values.values()))) < 1e-3 * problem.weights.size**0.5, values
        else:
            differences = [difference_of_both(candidates[name], both, values["autodiff"]) for name, both in values.items()]
            assert np.max(differences) < 1e-3, dict(zip(values, differences, strict=True))
        cases.append({"group": kind, "cell": cell, "shape": shape, "measured": interleaved(programs, rounds)})
        tqdm.write(report.case_line(cases[-1]))
    return cases


def difference_of_both(candidate: Candidate, both: Any, reference: Any) -> float:
    """Returns the larger of the errors in the weights and in the inputs."""
    xs_bar = jnp.swapaxes(both[1], 0, 1) if candidate.batch_major else both[1]
    return float(np.max([difference(candidate, both[0], reference[0]), relative_difference(xs_bar, reference[1])]))


def over_devices(options: BenchmarkOptions, rounds: int) -> list[dict[str, Any]]:
    """Times the larger shapes with the batch spread over one CPU device per core."""
    cases = []
    for shape in progress([(20, 4, 8, 16)] if options.quick else LARGER, "several devices"):
        devices = max(math.gcd(os.cpu_count() or 1, shape[1]), 2)  # the number of devices divides the batch
        peers: list[str] = list(options.peers[: 1 if options.quick else None])
        timed = sharded.timed(RESET_AFTER, shape, peers, rounds, devices, options.seed)
        cases.append({"group": f"{devices} devices", "cell": RESET_AFTER, "shape": Shape(*shape)} | timed)
        milliseconds = {name: found["ms"] for name, found in timed["measured"].items()}
        tqdm.write(f"{devices} devices {Shape(*shape)} {milliseconds}")
    return cases


def variants_of_the_engine(options: BenchmarkOptions, rounds: int) -> dict[str, dict[str, float]]:
    """Times variants of the engine.

    Returns the time of the engine over that of each variant, by shape.
    """
    backend = jax.default_backend()
    chosen = variants.VARIANTS | (variants.ON_GPU if backend == "gpu" else {})
    if options.quick:
        chosen = {name: chosen[name] for name in ("one block",)}
    found: dict[str, dict[str, float]] = {}
    for shape in [(20, 4, 8, 16)] if options.quick else [LARGER[0], LARGER[4]]:
        for name, variant in chosen.items():
            timed = variants.timed(RESET_AFTER, shape, variant, rounds, backend, options.seed)
            ms = {kind: case["ms"] for kind, case in timed.items()}
            found.setdefault(name, {})[str(Shape(*shape))] = round(ms["as it is"] / ms["variant"], 3)
        print(Shape(*shape), {name: by[str(Shape(*shape))] for name, by in found.items()}, flush=True)
    return found


def run(options: BenchmarkOptions) -> Outcome:
    """Runs the full benchmark, or with `--shapes` the main table only."""
    missing = [name for name in options.peers if find_spec(MODULES[name]) is None]
    if missing:
        print(f"Leaving out {', '.join(missing)}: not installed. Run pip install 'gru_jax[peers]'.", flush=True)
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

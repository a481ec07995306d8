"""Is the loop over time faster as a scan or as one kernel, on the GPU at hand, and beside cuDNN?

Measured: the gradient of a weighted sum of all outputs with respect to the parameters, in float32
at the default matmul precision, for 32 to 512 units, 16 to 1024 sequences and 100 to 10,000 steps:
`CustomVJP(loop="scan")`, `CustomVJP(loop="fused")`, for a GRU with the reset after the matmul
PyTorch's GRU, and for an LSTM `jax.experimental.rnn.lstm`, both of which call cuDNN.

Method: programs take turns, and ratios are of their medians. PyTorch runs in a process of its own.
A shape whose arrays need more than half of the device's memory is left out and named. So is a
program that is refused, with the reason.

Where there is no GPU this experiment stops and says so. With `--quick` it runs anywhere: tiny
shapes, and the kernel in JAX's interpreter, whose times mean nothing.

Expectation: one kernel is faster where launches dominate, with few units and few sequences, and the
scan with many of both. `loop="auto"` follows the summary: for each number of units, the most
sequences with which the kernel was faster at every number of steps.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

import gru_jax as gj
from experiments.common import Options, Outcome, main, progress
from experiments.speed import torch_process
from experiments.speed.measure import Program, compile_program, interleaved, relative_difference
from experiments.speed.problem import CELLS, Problem, Shape, random_problem
from gru_jax._engine.forward import Loop
from gru_jax._engine.plan import Plan, Shapes, current_platform, make_plan, probe
from gru_jax._engine.plan_kernel import Kernel
from gru_jax._engine.recursion import recursion
from gru_jax._engine.step_flags import StepFlags

AFTER, LSTM = "GRU, reset after", "LSTM"
UNITS, SEQUENCES, STEPS = (32, 64, 128, 256, 512), (16, 64, 256, 1024), (100, 1000, 10_000)
ARRAYS = 16  # arrays of all states that a gradient may hold at once, roughly
MEMORY_WITHOUT_STATISTICS = 16 * 2**30  # bytes, where the device does not say how many it has


def shapes_of(quick: bool) -> list[Shape]:
    """Returns the shapes to time, as many inputs as units."""
    if quick:
        return [Shape(6, 3, 5, 5)]
    return [Shape(T, B, H, H) for H in UNITS for B in SEQUENCES for T in STEPS]


def plans(shape: Shape) -> dict[str, Plan]:
    """Returns the plans of both loops. Where there is no GPU, the kernel is interpreted."""
    device = probe(jnp.zeros((1, 1, 1)), ())
    if device.kernel is None:
        device = replace(device, kernel=Kernel(interpret=True))
    sizes = Shapes(shape.T, shape.B, shape.H)
    return {loop: make_plan(sizes, device, gj.CustomVJP(loop=loop)) for loop in ("scan", "fused")}


def gradient_with(plan: Plan, problem: Problem) -> Program:
    """Compiles the gradient of a problem, executed according to a plan."""
    cell, params, xs, weights = problem
    h0 = cell.initial_state(params, xs.shape[1])

    def loss(params: Any, xs: jax.Array, weights: jax.Array) -> jax.Array:
        return (recursion(cell, Loop(plan), params, xs, h0, None, StepFlags())[1] * weights).sum()

    return compile_program(jax.grad(loss), params, xs, weights)


def cudnn_program(problem: Problem) -> Program:
    """Compiles the same gradient of an LSTM by `jax.experimental.rnn`, of random weights."""
    from jax.experimental import rnn

    (T, B, D), H = problem.xs.shape, problem.weights.shape[-1]
    packed = rnn.init_lstm_weight(jax.random.key(0), D, H, 1, False)
    zeros, lengths = jnp.zeros((1, B, H)), jnp.full(B, T, jnp.int32)

    def loss(packed: jax.Array, xs: jax.Array, weights: jax.Array) -> jax.Array:
        return (rnn.lstm(xs, zeros, zeros, packed, lengths, D, H, 1, 0.0, False)[0] * weights).sum()

    batch_major = [jnp.swapaxes(array, 0, 1) for array in (problem.xs, problem.weights)]
    return compile_program(jax.grad(loss), packed, *batch_major)


def fits(shape: Shape) -> bool:
    """Tells whether the arrays of a shape need at most half of the device's memory."""
    statistics = jax.devices()[0].memory_stats() or {}
    limit = statistics.get("bytes_limit", MEMORY_WITHOUT_STATISTICS)
    return limit / 2 >= 4 * ARRAYS * shape.T * shape.B * shape.H


def measure(cell: str, shape: Shape, options: Options) -> dict[str, Any]:
    """Times all candidates on one cell and shape."""
    row: dict[str, Any] = {"cell": cell, "shape": shape, "measured": {}, "refused": {}}
    if not fits(shape):
        return row | {"refused": {"all": "its arrays need more than half of the device's memory"}}
    problem, on_gpu = random_problem(CELLS[cell], shape, options.seed), current_platform() == "gpu"
    makers = {name: partial(gradient_with, plan, problem) for name, plan in plans(shape).items()}
    if cell == LSTM and on_gpu:
        makers["jax.experimental.rnn"] = partial(cudnn_program, problem)
    programs: dict[str, Program] = {}
    for name, make in makers.items():
        try:
            programs[name] = make()
        except Exception as error:  # XLA has no class for a kernel that does not fit
            row["refused"][name] = str(error).splitlines()[0][:300]
    rounds = 3 if options.quick else 9
    if {"scan", "fused"} <= programs.keys():
        one, other = (programs[name].call(*programs[name].arguments) for name in ("scan", "fused"))
        row["difference"] = relative_difference(other, one)
    row["measured"] = interleaved(programs, rounds)
    if cell == AFTER and on_gpu and find_spec("torch") is not None:
        row["measured"]["PyTorch"] = torch_process.timed(problem, rounds, "cuda")[0]
    milliseconds = {name: found["ms"] for name, found in row["measured"].items()}
    row["scan_over"] = {name: round(milliseconds["scan"] / ms, 3) for name, ms in milliseconds.items() if name != "scan"}
    tqdm.write(f"{cell} {shape}: time of the scan over that of {row['scan_over']}, refused {row['refused']}")
    return row


def most_sequences(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Returns, for each cell and number of units, the most sequences up to which the kernel was faster at
    every number of steps that was timed. 0 if there are none.
    """
    found = {}
    for cell, units in dict.fromkeys((row["cell"], row["shape"][3]) for row in rows):
        own = [row for row in rows if (row["cell"], row["shape"][3]) == (cell, units) and row["measured"]]
        faster = 0
        for sequences in sorted({row["shape"][1] for row in own}):
            if not all(row["scan_over"].get("fused", 0) > 1 for row in own if row["shape"][1] == sequences):
                break
            faster = sequences
        found[f"{cell}, {units} units"] = faster
    return found


def run(options: Options) -> Outcome:
    """Times all cells and shapes, and says up to how many sequences the kernel was faster."""
    platform = current_platform()
    if platform != "gpu" and not options.quick:
        raise SystemExit(
            f"gpu_speed: got a {platform} device, expected an NVIDIA GPU; nothing was timed. Run it where jax.devices() lists a "
            "GPU, after pip install 'gru_jax[cuda,experiments]'. --quick runs anywhere, and its times mean nothing."
        )
    if platform != "gpu":
        print("gpu_speed: no GPU is available. The kernel is interpreted, and the times mean nothing.")
    cases = [(cell, shape) for shape in shapes_of(options.quick) for cell in (AFTER, "GRU", LSTM)]
    rows = [measure(cell, shape, options) for cell, shape in progress(cases, "shapes")]
    device = jax.devices()[0].device_kind
    summary = {
        "gpu": device if platform == "gpu" else None,
        "most sequences with which the kernel is faster": most_sequences(rows),
    }
    return Outcome(summary, {"platform": platform, "rows": rows}, {})


if __name__ == "__main__":
    main(run)

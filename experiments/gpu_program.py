"""How many kernels does a gradient launch on a GPU, and how much memory does it need?

Measured: the program that XLA compiles for an NVIDIA H100, on a machine without one. A small step of
a recurrent network takes less time on a GPU than the launch of its kernels, so launches are what a
library can save. No time is measured here.

For each candidate and shape: kernels and copies per time step, in the loops of the forward and of
the backward pass; what the host enqueues for them, where a CUDA graph of many kernels counts once;
both for one gradient in all; and the memory for temporaries.

Candidates are those of `benchmark`. Without a GPU, XLA cannot try several kernels for a matmul and
keep the fastest. So each program is compiled twice: with Triton matmuls, XLA's default here, and
with those of cublasLt. A program tuned on a GPU mixes both.

Method: JAX compiles for a description of the device, a text file. `--target` takes another. The
packages of the extra `gpu-compile` hold the compiler; no driver is needed. With `--check`, two
shapes are compiled, and their launches compared with the committed results: more is an error.

Expectation: `gj.unroll` launches at most 4 kernels per step in the forward pass and 5 in the backward
pass, and needs no more memory than Flax NNX.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.benchmark import LARGER, RESET_AFTER
from experiments.common import Options, Outcome, main
from experiments.gpu.compile_process import compiled_rows
from experiments.gpu.target import MATMULS, TARGETS, require_compiler
from experiments.speed.peers import PEERS
from experiments.speed.problem import CELLS
from experiments.summary_tables.formatting import record

OURS = ("ours", "ours, states", "ours, gates")
SMALL = [(100, 16, 64, 64), (100, 256, 64, 64), (100, 16, 64, 128), (100, 256, 64, 128)]
CHECKED = [(100, 32, 64, 128), (100, 16, 64, 64)]  # the shapes that --check compiles
COUNTS = ("forward", "backward", "enqueued_forward", "enqueued_backward", "total", "enqueued")
MODULES = {"Flax NNX": "flax", "Equinox": "equinox", "Haiku": "haiku", "Keras": "keras"}


@dataclass(frozen=True)
class ProgramOptions(Options):
    """The command-line options.

    Attributes:
        target: The description of the GPU to compile for. Defaults to an H100.
        check: Compile two shapes and compare their launches with the committed results.
    """

    target: Path = TARGETS / "h100.txtpb"
    check: bool = False


def cases_of(options: ProgramOptions) -> list[dict[str, Any]]:
    """Returns what to compile."""
    case = lambda cell, shape, candidate, flags: {"cell": cell, "shape": shape, "candidate": candidate, "flags": flags}
    if options.quick:
        return [case(RESET_AFTER, (20, 4, 8, 16), "ours", False)]
    if options.check:
        return [case(RESET_AFTER, shape, name, False) for shape in CHECKED for name in ("ours", "ours, gates")]
    installed = [name for name in PEERS if find_spec(MODULES[name])]
    found = []
    for cell in CELLS:
        peers = [name for name in installed if CELLS[cell] in PEERS[name][1]]
        shapes = SMALL + (LARGER if cell == RESET_AFTER else LARGER[:1])
        found += [case(cell, shape, name, False) for shape in shapes for name in (*OURS, "autodiff", *peers)]
        found += [case(cell, LARGER[0], name, True) for name in (*OURS, "autodiff")]
    return found


def regressions(rows: list[dict[str, Any]], committed: list[dict[str, Any]]) -> list[str]:
    """Returns a message for each count that is larger than in the committed results."""
    key = lambda row: (row["cell"], tuple(row["shape"]), row["candidate"], row["flags"], row["matmuls"])
    before = {key(row): row for row in committed}
    return [
        f"{' '.join(map(str, key(row)))}: got {row[name]} {name}, expected at most {before[key(row)][name]} as in "
        "experiments/results/gpu_program. If it is meant, run python -m experiments.gpu_program --out there."
        for row in rows
        for name in COUNTS
        if row[name] > before[key(row)][name]
    ]


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the largest counts per step of our default, and its total over that of Flax NNX."""
    of = lambda name, key: {(r["cell"], tuple(r["shape"]), r["matmuls"]): r[key] for r in rows if r["candidate"] == name}
    found: dict[str, Any] = {}
    for count in ("forward", "backward"):
        found[f"most launches per step, {count}"] = max(of("ours", count).values())
    for count in ("total", "enqueued", "temp_mib"):
        ours, flax = of("ours", count), of("Flax NNX", count)
        ratios = [ours[key] / flax[key] for key in flax]
        if ratios:
            found[f"{count}, ours over Flax NNX"] = {"least": round(min(ratios), 3), "most": round(max(ratios), 3)}
    return found


def run(options: ProgramOptions) -> Outcome:
    """Compiles all cases, with both kinds of matmuls at the same time."""
    require_compiler("gpu_program")
    cases = cases_of(options)
    with ThreadPoolExecutor(len(MATMULS)) as pool:
        found = pool.map(lambda matmuls: compiled_rows(options.target, matmuls, cases), MATMULS)
    rows = [row for each in found for row in each]
    if options.check and (worse := regressions(rows, record("gpu_program")["results"]["rows"])):
        raise SystemExit("\n".join(["gpu_program: more launches than before", *worse]))
    return Outcome(summarize(rows), {"target": options.target.stem, "rows": rows}, {})


if __name__ == "__main__":
    main(run, ProgramOptions)

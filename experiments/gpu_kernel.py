"""What does the loop over time as one GPU kernel need: registers, spills, shared memory, launches?

Measured: the kernels of `CustomVJP(loop="fused")`, compiled for an NVIDIA H100 (sm_90) and an A100
(sm_80) on a machine without a GPU. No time is measured here.

For each cell, dtype and number of units, forward and backward: warps, registers of a thread, bytes
of spills, and shared memory. A spill is a value that a thread keeps in memory for lack of
registers, which takes time at each step. For one shape and two lengths: the launches of a gradient,
what the host enqueues, and the memory for temporaries, beside those of the scan and with both kinds
of matmuls, as in `gpu_program`.

Method: as in `gpu_program`. XLA writes the assembly of each kernel, and NVIDIA's assembler says
what it needs. For an H100, matmuls in float32 are compiled with the default precision and with
`jax.default_matmul_precision("highest")`; and the kernel of 256 units in float32, whose weights do
not fit into the shared memory and are read again at each step, in chunks of other widths and with
more warps.

Expectation: no spills up to 128 units at the default precision, and as many launches for 400 steps
as for 100.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from experiments.common import Options, Outcome, main
from experiments.gpu.compile_process import compiled_rows
from experiments.gpu.kernel_process import kernel_rows
from experiments.gpu.target import MATMULS, TARGETS, require_compiler
from experiments.speed.problem import CELLS

TARGET_NAMES = ("h100", "a100")
USER = "a user's cell"
PROCESSES = 2  # for each target
LENGTHS = (100, 400)
CANDIDATES = ("ours", "ours, fused")
OTHER_KERNELS = ({"chunk": 32}, {"chunk": 128}, {"asked_warps": 16})  # than the plan's, for 256 units in float32


def cases_of(target: str, options: Options) -> list[dict[str, Any]]:
    """Returns the kernels to compile for a target."""

    def case(cell: str, units: int, dtype: str, precision: str = "default") -> dict[str, Any]:
        return {"cell": cell, "dtype": dtype, "units": units, "precision": precision}

    if options.quick:
        return [case("tanh RNN", 16, "float32")]
    cells = (*CELLS, USER)
    cases = [case(cell, units, dtype) for units in (32, 64, 128, 256) for cell in cells for dtype in ("float32", "bfloat16")]
    if target == "h100":
        cases += [case(cell, units, "float32", "highest") for units in (32, 64, 128) for cell in cells]
        cases += [{**case("GRU", 256, "float32"), **other} for other in OTHER_KERNELS]
    return cases


def order(row: dict[str, Any]) -> tuple[Any, ...]:
    """The place of a kernel in the record: the plan's before others, then by device, size and cell."""
    other = tuple(sorted((key, value) for key, value in row.items() if key in ("chunk", "asked_warps")))
    cell = (*CELLS, USER).index(row["cell"])
    return bool(other), TARGET_NAMES.index(row["target"]), row["precision"], cell, row["units"], row["dtype"], other


def launch_cases(options: Options) -> list[dict[str, Any]]:
    """Returns the gradients whose launches are counted."""
    cells = ["tanh RNN"] if options.quick else list(CELLS)
    return [
        {"cell": cell, "shape": (T, 32, 64, 128), "candidate": candidate, "flags": False}
        for cell in cells
        for T in LENGTHS
        for candidate in CANDIDATES
    ]


def summarize(kernels: list[dict[str, Any]], launches: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns how many kernels spill or are refused, and the launches of both loops by length."""
    found: dict[str, Any] = {}
    for row in kernels:
        kind = f"{row['target']}, {row['dtype']}, {row['units']} units, {row['precision']}"
        if "chunk" not in row and "asked_warps" not in row:
            entry = found.setdefault(kind, {"kernels": 0, "refused": 0, "spill": 0})
            entry["kernels"] += 1
            entry["refused"] += row["refused"] is not None
            entry["spill"] += row.get("spill_bytes", 0) > 0
    for candidate in CANDIDATES:
        for T in LENGTHS:
            totals = [row["total"] for row in launches if (row["candidate"], row["shape"][0]) == (candidate, T)]
            found[f"most launches, {candidate}, T = {T}"] = max(totals)
    return found


def run(options: Options) -> Outcome:
    """Compiles all cases, in processes side by side."""
    require_compiler("gpu_kernel")
    paths = [TARGETS / f"{name}.txtpb" for name in TARGET_NAMES]
    parts = [(path, cases_of(path.stem, options)[part::PROCESSES]) for path in paths for part in range(PROCESSES)]
    with ThreadPoolExecutor(len(parts) + len(MATMULS)) as pool:
        counted = [pool.submit(compiled_rows, paths[0], matmuls, launch_cases(options)) for matmuls in MATMULS]
        found = pool.map(lambda part: [{"target": part[0].stem, **row} for row in kernel_rows(*part)], parts)
        kernels = sorted((row for rows in found for row in rows), key=order)
        launches = [row for each in counted for row in each.result()]
    return Outcome(summarize(kernels, launches), {"kernels": kernels, "launches": launches}, {})


if __name__ == "__main__":
    main(run)

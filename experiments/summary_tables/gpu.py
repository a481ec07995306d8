"""The tables of programs compiled for a GPU."""

from typing import Any

from experiments.summary_tables.formatting import fixed, markdown, record

SHAPE, AFTER = [100, 32, 64, 128], "GRU, reset after"
DTYPES = ("float32", "bfloat16")


def _rows(**wanted: Any) -> list[dict[str, Any]]:
    rows = record("gpu_program")["results"]["rows"]
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def launches() -> str:
    """Tabulates the launches and the memory of all candidates on one shape."""
    names = ("forward", "backward", "total", "enqueued", "temp_mib")
    found = []
    for row in _rows(cell=AFTER, shape=SHAPE, flags=False, matmuls="Triton"):
        (other,) = _rows(cell=AFTER, shape=SHAPE, flags=False, matmuls="cublasLt", candidate=row["candidate"])
        shown = [f"{row[name]:g}" for name in names[:-1]] + [fixed(1)(row["temp_mib"])]
        found.append((row["candidate"], *shown, f"{other['total']}", f"{other['enqueued']}"))
    header = (
        "",
        "forward, per step",
        "backward, per step",
        "launches",
        "enqueued",
        "MiB",
        "launches, cublasLt",
        "enqueued, cublasLt",
    )
    return markdown(header, found)


def launches_by_cell() -> str:
    """Tabulates the launches of our own candidates for each cell, with and without lengths and resets."""
    found = []
    for row in _rows(shape=SHAPE, matmuls="Triton"):
        if row["candidate"] in ("ours", "ours, gates", "autodiff"):
            label = f"{row['cell']}{', lengths and resets' if row['flags'] else ''}: {row['candidate']}"
            found.append((label, f"{row['forward']:g}", f"{row['backward']:g}", f"{row['total']}", fixed(1)(row["temp_mib"])))
    return markdown(("", "forward, per step", "backward, per step", "launches", "MiB"), found)


def _kernels(**wanted: Any) -> list[dict[str, Any]]:
    rows = record("gpu_kernel")["results"]["kernels"]
    is_other = lambda row: "chunk" in row or "asked_warps" in row
    return [row for row in rows if not is_other(row) and all(row[key] == value for key, value in wanted.items())]


def _most(rows: list[dict[str, Any]], name: str) -> str:
    """The larger of the forward and the backward kernel."""
    return "refused" if any(row["refused"] for row in rows) else f"{max(row[name] for row in rows):g}"


def fused_kernels() -> str:
    """Tabulates what the kernels of the fused loop need, the larger of both directions."""
    found = []
    for cell, units in dict.fromkeys((row["cell"], row["units"]) for row in _kernels()):
        of = lambda target, dtype, cell=cell, units=units: _kernels(
            target=target, dtype=dtype, precision="default", cell=cell, units=units
        )
        h100 = [_most(of("h100", dtype), name) for dtype in DTYPES for name in ("registers", "spill_bytes", "shared_kib")]
        a100 = [_most(of("a100", dtype), "spill_bytes") for dtype in DTYPES]
        found.append((f"{cell}, {units} units", *h100, *a100))
    parts = [f"{dtype}: {name}" for dtype in DTYPES for name in ("registers", "spilled", "KiB")]
    return markdown(("", *parts, *(f"A100, {dtype}: spilled" for dtype in DTYPES)), found)


def fused_precision() -> str:
    """Tabulates what the kernels need at two matmul precisions."""
    found = []
    for cell, units in dict.fromkeys((row["cell"], row["units"]) for row in _kernels(precision="highest")):
        cells = []
        for precision in ("default", "highest"):
            rows = _kernels(target="h100", dtype="float32", precision=precision, cell=cell, units=units)
            cells += [rows[0].get("matmul", "refused"), _most(rows, "registers"), _most(rows, "spill_bytes")]
        found.append((f"{cell}, {units} units", *cells))
    names = [f"{precision}: {name}" for precision in ("default", "highest") for name in ("matmuls", "registers", "spilled")]
    return markdown(("", *names), found)


def fused_chunks() -> str:
    """Tabulates the spills of the kernel of 256 units in float32 as the plan has it, and otherwise."""
    rows = [row for row in record("gpu_kernel")["results"]["kernels"] if "chunk" in row or "asked_warps" in row]
    label = lambda row: f"chunks of {row['chunk']} units" if "chunk" in row else f"{row['asked_warps']} warps"
    groups = {"the plan's": _kernels(target="h100", cell="GRU", units=256, dtype="float32", precision="default")}
    for row in rows:
        groups.setdefault(label(row), []).append(row)
    found = []
    for name, group in groups.items():
        spills = {row["direction"]: row.get("spill_bytes", "refused") for row in group}
        found.append((name, f"{spills['forward']}", f"{spills['backward']}"))
    return markdown(("", "spilled, forward", "spilled, backward"), found)


def fused_launches() -> str:
    """Tabulates the launches and the memory of both loops at two lengths."""
    rows, found = record("gpu_kernel")["results"]["launches"], []
    for row in rows:
        if row["matmuls"] == "Triton":
            key = ("cell", "shape", "candidate")
            (other,) = (each for each in rows if each["matmuls"] == "cublasLt" and all(each[k] == row[k] for k in key))
            loop = "one kernel" if row["candidate"].endswith("fused") else "scan"
            label = f"{row['cell']}, {row['shape'][0]} steps: {loop}"
            counts = [f"{each[name]}" for each in (row, other) for name in ("total", "enqueued")]
            found.append((label, *counts[:2], fixed(1)(row["temp_mib"]), *counts[2:]))
    return markdown(("", "launches", "enqueued", "MiB", "launches, cublasLt", "enqueued, cublasLt"), found)

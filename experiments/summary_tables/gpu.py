"""The tables of programs compiled for a GPU."""

from typing import Any

from experiments.summary_tables.formatting import fixed, markdown, record

SHAPE, AFTER = [100, 32, 64, 128], "GRU, reset after"


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

"""What every experiment shares: its command line, where it writes, and the record it leaves."""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import matplotlib
import tyro
from jax.sharding import Mesh

import gru_jax
from gru_jax.train.json_values import to_json_value

matplotlib.use("Agg")  # figures go to files

import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Options:
    """The command line of an experiment.

    Attributes:
        quick: a short run that shows everything works; its numbers are not the published ones.
        seed: of everything random.
        out: the folder to write to; runs/<name> by default.
        device: cpu or gpu; by default what JAX takes.
    """

    quick: bool = False
    seed: int = 0
    out: Path | None = None
    device: Literal["cpu", "gpu"] | None = None


class Outcome(NamedTuple):
    """What an experiment returns: the line it prints last, the record it writes, its figures, tables and other files by name."""

    summary: dict[str, Any]
    results: dict[str, Any]
    figures: dict[str, plt.Figure]
    tables: Mapping[str, str] = MappingProxyType({})  # Markdown
    files: Mapping[str, bytes] = MappingProxyType({})


def main(
    run: Callable[..., Outcome], options_type: type[Options] = Options, *, x64: bool = False, all_cores: bool = False
) -> None:
    """Parses the command line, runs, writes results.json and the figures, and prints a one-line JSON summary.

    Args:
        run: the experiment.
        options_type: its own command line, where it has one.
        x64: whether it computes in float64.
        all_cores: makes every CPU core a device of its own, for `mesh=mesh_for(batch_size)`.
    """
    module = sys.modules[run.__module__]
    name = Path(module.__file__ or "").stem
    options = tyro.cli(options_type, prog=f"python -m experiments.{name}", description=module.__doc__)
    if options.device is not None:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(options.device, options.device))
    if x64:
        jax.config.update("jax_enable_x64", True)
    if all_cores:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    print(f"{name}: seed {options.seed}, jax {jax.__version__} on {jax.devices()[0].device_kind}, x64 {x64}")
    began = time.perf_counter()
    outcome = run(options)
    seconds = round(time.perf_counter() - began, 1)

    out = options.out or Path("runs") / name
    out.mkdir(parents=True, exist_ok=True)
    for file, figure in outcome.figures.items():
        figure.savefig(out / file, dpi=120, bbox_inches="tight")
        plt.close(figure)
    for file, text in outcome.tables.items():
        (out / file).write_text(text, "utf-8")
    for file, content in outcome.files.items():
        (out / file).write_bytes(content)
    record = {
        "experiment": name,
        "command": _command(name, sys.argv[1:]),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "gru_jax": gru_jax.__version__},
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "seconds": seconds,
        "summary": outcome.summary,
        "results": outcome.results,
    }
    (out / "results.json").write_text(
        json.dumps(to_json_value(record, nonfinite=str), indent=1, allow_nan=False) + "\n", "utf-8"
    )
    printed = {"experiment": name, "out": str(out), "seconds": seconds, **outcome.summary}
    print(json.dumps(to_json_value(printed, nonfinite=str), allow_nan=False))


LEAST = 8  # sequences on a device: half of the fewest that were measured to gain, so that a step is more than its overhead


def mesh_for(batch_size: int) -> Mesh | None:
    """A mesh of as many devices as divide a batch and leave `LEAST` sequences to each; None for one."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if n == 1 or (batch_size % n == 0 and batch_size // n >= LEAST))
    return gru_jax.train.data_mesh(devices[:count]) if count > 1 else None


def _command(name: str, arguments: list[str]) -> str:
    """What makes this record again, wherever it is written to."""
    where = [i for i, argument in enumerate(arguments) if argument == "--out"]
    kept = [argument for i, argument in enumerate(arguments) if i not in where and i - 1 not in where]
    return shlex.join(["python", "-m", f"experiments.{name}", *kept])

"""The command line, the output directory and the JSON record that all experiments share."""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import matplotlib.pyplot as plt
import tyro
from jax.sharding import Mesh
from tqdm import tqdm

import gru_jax
from experiments.__main__ import minutes
from gru_jax.train.json_values import to_json_value

ON_A_TERMINAL = sys.stderr.isatty()  # whether training shows a progress bar
Row = TypeVar("Row")


@dataclass(frozen=True)
class Options:
    """The command-line options of an experiment.

    Attributes:
        quick: Run a short version that only checks that everything works. Its numbers mean nothing.
        seed: Seed of all random numbers.
        out: Directory to write to.
        device: Platform to run on.
    """

    quick: bool = False
    seed: int = 0
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/NAME)")] = None
    device: Annotated[
        Literal["cpu", "gpu"] | None,
        tyro.conf.arg(metavar="{cpu,gpu}", help_behavior_hint="(default: the one that JAX picks)"),
    ] = None


class Outcome(NamedTuple):
    """What an experiment returns.

    Attributes:
        summary: The key figures. They are printed last, on one line.
        results: The full record, written to results.json.
        figures: Figures by file name.
        tables: Markdown texts by file name.
        files: Contents of other files by file name.
    """

    summary: dict[str, Any]
    results: dict[str, Any]
    figures: dict[str, plt.Figure]
    tables: Mapping[str, str] = MappingProxyType({})
    files: Mapping[str, bytes] = MappingProxyType({})


def main(
    run: Callable[..., Outcome], options_type: type[Options] = Options, *, x64: bool = False, all_cores: bool = False
) -> None:
    """Runs an experiment from the command line.

    Parses the options, runs the experiment, writes results.json and the other files, says where they
    are, and prints the summary as one line of JSON. An interrupted run writes nothing.

    Args:
        run: The experiment, a function of the parsed options.
        options_type: The options of the experiment. Defaults to `Options`.
        x64: Whether to compute in float64. Defaults to False.
        all_cores: Whether to make each CPU core a JAX device, for `mesh=mesh_for(batch_size)`.
            Defaults to False.
    """
    plt.switch_backend("Agg")  # figures go to files
    module = sys.modules[run.__module__]
    name = Path(module.__file__ or "").stem
    options = tyro.cli(
        options_type,
        prog=f"python -m experiments.{name}",
        description=_description(name, module.__doc__ or ""),
        config=(tyro.conf.FlagCreatePairsOff,),  # --quick without --no-quick
    )
    if options.device is not None:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(options.device, options.device))
    if x64:
        jax.config.update("jax_enable_x64", True)
    if all_cores:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    print(f"{name}: seed {options.seed}, jax {jax.__version__} on {jax.devices()[0].device_kind}, x64 {x64}")
    began = time.perf_counter()
    try:
        outcome = run(options)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted. Nothing was written; results are written when a run ends.", file=sys.stderr)
        raise SystemExit(130) from None  # the status by which shells know Ctrl-C
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
        "command": _command_of_record(name, sys.argv[1:]),
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
    print(f"{name}: done after {seconds:.0f} s. {out} has results.json and {', '.join(_files(outcome)) or 'no other file'}.")
    printed = {"experiment": name, "out": str(out), "seconds": seconds, **outcome.summary}
    print(json.dumps(to_json_value(printed, nonfinite=str), allow_nan=False))


# Half of the smallest number for which more devices were measured to be faster. With fewer
# sequences, the overhead of a step dominates.
MIN_SEQUENCES_PER_DEVICE = 8


def mesh_for(batch_size: int) -> Mesh | None:
    """Returns a mesh over as many devices as a batch can keep busy, or None if that is one device.

    The number of devices divides `batch_size`, and each device gets at least
    `MIN_SEQUENCES_PER_DEVICE` sequences.
    """
    devices = jax.devices()
    usable = (n for n in range(2, len(devices) + 1) if batch_size % n == 0 and batch_size // n >= MIN_SEQUENCES_PER_DEVICE)
    count = max(usable, default=1)
    return gru_jax.train.data_mesh(devices[:count]) if count > 1 else None


def progress(rows: Sequence[Row], what: str) -> Iterable[Row]:
    """Iterates over `rows`. On a terminal, a progress bar shows the time left.

    Print with `tqdm.write` in such a loop.
    """
    return tqdm(rows, desc=what, unit="case", disable=None, leave=False)


def _files(outcome: Outcome) -> list[str]:
    """Returns the names of the files beside results.json."""
    return [*outcome.figures, *outcome.tables, *outcome.files]


def _description(name: str, docstring: str) -> str:
    """Returns the text above the options in `--help`: the question, the time, and where to read more."""
    full_run = minutes(name)
    time_of_run = "" if full_run is None else f"A full run takes about {full_run} min on two CPU cores. "
    return f"{docstring.splitlines()[0]}\n\n{time_of_run}Method, expectation and sources: experiments/{name}.py"


def _command_of_record(name: str, arguments: list[str]) -> str:
    """Returns the command that reproduces a record, without its `--out`."""
    outs = [i for i, argument in enumerate(arguments) if argument == "--out"]
    others = [argument for i, argument in enumerate(arguments) if i not in outs and i - 1 not in outs]
    return shlex.join(["python", "-m", f"experiments.{name}", *others])

"""How much training time do checkpoints take, and what does saving in the background gain?

`gj.train.fit` trains a GRU with Adam, without checkpoints, with one after every step, and with one
every so many steps. It saves in a thread. For comparison, the same saves also run in the thread of
training, which waits for each of them. The state has 172 MB (parameters and both moments of Adam)
or 1 MB.

Measured, for each way:
- the time of the whole run over that of the run without checkpoints;
- the share of the run's time that the checkpoints take;
- the additional seconds for each checkpoint.

Method: the ways take turns, and ratios are formed within a turn. Medians over the turns are
reported. The first turn, which compiles, is not counted. The run waits for its last checkpoint in
every way. Checkpoints are synced to the disk of the temporary directory, which limits how fast the
large ones are written.

Expectation: a save in the background delays training by the copy of the state to the host alone, if
the save before has ended. It also competes for the cores, and saves that follow each other at once
wait for each other, so that saving every step costs almost as much as without a thread.
"""

import os
import tempfile
import time
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj
from experiments.common import Options, Outcome, main, progress
from gru_jax.train.background_saves import BackgroundSaves

CELL, OPTIMIZER = gj.gru(), optax.adam(1e-3)


class Case(NamedTuple):
    """A training run.

    Attributes:
        T: Number of time steps.
        B: Sequences per batch.
        H: Number of units, and size of the input of one step.
        steps: Training steps of the run.
        every: Steps between checkpoints.
    """

    T: int
    B: int
    H: int
    steps: int
    every: int


CASES = {
    "172 MB, after every step": Case(20, 16, 1546, 10, 1),
    "172 MB, every 20 steps": Case(20, 16, 1546, 60, 20),
    "1 MB, after every step": Case(50, 32, 118, 60, 1),
    "1 MB, every 100 steps": Case(50, 32, 118, 500, 100),
}
QUICK = {"1 MB, every 3 steps": Case(5, 4, 118, 6, 3)}
NONE, IN_BACKGROUND, WAITING = "no checkpoints", "in the background", "training waits"


def loss_fn(params: Any, batch: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """Computes a loss of every output."""
    return jnp.square(gj.unroll(CELL, params, batch, time_major=False)[1]).mean(), {}


def seconds_of_run(case: Case, params: Any, xs: jax.Array, way: str) -> float:
    """Trains once, and returns the seconds that this took."""
    with ExitStack() as stack:
        options: dict[str, Any] = {}
        if way != NONE:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            options = {"checkpoint_dir": directory, "save_every": case.every}
        if way == WAITING:
            stack.enter_context(mock.patch.object(BackgroundSaves, "start", lambda self, save: save()))
        began = time.perf_counter()
        key = jax.random.key(2)
        result = gj.train.fit(loss_fn, params, OPTIMIZER, xs, key=key, steps=case.steps, batch_size=case.B, **options)
        jax.block_until_ready(result.params)
        return time.perf_counter() - began


def compared(case: Case, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Returns what is measured for each way: medians over the turns, and the extreme ratios."""
    without, found = np.array(seconds[NONE]), {}
    for way in (IN_BACKGROUND, WAITING):
        took = np.array(seconds[way])
        of_turns = {
            "time ratio": took / without,
            "share": 1 - without / took,
            "seconds per save": (took - without) / (case.steps // case.every),
        }
        found[way] = {what: float(np.median(values)) for what, values in of_turns.items()}
        found[way] |= {"least ratio": float((took / without).min()), "most ratio": float((took / without).max())}
    return found


def run(options: Options) -> Outcome:
    """Measures every case. The ways take turns."""
    cases, turns = (QUICK, 1) if options.quick else (CASES, 5)
    summary: dict[str, Any] = {}
    results: dict[str, Any] = {"turns": turns}
    for label, case in cases.items():
        params = CELL.init(jax.random.key(options.seed), case.H, case.H)
        xs = jax.random.normal(jax.random.key(options.seed + 1), (4 * case.B, case.T, case.H))
        seconds: dict[str, list[float]] = {NONE: [], IN_BACKGROUND: [], WAITING: []}
        # the order alternates, because the first one runs on a cooler machine
        rows = [(turn, way) for turn in range(turns + 1) for way in list(seconds)[:: 1 if turn % 2 else -1]]
        for turn, way in progress(rows, f"state of {label}"):
            took = seconds_of_run(case, params, xs, way)
            if turn > 0:
                seconds[way].append(took)
        summary[label] = {
            "bytes of the state": sum(leaf.nbytes for leaf in jax.tree.leaves((params, OPTIMIZER.init(params)))),
            "seconds per step": float(np.median(seconds[NONE])) / case.steps,
            **compared(case, seconds),
        }
        results[label] = {"case": case._asdict(), "seconds": seconds}
    results["load"] = os.getloadavg()
    return Outcome(summary, results, {"cost.png": draw(summary)})


def draw(summary: dict[str, Any]) -> plt.Figure:
    """Plots the share of the time that checkpoints take."""
    figure, axis = plt.subplots(figsize=(8, 0.6 * len(summary) + 1), layout="constrained")
    places = np.arange(len(summary))
    for i, way in enumerate((IN_BACKGROUND, WAITING)):
        shares = [100 * found[way]["share"] for found in summary.values()]
        axis.bar_label(axis.barh(places + 0.4 * i - 0.2, shares, 0.38, label=way), fmt="%.0f %%")
    axis.set_yticks(places, list(summary))
    axis.invert_yaxis()
    axis.set_xlabel("share of the run's time, %")
    axis.legend()
    return figure


if __name__ == "__main__":
    main(run)

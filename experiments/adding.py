"""Can a GRU add two numbers that are up to 400 steps apart?

Task: the adding problem (Hochreiter and Schmidhuber 1997). Each step shows a number from U(0, 1)
and a mark. Two steps are marked, one in each half of the sequence. The target, after the last step,
is the sum of the two marked numbers.

Method: as in Bai et al. 2018 (the TCN paper), with 50,000 training and 1,000 test sequences,
batches of 32, Adam and the mean squared error. Gates are initialised by the chrono rule (Tallec and
Ollivier 2018). At T = 100, GRUs with zero biases are trained too.

Published: at T = 600 with 70,000 parameters, Bai et al. report 5.3e-5 for the GRU, 0.164 for the
LSTM and 0.177 for the tanh RNN. Always guessing 1 has an expected error of 1/6 = 0.1667, although
their paper gives 0.1767. Pascanu et al. 2013 call the task solved when fewer than 1 % of the
sequences have a squared error above 0.04.

Expectation: the gated cells get below 1e-3 at T = 100 and solve the task at T = 400. The tanh RNN
does not solve it.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj
from experiments import network
from experiments.common import Options, Outcome, main, mesh_for

CELLS: dict[str, gj.Cell] = {"GRU": gj.gru(), "LSTM": gj.lstm(), "tanh RNN": gj.elman("tanh")}
HIDDEN, BATCH, TRAIN, TEST, SOLVED = 64, 32, 50_000, 1_000, 0.04
GUESS = 1 / 6


def sequences(rng: np.random.Generator, count: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws numbers with marks `(count, steps, 2)`, and the sums of the marked ones `(count, 1)`."""
    numbers = rng.random((count, steps), np.float32)
    marks = np.zeros((count, steps), np.float32)
    half = steps // 2
    marks[np.arange(count), rng.integers(0, half, count)] = 1
    marks[np.arange(count), rng.integers(half, steps, count)] = 1
    return np.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdims=True)


def loss_fn(cell: gj.Cell, params: network.Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Returns the mean squared error of the sum."""
    xs, ys = batch
    return gj.heads.squared_error(network.last_logits(cell, params, xs), ys).mean(), {}


def score(cell: gj.Cell, test: Any, params: network.Params) -> dict[str, jax.Array]:
    """Returns the mean squared error, and the fraction of sequences with an error above 0.04."""
    xs, ys = test
    errors = gj.heads.squared_error(network.last_logits(cell, params, xs), ys)
    return {"mse": errors.mean(), "unsolved": (errors > SOLVED).mean()}


class Kind(NamedTuple):
    """A cell to train, the sequence length, the initialisation and the number of updates."""

    cell: str
    steps: int
    chrono: bool
    updates: int


def learn(kind: Kind, seeds: list[int], examples: int) -> dict[str, Any]:
    """Trains one cell at one length on all seeds, and returns its learning curves."""
    name, steps, chrono, updates = kind
    cell, rng = CELLS[name], np.random.default_rng([seeds[0], steps])
    train, test = sequences(rng, examples, steps), sequences(rng, TEST, steps)
    draw = partial(network.init, cell, input_size=2, hidden_size=HIDDEN, output_size=1, longest=steps if chrono else None)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(3e-3, updates, 0.01)))
    every = max(updates // 40, 1)
    fitted = network.train_seeds(
        partial(loss_fn, cell), draw, optimizer, train, seeds=seeds, steps=updates, batch_size=BATCH,
        steps_per_execution=every, evaluate=partial(score, cell, test), evaluate_every=every, mesh=mesh_for(BATCH),
    )  # fmt: skip
    evaluations = fitted.evaluations
    print(f"T = {steps}, {name}{', chrono' * chrono}: " + " ".join(f"{mse:.1e}" for mse in evaluations["mse"][-1]), flush=True)
    return {
        "step": evaluations["step"],
        "mse": evaluations["mse"],
        "unsolved": evaluations["unsolved"],
        "parameters": network.count(fitted.params) // len(seeds),
    }


def run(options: Options) -> Outcome:
    """Trains the cells at both lengths."""
    seeds = list(range(options.seed, options.seed + (1 if options.quick else 3)))
    if options.quick:
        kinds, examples = {"T = 20, GRU": Kind("GRU", 20, chrono=False, updates=200)}, 2_000
    else:
        examples = TRAIN
        kinds = {
            **{f"T = 100, {name}": Kind(name, 100, chrono=False, updates=4000) for name in ("GRU", "tanh RNN")},
            **{f"T = 100, {name}, chrono": Kind(name, 100, chrono=True, updates=4000) for name in ("GRU", "LSTM")},
            **{f"T = 400, {name}, chrono": Kind(name, 400, chrono=True, updates=3000) for name in ("GRU", "LSTM")},
        }
    results = {name: learn(kind, seeds, examples) for name, kind in kinds.items()}
    summary = {
        **{metric: {kind: np.asarray(found[metric][-1]) for kind, found in results.items()} for metric in ("mse", "unsolved")},
        "seeds": seeds,
    }
    return Outcome(summary, {"guess": GUESS, "kinds": results}, {"curves.png": draw(results)})


def draw(results: dict[str, Any]) -> plt.Figure:
    """Draws the test error over updates, one panel per length."""
    lengths = list(dict.fromkeys(kind.split(",")[0] for kind in results))
    figure, all_axes = plt.subplots(1, len(lengths), figsize=(6 * len(lengths), 4), layout="constrained", squeeze=False)
    for axes, length in zip(all_axes[0], lengths, strict=True):
        lines = {
            kind.partition(", ")[2]: (found["step"], found["mse"]) for kind, found in results.items() if kind.startswith(length)
        }
        labels = {"xlabel": "updates", "ylabel": "mean squared error, test", "title": length, "yscale": "log"}
        network.draw_lines(axes, lines, ("guessing 1", GUESS), **labels)
    return figure


if __name__ == "__main__":
    main(run, all_cores=True)

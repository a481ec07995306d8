"""How many sequences per second does training process on a CPU, and how long does it take to start?

Measured, in sequences per second:
- `gj.train.fit` with a GRU, Adam, batches of 64 sequences and many steps per dispatch, in four
  sizes, on one CPU device and on one device per core;
- a plain Python loop that gathers each batch in NumPy and calls a jitted step;
- `gj.train.fit_ensemble` with several seeds at once, in the sizes and batches of three other
  experiments.

Measured, in seconds: importing jax, importing gru_jax after it, and the first gradient of a small
model, which includes compilation.

Method: each measurement runs in a process of its own, because the number of devices is fixed when
JAX starts. The processes take turns, and medians over the turns are reported.

Expectation: XLA already uses both cores within a large matmul. So a second device helps if a step
consists of many small operations, and hurts if reducing the gradients takes longer than the step.
One dispatch per step is slow if steps are tiny.
"""

import math
import os
import time
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from experiments.common import Options, Outcome, main, progress
from experiments.speed.child_process import run_json


class Size(NamedTuple):
    """The size of a training problem.

    Attributes:
        T: Number of time steps.
        D: Size of the input of one step.
        H: Number of units.
        steps: Training steps per dispatch.
        batch: Sequences per batch.
        seeds: Number of networks that are trained at once.
    """

    T: int
    D: int
    H: int
    steps: int
    batch: int = 64
    seeds: int = 1


SIZES = {
    "tiny": Size(50, 8, 16, 100),
    "small": Size(100, 32, 64, 40),
    "medium": Size(100, 128, 256, 8),
    "large": Size(50, 256, 512, 5),
}
ENSEMBLES = {  # the sizes of other experiments
    "adding": Size(100, 2, 64, 30, 32, 3),
    "copy_memory": Size(50, 10, 128, 20, 32, 3),
    "binary_addition": Size(8, 2, 10, 200, 100, 5),
}


def problem(size: Size) -> tuple[Any, Any, Any]:
    """Returns parameters, sequences and a loss function."""
    import jax
    import jax.numpy as jnp

    import gru_jax as gj

    cell = gj.gru()
    xs = jax.random.normal(jax.random.key(1), (4 * size.batch, size.T, size.D))

    def loss_fn(params, batch, key):
        _, ys = gj.unroll(cell, params, batch, time_major=False)
        return jnp.square(ys).mean(), {}

    return cell.init(jax.random.key(0), size.D, size.H), xs, loss_fn


def library_rate(devices: int, size: Size) -> float:
    """Measures the sequences per second of `gj.train` in this process, after compilation.

    With one seed that is `fit`, with several seeds `fit_ensemble`.
    """
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import jax.numpy as jnp
    import optax

    import gru_jax as gj

    params, xs, loss_fn = problem(size)
    seconds: list[float] = []
    began = time.perf_counter()

    def clock(info):
        nonlocal began
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()

    options: Any = {
        "steps": 4 * size.steps,
        "batch_size": size.batch,
        "steps_per_execution": size.steps,
        # the number of devices must divide the batch
        "mesh": gj.train.data_mesh(jax.devices()[: math.gcd(devices, size.batch)]) if devices > 1 else None,
        "callbacks": [clock],
    }
    key = jax.random.key(2)
    if size.seeds == 1:
        gj.train.fit(loss_fn, params, optax.adam(1e-3), xs, key=key, **options)
    else:
        params = jax.tree.map(lambda leaf: jnp.stack([leaf] * size.seeds), params)
        gj.train.fit_ensemble(loss_fn, params, optax.adam(1e-3), xs, keys=jax.random.split(key, size.seeds), **options)
    return size.steps * size.seeds * size.batch / float(np.median(seconds[1:]))  # the first dispatch compiles


def python_loop_rate(size: Size) -> float:
    """Measures the sequences per second of a Python loop over a jitted step."""
    import jax
    import optax

    params, xs, loss_fn = problem(size)
    optimizer = optax.adam(1e-3)
    state, xs = optimizer.init(params), np.asarray(xs)

    @jax.jit
    def step(params, state, batch):
        loss, gradient = jax.value_and_grad(lambda params: loss_fn(params, batch, None)[0])(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        epochs = size.steps * size.batch // len(xs) + 1
        order = np.random.default_rng(0).permuted(np.tile(np.arange(len(xs)), (epochs, 1)), axis=1).ravel()
        for rows in order[: size.steps * size.batch].reshape(size.steps, size.batch):
            params, state, loss = step(params, state, xs[rows])
            float(loss)
        seconds.append(time.perf_counter() - began)
    return size.steps * size.batch / float(np.median(seconds[1:]))


def evaluate_in_child(expression: str) -> Any:
    """Evaluates an expression over the functions of this module in a process of its own."""
    return run_json("-c", f"from experiments.training_speed import *; print({expression})")


def expressions(size: Size, cores: int) -> dict[str, str]:
    """Returns the expressions that measure each way to train, by name."""
    found = {str(devices): f"library_rate({devices}, {size})" for devices in (1, cores)}
    return found if size.seeds > 1 else found | {"a Python loop": f"python_loop_rate({size})"}


def run(options: Options) -> Outcome:
    """Measures every size. The ways to train take turns."""
    cores = os.cpu_count() or 1
    turns, sizes = 5, SIZES | ENSEMBLES
    if options.quick:
        turns, sizes = 1, {name: sizes[name]._replace(steps=10) for name in ("tiny", "binary_addition")}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in sizes}
    starts: list[dict[str, float]] = []
    rows = [
        (turn, name, way, expression)
        for turn in range(turns)
        for name, size in sizes.items()
        # the order alternates, because the first one runs on a cooler machine
        for way, expression in list(expressions(size, cores).items())[:: 1 if turn % 2 else -1]
    ]
    for turn, name, way, expression in progress(rows, "training speed"):
        if len(starts) == turn:
            starts.append(run_json("-m", "experiments.speed.startup"))
        found[name].setdefault(way, []).append(evaluate_in_child(expression))
    medians = {name: {way: float(np.median(rates)) for way, rates in by.items()} for name, by in found.items()}
    gains = {name: round(by[str(cores)] / by["1"], 2) for name, by in medians.items()}
    loops = {name: round(by["1"] / by["a Python loop"], 2) for name, by in medians.items() if "a Python loop" in by}
    start = {what: round(float(np.median([one[what] for one in starts])), 3) for what in starts[0]}
    figure, axis = plt.subplots(figsize=(10, 3.2))
    for k, way in enumerate(expressions(SIZES["tiny"], cores)):
        label = way if way == "a Python loop" else f"gj.train, {way} CPU device{'s' * (way != '1')}"
        axis.bar(np.arange(len(sizes)) + 0.27 * k, [by.get(way, np.nan) for by in medians.values()], 0.27, label=label)
    seeds = lambda size: f"\n{size.seeds} seeds" * (size.seeds > 1)
    ticks = [f"{name}\n{size.T}, {size.D}, {size.H}{seeds(size)}" for name, size in sizes.items()]
    axis.set_xticks(np.arange(len(sizes)) + 0.27, ticks, fontsize="small")
    axis.set_yscale("log")
    axis.set_xlabel("size, and its T, D, H")
    axis.set_ylabel("sequences per second")
    axis.legend(fontsize="small")
    results = {
        "sizes": {name: size._asdict() for name, size in sizes.items()},
        "sequences per second": found,
        "median": medians,
        "starts": starts,
    }
    summary = {
        "cores": cores,
        "gain of one device per core": {name: gain for name, gain in gains.items() if name in SIZES},
        "the same, several seeds at once": {name: gain for name, gain in gains.items() if name in ENSEMBLES},
        "gain over a Python loop": loops,
        "seconds at the start": start,
    }
    return Outcome(summary, results, {"speed.png": figure})


if __name__ == "__main__":
    main(run)

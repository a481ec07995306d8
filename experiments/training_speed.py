"""How many sequences per second does training take in: on one CPU device, on one per core, and from a Python loop? And the start?

`gj.train.fit` with a GRU, Adam, batches of 64 sequences, four sizes, many steps per dispatch, on one CPU device and on one per core;
beside it the loop that everyone writes first: a jitted step called from Python, a batch gathered in NumPy for each. Each in processes
of its own, one after the other in turns, since the number of devices is fixed when JAX starts; medians over the turns. And what a
program waits for at its start: importing jax, importing gru_jax after it, and the first gradient of a small model, which compiles.

Expectation: XLA uses both cores inside one matmul already, so a second device pays where a step is many small operations, and costs
where the reduction of gradients weighs more than the step; a dispatch per step costs where steps are tiny.
"""

import os
import time
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.common import Options, Outcome, main
from experiments.speed.child import told

SIZES = {"tiny": (50, 8, 16), "small": (100, 32, 64), "medium": (100, 128, 256), "large": (50, 256, 512)}  # T, D, H
BATCH = 64


def problem(size: str) -> tuple[Any, Any, Any]:
    """Parameters, sequences and a loss."""
    import jax
    import jax.numpy as jnp

    import gru_jax as gj

    T, D, H = SIZES[size]
    cell = gj.gru()
    xs = jax.random.normal(jax.random.key(1), (4 * BATCH, T, D))

    def loss_fn(params, batch, key):
        _, ys = gj.unroll(cell, params, batch, time_major=False)
        return jnp.square(ys).mean(), {}

    return cell.init(jax.random.key(0), D, H), xs, loss_fn


def by_fit(devices: int, steps: int, size: str) -> float:
    """Sequences per second of `gj.train.fit` in this process, with that many devices, after compilation."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import optax

    import gru_jax as gj

    params, xs, loss_fn = problem(size)
    seconds: list[float] = []
    began = time.perf_counter()

    def clock(moment):
        nonlocal began
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()

    gj.train.fit(
        loss_fn, params, optax.adam(1e-3), xs, key=jax.random.key(2), steps=4 * steps, batch_size=BATCH, steps_per_dispatch=steps,
        mesh=gj.train.data_mesh() if devices > 1 else None, callbacks=[clock],
    )  # fmt: skip
    return steps * BATCH / float(np.median(seconds[1:]))  # the first dispatch compiles


def by_loop(steps: int, size: str) -> float:
    """The same of a Python loop over a jitted step that reads its loss."""
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
        order = (
            np.random.default_rng(0).permuted(np.tile(np.arange(len(xs)), (steps * BATCH // len(xs) + 1, 1)), axis=1).ravel()
        )
        for i in range(steps):
            params, state, loss = step(params, state, xs[order[i * BATCH : (i + 1) * BATCH]])
            float(loss)
        seconds.append(time.perf_counter() - began)
    return steps * BATCH / float(np.median(seconds[1:]))


def measured(call: str) -> Any:
    """A function here, in a process of its own."""
    return told("-c", f"from experiments.training_speed import *; print({call})")


def run(options: Options) -> Outcome:
    """Every size, the ways in turns."""
    cores = os.cpu_count() or 1
    turns, sizes = (1, ["tiny"]) if options.quick else (5, list(SIZES))
    steps = {"tiny": 100, "small": 40, "medium": 8, "large": 5}
    ways = {"1": "by_fit(1, {}, {!r})", str(cores): f"by_fit({cores}, {{}}, {{!r}})", "a Python loop": "by_loop({}, {!r})"}
    found: dict[str, dict[str, list[float]]] = {size: {way: [] for way in ways} for size in sizes}
    starts = []
    for turn in range(turns):
        starts.append(told("-m", "experiments.speed.start"))
        for size in sizes:
            for way in list(ways)[:: 1 if turn % 2 else -1]:  # whatever comes first has the colder machine
                found[size][way].append(measured(ways[way].format(10 if options.quick else steps[size], size)))
    medians = {size: {way: float(np.median(rates)) for way, rates in by.items()} for size, by in found.items()}
    gains = {size: round(by[str(cores)] / by["1"], 2) for size, by in medians.items()}
    loops = {size: round(by["1"] / by["a Python loop"], 2) for size, by in medians.items()}
    start = {what: round(float(np.median([one[what] for one in starts])), 3) for what in starts[0]}
    figure, axis = plt.subplots(figsize=(7, 3.2))
    for k, way in enumerate(ways):
        label = way if way == "a Python loop" else f"gj.train.fit, {way} CPU device{'s' * (way != '1')}"
        axis.bar(np.arange(len(sizes)) + 0.27 * k, [medians[size][way] for size in sizes], 0.27, label=label)
    axis.set_xticks(np.arange(len(sizes)) + 0.27, [f"{size}: T, D, H\n{', '.join(map(str, SIZES[size]))}" for size in sizes])
    axis.set_yscale("log")
    axis.set_ylabel("sequences per second")
    axis.legend(fontsize="small")
    results = {
        "batch": BATCH,
        "sizes (T, D, H)": SIZES,
        "sequences per second": found,
        "median": medians,
        "starts": starts,
    }
    summary = {
        "cores": cores,
        "gain of one device per core": gains,
        "gain over a Python loop": loops,
        "seconds at the start": start,
    }
    return Outcome(summary, results, {"speed.png": figure})


if __name__ == "__main__":
    main(run)

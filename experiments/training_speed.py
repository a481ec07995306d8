"""How many sequences per second does training take in: one CPU device against one per core?

`gj.train.fit` with a GRU, batches of 64 sequences, four sizes; each setting in processes of its own, one after the other in turns,
since the number of devices is fixed when JAX starts. Median over the turns.

Expectation: XLA uses both cores inside one matmul already, so a second device pays where a step is many small operations, and costs
where the reduction of gradients weighs more than the step.
"""

import json
import os
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np

from experiments.common import Options, Outcome, main

SIZES = {"tiny": (50, 8, 16), "small": (100, 32, 64), "medium": (100, 128, 256), "large": (50, 256, 512)}  # T, D, H
BATCH = 64


def measure(devices: int, steps: int, size: str) -> float:
    """Sequences per second in this process, with that many devices, after compilation."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import jax.numpy as jnp
    import optax

    import gru_jax as gj

    T, D, H = SIZES[size]
    cell = gj.gru()
    params = cell.init(jax.random.key(0), D, H)
    xs = jax.random.normal(jax.random.key(1), (4 * BATCH, T, D))

    def loss_fn(params, batch, key):
        _, ys = gj.unroll(cell, params, batch, time_major=False)
        return jnp.square(ys).mean(), {}

    mesh = gj.train.data_mesh() if devices > 1 else None
    seconds: list[float] = []
    began = time.perf_counter()

    def clock(moment):
        nonlocal began
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()

    gj.train.fit(
        loss_fn, params, optax.adam(1e-3), xs, key=jax.random.key(2), steps=4 * steps, batch_size=BATCH, steps_per_dispatch=steps,
        mesh=mesh, callbacks=[clock],
    )  # fmt: skip
    return steps * BATCH / float(np.median(seconds[1:]))  # the first dispatch compiles


def in_a_process(devices: int, steps: int, size: str) -> float:
    """The same in a process of its own."""
    code = f"from experiments.training_speed import measure; print(measure({devices}, {steps}, {size!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(options: Options) -> Outcome:
    """Every size, devices in turns."""
    cores = os.cpu_count() or 1
    turns, sizes = (1, ["tiny"]) if options.quick else (5, list(SIZES))
    steps = {"tiny": 100, "small": 40, "medium": 8, "large": 5}
    found: dict[str, dict[str, list[float]]] = {size: {"1": [], str(cores): []} for size in sizes}
    for turn in range(turns):
        for size in sizes:
            for devices in (1, cores) if turn % 2 else (cores, 1):  # whatever comes first has the colder machine
                found[size][str(devices)].append(in_a_process(devices, 10 if options.quick else steps[size], size))
    medians = {size: {devices: float(np.median(rates)) for devices, rates in by.items()} for size, by in found.items()}
    gains = {size: round(by[str(cores)] / by["1"], 2) for size, by in medians.items()}
    figure, axis = plt.subplots(figsize=(6, 3.2))
    for k, (number, label) in enumerate((("1", "1 CPU device"), (str(cores), f"{cores} CPU devices"))):
        axis.bar(np.arange(len(sizes)) + 0.4 * k, [medians[size][number] for size in sizes], 0.4, label=label)
    axis.set_xticks(np.arange(len(sizes)) + 0.2, [f"{size}: T, D, H\n{', '.join(map(str, SIZES[size]))}" for size in sizes])
    axis.set_yscale("log")
    axis.set_ylabel("sequences per second")
    axis.legend()
    results = {
        "batch": BATCH,
        "sizes (T, D, H)": SIZES,
        "sequences per second": found,
        "median": medians,
        "gain": gains,
        "cores": cores,
    }
    return Outcome({"cores": cores, "gain of one device per core": gains}, results, {"speed.png": figure})


if __name__ == "__main__":
    main(run)

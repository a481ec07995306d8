"""Run by test_parallel.py in processes of its own: `python -m tests.train.distributed MODE DEVICES PROCESS PROCESSES PORT FOLDER`.

Prints one JSON line: parameters and losses of training on one device, and on the mesh; all-reduces in the compiled program.
"""

import json
import sys

import jax

mode, devices, process, processes, port, folder = sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6]
jax.config.update("jax_num_cpu_devices", devices)
jax.config.update("jax_enable_x64", True)
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, process)

import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from tests.train.problem import data, init, loss_fn

KEY, STEPS = jax.random.key(0), 9
wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
PARAMS, DATA, OPTIMIZER = (
    wide(init()),
    jax.tree.map(np.asarray, wide(data())),
    optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
)
CELL = gj.gru()


def quiet(params, batch, key):
    """Without noise, which differs between devices."""
    xs, targets = batch
    h_last, _ = gj.unroll(CELL, params.cell, xs, time_major=False)
    return gj.heads.squared_error(gj.heads.dense(params.readout, h_last), targets).mean(), {"mean": h_last.mean()}


def masked(params, batch, key):
    """A mean over valid steps, of which each device has another number."""
    _, hs = gj.unroll(CELL, params.cell, batch.sequences, lengths=batch.lengths, time_major=False)
    return gj.heads.squared_error(hs, jnp.ones_like(hs), batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1), {}


def windowed(params, batch, key, carry):
    h_last, hs = gj.unroll(CELL, params.cell, batch.pieces, carry, resets=batch.resets, mask=batch.mask, time_major=False)
    return ((hs - 1) ** 2).mean(), {}, h_last


def made(key):
    xs = jax.random.normal(key, (8, 6, 2), jnp.float64)
    return xs, xs.sum((1, 2))[:, None]


rng = np.random.default_rng(0)
sequences = [rng.normal(size=(length, 2)) for length in (3, 9, 1, 4, 7, 7, 2, 12, 5)]
RUNS = {
    "rows": lambda **o: gj.train.fit(quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=STEPS, batch_size=8, **o),
    "whole": lambda **o: gj.train.fit(quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=STEPS, **o),
    "parts": lambda **o: gj.train.fit(quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=STEPS, batch_size=8, accumulate=2, **o),
    "made": lambda **o: gj.train.fit(quiet, PARAMS, OPTIMIZER, made, key=KEY, steps=STEPS, **o),
    "buckets": lambda **o: gj.train.fit(
        masked, PARAMS, OPTIMIZER, gj.train.bucketed(sequences, 4, buckets=2), key=KEY, steps=STEPS, weight=lambda b: b.mask.sum(), **o
    ),
    "search": lambda **o: gj.train.search(
        quiet, jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS), optax.sgd, DATA, keys=jax.random.split(KEY), steps=STEPS,
        batch_size=8, hyperparameters={"learning_rate": jnp.array([1e-3, 1e-4])}, **o
    ),
    "search, made": lambda **o: gj.train.search(
        quiet, jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), PARAMS), OPTIMIZER, made, keys=jax.random.split(KEY, 3),
        steps=STEPS, **o
    ),
    "windows": lambda **o: gj.train.fit(
        windowed, PARAMS, OPTIMIZER, gj.train.windows([np.concatenate(sequences)], 4, 3), key=KEY, steps=STEPS,
        carry=CELL.initial_state(PARAMS.cell, 4), **o
    ),
}  # fmt: skip


def flat(fitted):
    leaves = [*jax.tree.leaves(fitted.params), fitted.history["loss"]]
    return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])


def difference(run):
    """Largest relative difference between the mesh and one device."""
    alone, together = flat(run()), flat(run(mesh=gj.train.data_mesh()))
    return float(np.abs(together - alone).max() / np.abs(alone).max())


def all_reduces():
    """How many all-reduces the compiled program has."""
    from gru_jax.train import program

    seen = []
    original = program.dispatch
    gj.train.training.dispatch = lambda *args, **options: (
        seen.append(original.lower(*args, **options).compile().as_text()) or original(*args, **options)
    )
    RUNS["rows"](mesh=gj.train.data_mesh())
    gj.train.training.dispatch = original
    return seen[0].count(" all-reduce(")


if mode == "compare":  # folder is "all", or names with commas
    names = RUNS if folder == "all" else folder.split(",")
    print(json.dumps({"differences": {name: difference(RUNS[name]) for name in names}, "all_reduces": all_reduces()}))
if mode == "train":
    mesh = gj.train.data_mesh() if devices * processes > 1 else None
    for steps in (STEPS, 2 * STEPS):  # the second goes on from the first's checkpoint
        fitted = gj.train.fit(quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=steps, batch_size=8, mesh=mesh, folder=folder)
    for steps in (4, 9):  # with a carry that is spread over the processes
        windows = gj.train.windows([np.concatenate(sequences)], 4, 3)
        carried = gj.train.fit(
            windowed, PARAMS, OPTIMIZER, windows, key=KEY, steps=steps, carry=CELL.initial_state(PARAMS.cell, 4), mesh=mesh, folder=folder + "_windows"
        )  # fmt: skip
    print(
        json.dumps(
            {
                "windows": flat(carried).tolist(),
                "params": flat(fitted).tolist(),
                "process": process,
                "devices": jax.device_count(),
            }
        )
    )
if mode == "told":
    told = {}
    for name, run in {
        "batch_size": lambda: gj.train.fit(
            quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=1, batch_size=7, mesh=gj.train.data_mesh()
        ),
        "data": lambda: gj.train.fit(
            quiet, PARAMS, OPTIMIZER, (DATA[0][:7], DATA[1][:7]), key=KEY, steps=1, mesh=gj.train.data_mesh()
        ),
    }.items():
        try:
            run()
        except ValueError as error:
            told[name] = str(error)
    mesh = gj.train.data_mesh()
    everywhere = lambda params: {"mean": quiet(params, DATA, None)[0]}
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = lambda params: {"mean": quiet(params, jax.lax.with_sharding_constraint(DATA, split), None)[0]}
    evaluated = [
        gj.train.fit(quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=2, evaluate=evaluate, mesh=mesh).evaluations["mean"]
        for evaluate in (everywhere, spread)
    ]
    reduced = "all-reduce" in jax.jit(spread).lower(PARAMS).compile().as_text()
    noisy = lambda: gj.train.fit(loss_fn, PARAMS, OPTIMIZER, DATA, key=KEY, steps=2, mesh=gj.train.data_mesh())
    repeats = bool((flat(noisy()) == flat(noisy())).all())
    off = float(np.abs(evaluated[1] - evaluated[0]).max())
    print(json.dumps({"told": told, "repeats": repeats, "evaluations_differ_by": off, "evaluation_is_spread": reduced}))

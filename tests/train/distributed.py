"""A program that trains on several devices or processes. test_parallel.py runs it.

    python -m tests.train.distributed MODE DEVICES PROCESS PROCESSES PORT DIRECTORY

Prints one JSON line, whose content depends on MODE:

    compare    how much training on a mesh differs from training on one device, and the number of
               all-reduces in the compiled program. DIRECTORY is then "all", or the names of the RUNS
               to compare.
    compare and errors
               the same, and the messages for batches that the devices cannot share equally, whether
               noise is reproducible, how much it differs between devices, and whether an evaluation
               can be sharded
    train      the parameters and losses of runs that are resumed once: with rows, windows and a stream
    callback, write, kill    the step and the time of each callback. The last process raises in a
               callback, the first cannot write its second checkpoint, or the last kills itself. A
               process without a heartbeat counts as dead after 10 seconds in the mode kill.
"""

import json
import os
import signal
import sys
import time

import jax

mode, devices, process, processes, port, directory = sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6]
jax.config.update("jax_num_cpu_devices", devices)
jax.config.update("jax_enable_x64", True)
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, process, heartbeat_timeout_seconds=10 if mode == "kill" else 100)

import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from gru_jax.train import checkpoint
from tests.train.problem import data, init

KEY, STEPS = jax.random.key(0), 9
wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
PARAMS, DATA, OPTIMIZER = (
    wide(init()),
    jax.tree.map(np.asarray, wide(data())),
    optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
)
CELL = gj.gru()


def quiet(params, batch, key):
    """Computes a loss without noise, because noise would differ between devices."""
    xs, targets = batch
    h_last, _ = gj.unroll(CELL, params.cell, xs, time_major=False)
    return gj.heads.squared_error(gj.heads.dense(params.readout, h_last), targets).mean(), {"mean": h_last.mean()}


def noisy(params, batch, keys):
    """Adds noise and dropout, which per_example_keys makes the same on any number of devices."""
    xs, targets = batch
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 0.7, xs.shape[1:]))(keys)
    drawn = jax.vmap(jax.random.normal)(keys)
    features = jnp.tanh((xs * keep) @ params.cell.W_h).sum(1)  # compiles in less time than a GRU
    errors = gj.heads.squared_error(gj.heads.dense(params.readout, features), targets)
    return (errors.reshape(drawn.size, -1).mean(1) * (1 + 0.1 * drawn)).mean(), {"drawn": drawn.mean()}


def masked(params, batch, key):
    """Computes the mean over the valid steps, whose number differs between devices."""
    _, hs = gj.unroll(CELL, params.cell, batch.sequences, lengths=batch.lengths, time_major=False)
    return gj.heads.squared_error(hs, jnp.ones_like(hs), batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1), {}


def windowed(params, batch, key, carry):
    h_last, hs = gj.unroll(CELL, params.cell, batch.sequences, carry, resets=batch.resets, mask=batch.mask, time_major=False)
    return ((hs - 1) ** 2).mean(), {}, h_last


def draw(params, batch, key):
    drawn = jax.random.normal(key)
    return params * drawn, {"draw": drawn, "square": drawn**2}


def generate(key):
    xs = jax.random.normal(key, (8, 6, 2), jnp.float64)
    return xs, xs.sum((1, 2))[:, None]


def stream():
    """Yields batches of two sizes, from the host."""
    for number in range(STEPS):
        yield jax.tree.map(lambda leaf, number=number: leaf[number % 3 : number % 3 + (8 if number < 5 else 4)], DATA)


rng = np.random.default_rng(0)
sequences = [rng.normal(size=(length, 2)) for length in (3, 9, 1, 4, 7, 7, 2, 12, 5)]
RUNS = {
    "rows": lambda **o: gj.train.fit(quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=STEPS, batch_size=8, **o),
    "whole": lambda **o: gj.train.fit(quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=STEPS, **o),
    "microbatches": lambda **o: gj.train.fit(quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=STEPS, batch_size=8, grad_accumulation_steps=2, **o),
    "generated": lambda **o: gj.train.fit(quiet, PARAMS, OPTIMIZER, generate, key=KEY, steps=STEPS, **o),
    "noise": lambda **o: gj.train.fit(
        noisy, PARAMS, OPTIMIZER, DATA, key=KEY, steps=STEPS, batch_size=8, per_example_keys=True,
        grad_accumulation_steps=2 if o else 1, **o
    ),
    "stream": lambda **o: gj.train.fit(quiet, PARAMS, OPTIMIZER, stream(), key=KEY, steps=STEPS, **o),
    "buckets": lambda **o: gj.train.fit(
        masked, PARAMS, OPTIMIZER, gj.train.bucketed(sequences, 4, num_buckets=2), key=KEY, steps=STEPS, weight_fn=lambda b: b.mask.sum(), **o
    ),
    "ensemble": lambda **o: gj.train.fit_ensemble(
        quiet, jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS), optax.sgd, DATA, keys=jax.random.split(KEY), steps=STEPS,
        batch_size=8, hyperparameters={"learning_rate": jnp.array([1e-3, 1e-4])}, **o
    ),
    "ensemble, generated": lambda **o: gj.train.fit_ensemble(
        quiet, jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), PARAMS), OPTIMIZER, generate, keys=jax.random.split(KEY, 3),
        steps=STEPS, **o
    ),
    "windows": lambda **o: gj.train.fit(
        windowed, PARAMS, OPTIMIZER, gj.train.windows([np.concatenate(sequences)], 4, 3), key=KEY, steps=STEPS,
        carry=CELL.initial_state(PARAMS.cell, 4), **o
    ),
}  # fmt: skip


def flat(fitted):
    leaves = [*jax.tree.leaves(fitted.params), *fitted.history.values()]
    return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])


def difference(run):
    """Returns the largest relative difference between training on a mesh and on one device."""
    alone, together = flat(run()), flat(run(mesh=gj.train.data_mesh()))
    return float(np.abs(together - alone).max() / np.abs(alone).max())


def all_reduces(run):
    """Counts the all-reduces in the compiled program of a run on a mesh."""
    from gru_jax.train import host_loop

    programs = []
    original = host_loop.run_steps

    def run_steps(*args, **options):
        programs.append(original.lower(*args, **options).compile().as_text())
        return original(*args, **options)

    host_loop.run_steps = run_steps
    run(mesh=gj.train.data_mesh())
    host_loop.run_steps = original
    return programs[0].count(" all-reduce(")


found = {}
if mode in ("compare", "compare and errors"):
    names = list(RUNS) if directory == "all" else directory.split(",")
    found |= {"differences": {name: difference(RUNS[name]) for name in names}, "all_reduces": all_reduces(RUNS[names[0]])}
if mode == "train":
    mesh = gj.train.data_mesh() if devices * processes > 1 else None
    for steps in (STEPS, 2 * STEPS):  # the second run resumes the first one
        fitted = gj.train.fit(
            quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=steps, batch_size=8, mesh=mesh, checkpoint_dir=directory
        )
    for steps in (4, 9):  # with a carry that is sharded over the processes
        windows = gj.train.windows([np.concatenate(sequences)], 4, 3)
        carried = gj.train.fit(
            windowed, PARAMS, OPTIMIZER, windows, key=KEY, steps=steps, carry=CELL.initial_state(PARAMS.cell, 4), mesh=mesh, checkpoint_dir=directory + "_windows"
        )  # fmt: skip
    for steps in (4, STEPS):
        streamed = gj.train.fit(
            quiet, PARAMS, OPTIMIZER, list(stream()), key=KEY, steps=steps, mesh=mesh, checkpoint_dir=directory + "_stream",
            save_every=2, steps_per_execution=3,
        )  # fmt: skip
    print(
        json.dumps(
            {
                "windows": flat(carried).tolist(),
                "stream": flat(streamed).tolist(),
                "params": flat(fitted).tolist(),
                "process": process,
                "devices": jax.device_count(),
            }
        )
    )
if mode in ("callback", "write", "kill"):
    saved = []
    original = checkpoint.write_arrays

    def write_arrays(*args):
        saved.append(args)
        if mode == "write" and len(saved) == 2:
            raise OSError(28, "No space left on device")
        original(*args)

    def fail(info):
        print(json.dumps({"step": info.step, "time": time.time()}), flush=True)
        if info.step >= 6 and process == processes - 1:
            if mode == "callback":
                raise ValueError("this callback fails")
            if mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.write_arrays = write_arrays
    gj.train.fit(
        quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=10**6, batch_size=8, mesh=gj.train.data_mesh(), checkpoint_dir=directory,
        save_every=3, steps_per_execution=3, callbacks=[fail, lambda info: time.sleep(0.1)],
    )  # fmt: skip
if mode == "compare and errors":
    messages = {}
    for name, run in {
        "batch_size": lambda: gj.train.fit(
            quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=1, batch_size=7, mesh=gj.train.data_mesh()
        ),
        "stream": lambda: gj.train.fit(
            quiet, PARAMS, OPTIMIZER, iter([(DATA[0][:5], DATA[1][:5])]), key=KEY, steps=1, mesh=gj.train.data_mesh()
        ),
        "data": lambda: gj.train.fit(
            quiet, PARAMS, OPTIMIZER, (DATA[0][:7], DATA[1][:7]), key=KEY, steps=1, mesh=gj.train.data_mesh()
        ),
    }.items():
        try:
            run()
        except ValueError as error:
            messages[name] = str(error)
    mesh = gj.train.data_mesh()
    replicated = lambda params: {"mean": quiet(params, DATA, None)[0]}
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = lambda params: {"mean": quiet(params, jax.lax.with_sharding_constraint(DATA, sharding), None)[0]}
    evaluated = [
        gj.train.fit(quiet, PARAMS, OPTIMIZER, DATA, key=KEY, steps=2, evaluate=evaluate, mesh=mesh).evaluations["mean"]
        for evaluate in (replicated, sharded)
    ]
    has_all_reduce = "all-reduce" in jax.jit(sharded).lower(PARAMS).compile().as_text()
    drawing = lambda: gj.train.fit(draw, jnp.ones(()), optax.sgd(1e-2), jnp.ones((4, 1)), key=KEY, steps=2, mesh=mesh)
    repeats = bool((flat(drawing()) == flat(drawing())).all())
    drawn = drawing().history
    difference_of_evaluations = float(np.abs(evaluated[1] - evaluated[0]).max())
    found |= {
        "messages": messages,
        "repeats": repeats,
        "variance_over_devices": float(drawn["square"][0] - drawn["draw"][0] ** 2),
        "difference_of_evaluations": difference_of_evaluations,
        "evaluation_is_sharded": has_all_reduce,
    }
if found:
    print(json.dumps(found))

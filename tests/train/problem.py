"""A small problem for the training tests: counting ones.

    python -m tests.train.problem DIRECTORY STEPS PAUSE

trains on it, and pauses for PAUSE seconds after each execution of the compiled program. At the end
it prints one JSON line with digests of the parameters, the optimiser's state and the history.
"""

import hashlib
import json
import os
import sys
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from gru_jax.train.tree_paths import named_leaves

N, T, D, H = 20, 6, 2, 7
KEY = jax.random.key(0)


class Params(NamedTuple):
    cell: gj.cells.GRUParams
    readout: gj.heads.DenseParams


def init(seed=0, hidden=H):
    keys = jax.random.split(jax.random.key(seed))
    return Params(gj.gru().init(keys[0], D, hidden), gj.heads.init_dense(keys[1], hidden, 1))


def init_readout():
    return gj.heads.init_dense(jax.random.key(0), D, 1)


def data(seed=1):
    xs = jax.random.bernoulli(jax.random.key(seed), 0.5, (N, T, D)).astype(jnp.float32)
    return xs, xs.sum((1, 2))[:, None]


def loss_fn(params, batch, key):
    xs, targets = batch
    h_last, _ = gj.unroll(gj.gru(), params.cell, xs, time_major=False)
    noise = 0.01 * jax.random.normal(key, targets.shape)
    loss = gj.heads.squared_error(gj.heads.dense(params.readout, h_last), targets + noise).mean()
    return loss, {"root": jnp.sqrt(loss)}


def readout_loss_fn(params, batch, key):
    """Computes the loss of a read-out alone, which compiles in half the time of a GRU."""
    xs, targets = batch
    noise = 0.01 * jax.random.normal(key, targets.shape)
    loss = gj.heads.squared_error(gj.heads.dense(params, xs.sum(1)), targets + noise).mean()
    return loss, {"root": jnp.sqrt(loss)}


def counted(loss_fn):
    """Returns the function, and a list that gets an entry each time the function is traced."""
    traces = []

    def counting(*args):
        traces.append(1)
        return loss_fn(*args)

    return counting, traces


def evaluate(params):
    return {"error": jnp.sqrt(loss_fn(params, data(2), KEY)[0])}


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 1000)))
fit = partial(gj.train.fit, loss_fn, init(), OPTIMIZER, data(), key=KEY, batch_size=6, steps_per_execution=5)


def digest(tree):
    """Returns a digest of all bits of a tree."""
    content = hashlib.sha256()
    for leaf in named_leaves(tree).values():
        content.update(np.asarray(leaf).tobytes())
    return content.hexdigest()


def digests(result):
    """Returns digests of everything that a resumed and an uninterrupted run must share."""
    parts = {name: getattr(result, name) for name in ("params", "opt_state", "history", "evaluations", "best_params")}
    return {name: digest(part) for name, part in parts.items()} | {"steps": result.steps}


SETTINGS = {"evaluate": evaluate, "evaluate_every": 10, "early_stopping": gj.train.EarlyStopping("error"), "save_every": 5}

if __name__ == "__main__":
    directory, steps, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

    def pause_after(info):
        import time

        print(f"step {info.step}", flush=True)
        time.sleep(seconds)

    result = fit(
        steps=steps,
        checkpoint_dir=None if directory == "none" else directory,
        callbacks=[pause_after],
        **(SETTINGS | ({"save_every": None} if directory == "none" else {})),
    )
    print(json.dumps(digests(result) | {"pid": os.getpid()}), flush=True)

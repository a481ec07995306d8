"""A small training run that faults happen to.

    python -m experiments.fault_injection.problem DIRECTORY STEPS

trains in the directory, or without checkpoints if it is "none". Prints the steps as they are taken,
and a digest of the result at the end.
"""

import hashlib
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj

T, D, H, EXAMPLES, BATCH = 6, 2, 7, 20, 6
SAVE_EVERY = EXECUTION = 5
CELL, KEY, OPTIMIZER = gj.elman(), jax.random.key(0), optax.adam(1e-2)
XS = np.random.default_rng(1).integers(0, 2, (EXAMPLES, T, D)).astype(np.float32)
DATA = (XS, XS.sum((1, 2))[:, None])


def initial_params() -> Any:
    """Returns the parameters that every run starts with."""
    keys = jax.random.split(KEY)
    return {"cell": CELL.init(keys[0], D, H), "head": gj.heads.init_dense(keys[1], H, 1)}


def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the error of counting ones, with noise, so that the keys matter."""
    xs, counts = batch
    h_last, _ = gj.unroll(CELL, params["cell"], xs, time_major=False)
    noise = 0.01 * jax.random.normal(key, counts.shape)
    errors = gj.heads.squared_error(gj.heads.dense(params["head"], h_last), counts + noise)
    return errors.mean(), {"first": errors.ravel()[:2]}


def evaluate(params: Any) -> dict[str, jax.Array]:
    """Computes the error on all examples."""
    return {"error": loss_fn(params, DATA, KEY)[0]}


STOPPING = gj.train.EarlyStopping("error")
PARAMS = initial_params()


def train(directory: Any, steps: int, callbacks: Any = ()) -> gj.train.FitResult:
    """Trains, or resumes the run of a directory."""
    saved = {} if directory is None else {"checkpoint_dir": directory, "save_every": SAVE_EVERY}
    return gj.train.fit(
        loss_fn, PARAMS, OPTIMIZER, DATA, key=KEY, steps=steps, batch_size=BATCH, evaluate=evaluate, evaluate_every=10,
        early_stopping=STOPPING, steps_per_execution=EXECUTION, callbacks=callbacks, **saved,
    )  # fmt: skip


def parts(result: gj.train.FitResult) -> dict[str, list[np.ndarray]]:
    """Returns everything that a run and an uninterrupted one share, as arrays."""
    trees = {name: getattr(result, name) for name in ("params", "opt_state", "best_params", "history", "evaluations")}
    return {name: [np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for name, tree in trees.items()}


def digest(result: gj.train.FitResult) -> str:
    """Returns a digest of all bits of a result."""
    content = hashlib.sha256(str(result.steps).encode())
    for leaves in parts(result).values():
        for leaf in leaves:
            content.update(np.ascontiguousarray(leaf).tobytes())
    return content.hexdigest()


def _print_step(info: gj.train.CallbackInfo) -> None:
    print(info.step, flush=True)


if __name__ == "__main__":
    jnp.zeros(())  # initialises the backend
    print("ready", flush=True)
    where, until = sys.argv[1:]
    found = train(None if where == "none" else where, int(until), [_print_step])
    print(json.dumps({"digest": digest(found)}), flush=True)

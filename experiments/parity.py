"""Does a recurrent network learn parity, and does it generalise to longer strings?

Task: after a string of zeros and ones, the network says whether the number of ones is odd. One bit
of memory is enough.

Method: 32 units, Adam (3e-3), 5,000 updates, batches of 128 strings of 1 to 40 bits. A batch
contains strings of different lengths. It is padded, and the answer is read out at the last valid
step of each string. Tests go up to 500 bits.

Published: Delétang et al. 2023 ("Neural networks and the Chomsky hierarchy") use the same lengths,
batches of one length each, 256 units, Adam (1e-3) and 10,000 updates. They report that recurrent
networks solve such tasks beyond the trained lengths. No figure for a GRU was found. Chance is 50 %.

Expectation: every cell that learns the task answers correctly for at least 99 % of the strings up
to length 40. Such a cell has learned a machine with two states, so it is right for longer strings
too.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj
from experiments import network
from experiments.common import Options, Outcome, main, mesh_for

CELLS: dict[str, gj.Cell] = {"GRU": gj.gru(), "LSTM": gj.lstm(), "tanh RNN": gj.elman("tanh")}
HIDDEN, BATCH, LONGEST, FAR = 32, 128, 40, 500
RANGES = {"1–40": range(1, 41), "41–100": range(41, 101), "101–500": range(101, FAR + 1)}


def batch_of(longest: int, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws bits `(B, longest)`, lengths from 1 to `longest`, and the parities."""
    key_lengths, key_bits = jax.random.split(key)
    lengths = jax.random.randint(key_lengths, (BATCH,), 1, longest + 1)
    bits = jax.random.bernoulli(key_bits, 0.5, (BATCH, longest)).astype(jnp.int32)
    ones = jnp.where(jnp.arange(longest) < lengths[:, None], bits, 0).sum(1)
    return bits, lengths, ones % 2


def loss_fn(cell: gj.Cell, params: network.Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Returns the cross-entropy in nats per string."""
    bits, lengths, parities = batch
    logits = network.last_logits(cell, params, jax.nn.one_hot(bits, 2), lengths=lengths)
    return gj.heads.softmax_cross_entropy(logits, parities).mean(), {}


def accuracy_at(cell: gj.Cell, params: network.Params, lengths: np.ndarray, key: jax.Array, strings: int = 512) -> jax.Array:
    """Returns the fraction of correct answers at each of these lengths.

    A prefix of a random string is itself a random string, so one pass over the longest strings
    covers all lengths.
    """
    bits = jax.random.bernoulli(key, 0.5, (strings, int(lengths.max()))).astype(jnp.int32)
    answers = network.logits(cell, params, jax.nn.one_hot(bits, 2)).argmax(-1)
    return (answers == jnp.cumsum(bits, 1) % 2).mean(0)[lengths - 1]


def score(cell: gj.Cell, params: network.Params) -> dict[str, jax.Array]:
    """Returns the mean accuracy over the trained lengths, and over the longer ones up to 100."""
    right = accuracy_at(cell, params, np.arange(1, 101), jax.random.key(2**31 - 1))
    return {"seen": right[:LONGEST].mean(), "longer": right[LONGEST:].mean()}


def learn(name: str, seeds: list[int], updates: int) -> dict[str, Any]:
    """Trains one cell on all seeds.

    Returns its learning curves and its accuracy at every length.
    """
    cell = CELLS[name]
    draw = partial(network.init, cell, input_size=2, hidden_size=HIDDEN, output_size=2)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    every = max(updates // 40, 1)
    fitted = network.train_seeds(
        partial(loss_fn, cell), draw, optimizer, partial(batch_of, LONGEST), seeds=seeds, steps=updates,
        steps_per_execution=every, evaluate=partial(score, cell), evaluate_every=every, mesh=mesh_for(BATCH),
    )  # fmt: skip
    lengths = np.arange(1, FAR + 1)
    right = jax.vmap(lambda params: accuracy_at(cell, params, lengths, jax.random.key(2**31 - 2)))(fitted.params)
    print(
        f"{name:9} accuracy by seed at lengths 1 to {LONGEST}: "
        + " ".join(f"{accuracy:.1%}" for accuracy in fitted.evaluations["seen"][-1]),
        flush=True,
    )
    return {
        **{metric: fitted.evaluations[metric] for metric in ("step", "seen", "longer")},
        "accuracy_at_length": right.T,
        "accuracy": {name: np.asarray(right)[:, np.array(lengths) - 1].mean(1) for name, lengths in RANGES.items()},
    }


def run(options: Options) -> Outcome:
    """Trains every cell."""
    seeds = list(range(options.seed, options.seed + (1 if options.quick else 3)))
    cells, updates = (["GRU"], 40) if options.quick else (list(CELLS), 5_000)
    results = {name: learn(name, seeds, updates) for name in cells}
    summary = {"accuracy": {name: found["accuracy"] for name, found in results.items()}, "seeds": seeds}
    return Outcome(summary, results, {"parity.png": draw(results)})


def draw(results: dict[str, Any]) -> plt.Figure:
    """Draws the accuracy over updates, and over lengths after training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    lines = {name: (found["step"], 100 * found["seen"]) for name, found in results.items()}
    chance = ("chance", 50.0)
    network.draw_lines(left, lines, chance, xlabel="updates", ylabel="right (%)", title="Lengths 1 to 40")
    at = np.arange(1, FAR + 1)
    lines = {name: (at, 100 * np.asarray(found["accuracy_at_length"])) for name, found in results.items()}
    network.draw_lines(right, lines, chance, xlabel="length", ylabel="right (%)", title="After training on lengths 1 to 40")
    return figure


if __name__ == "__main__":
    main(run, all_cores=True)

"""Does a recurrent network find parity, one bit of memory, and does it keep it beyond the lengths it was trained on?

Strings of zeros and ones; after the last one the network says whether the number of ones is odd. As in Delétang et al. 2023 ("Neural
networks and the Chomsky hierarchy"): lengths 1 to 40 in training, 41 and more in the test, batches of 128, Adam (1e-3), 10,000
updates, 256 units there. They report that recurrent networks solve such tasks beyond the lengths of training (no figure for a GRU was
found); 50 % is chance. Here 32 units, Adam (3e-3), 5,000 updates, batches of mixed lengths (theirs have one length each), as `lengths`
of one padded batch, and the read-out at every string's own last step.

Expectation: at least 99 % at lengths up to 40 for every cell that learns; what is learned is a machine of two states, so that longer
strings are right too.
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
    """Bits `(B, longest)`, lengths from 1 to `longest`, and the parities."""
    key_lengths, key_bits = jax.random.split(key)
    lengths = jax.random.randint(key_lengths, (BATCH,), 1, longest + 1)
    bits = jax.random.bernoulli(key_bits, 0.5, (BATCH, longest)).astype(jnp.int32)
    ones = jnp.where(jnp.arange(longest) < lengths[:, None], bits, 0).sum(1)
    return bits, lengths, ones % 2


def loss_fn(cell: gj.Cell, params: network.Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Nats per string."""
    bits, lengths, parities = batch
    found = network.last_logits(cell, params, jax.nn.one_hot(bits, 2), lengths=lengths)
    return gj.heads.softmax_cross_entropy(found, parities).mean(), {}


def accuracy_at(cell: gj.Cell, params: network.Params, lengths: np.ndarray, key: jax.Array, strings: int = 512) -> jax.Array:
    """The share of right answers at each of these lengths, over random strings: every prefix of one is a string too."""
    bits = jax.random.bernoulli(key, 0.5, (strings, int(lengths.max()))).astype(jnp.int32)
    found = network.logits(cell, params, jax.nn.one_hot(bits, 2)).argmax(-1)
    return (found == jnp.cumsum(bits, 1) % 2).mean(0)[lengths - 1]


def score(cell: gj.Cell, params: network.Params) -> dict[str, jax.Array]:
    """The mean over the lengths that were trained, and over those up to 100."""
    right = accuracy_at(cell, params, np.arange(1, 101), jax.random.key(2**31 - 1))
    return {"seen": right[:LONGEST].mean(), "longer": right[LONGEST:].mean()}


def learn(name: str, seeds: list[int], updates: int) -> dict[str, Any]:
    """One cell, all seeds."""
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
        f"{name:9} right at lengths 1 to {LONGEST}: " + " ".join(f"{share:.1%}" for share in fitted.evaluations["seen"][-1]),
        flush=True,
    )
    return {
        **{metric: fitted.evaluations[metric] for metric in ("step", "seen", "longer")},
        "accuracy_at_length": right.T,
        "accuracy": {name: np.asarray(right)[:, np.array(lengths) - 1].mean(1) for name, lengths in RANGES.items()},
    }


def run(options: Options) -> Outcome:
    """Every cell."""
    seeds = list(range(options.seed, options.seed + (1 if options.quick else 3)))
    cells, updates = (["GRU"], 40) if options.quick else (list(CELLS), 5_000)
    results = {name: learn(name, seeds, updates) for name in cells}
    summary = {"accuracy": {name: found["accuracy"] for name, found in results.items()}, "seeds": seeds}
    return Outcome(summary, results, {"parity.png": draw(results)})


def draw(results: dict[str, Any]) -> plt.Figure:
    """Accuracy by update, and by length in the end."""
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

"""How well does a GRU that reads Shakespeare letter by letter guess the next one?

Karpathy's tinyshakespeare: 1,003,854 characters to train on and the last 111,540 to validate, 65 kinds. Windows of 128 characters in
32 streams, the state carried from window to window; Adam with a cosine to a hundredth, gradient norm clipped at 1, dropout with one
mask per window. Nats per character on the validation text, read as 30 stretches from a zero state each, every character but each
stretch's first counted, at the best of the evaluations.

Published: nanoGPT's transformer 1.88 for its small setting on a CPU and 1.4697 for the one on a GPU; no GRU figure for this text was
found. A bigram model, counted here, is the baseline.

Expectation: below 1.7 with 256 units.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj
from experiments import data, network
from experiments.common import Options, Outcome, main, mesh_for

CELL = gj.gru()
BATCH, WINDOW, RATE, DROPOUT, STRETCHES = 32, 128, 4e-3, 0.1, 30
PUBLISHED = {"nanoGPT, small": 1.88, "nanoGPT": 1.4697}


def bigram(text: data.Text) -> float:
    """Nats per character of the validation text by counts of pairs in the training text, 1 added to each."""
    counts = np.ones((len(text.alphabet),) * 2)
    np.add.at(counts, (text.train[:-1], text.train[1:]), 1)
    chances = counts / counts.sum(1, keepdims=True)
    return float(-np.log(chances[text.valid[:-1], text.valid[1:]]).mean())


def loss_fn(
    characters: int, params: network.Params, window: gj.train.WindowBatch, key: jax.Array, carry: Any
) -> tuple[jax.Array, dict, Any]:
    """Nats per character of a window, and the state after it."""
    xs, asked = window.sequences
    cell = gj.variational_dropout(CELL, state=DROPOUT)
    shown = jax.nn.one_hot(xs, characters)
    carry, hs = gj.unroll(cell, params.cell, shown, carry, time_major=False, resets=window.resets, mask=window.mask, key=key)
    found = gj.heads.dense(params.readout, hs)
    losses = gj.heads.softmax_cross_entropy(found, asked.astype(jnp.int32), window.mask)
    return losses.sum() / window.mask.sum(), {}, carry


def evaluate(characters: int, stretches: Any, params: network.Params) -> dict[str, jax.Array]:
    """Nats per character."""
    found = network.logits(CELL, params, jax.nn.one_hot(stretches[:, :-1], characters))
    return {"nats": gj.heads.softmax_cross_entropy(found, stretches[:, 1:].astype(jnp.int32)).mean()}


@partial(jax.jit, static_argnums=(1, 2))
def sample(params: network.Params, length: int, characters: int, key: jax.Array, first: int, temperature: float) -> jax.Array:
    """Class numbers of a text that begins after the character `first`."""

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        h, last = carry
        h, y = CELL.step(params.cell, h, jax.nn.one_hot(last, characters))
        drawn = jax.random.categorical(key, gj.heads.dense(params.readout, y) / temperature)
        return (h, drawn), drawn

    return jax.lax.scan(step, (CELL.initial_state(params.cell), jnp.asarray(first)), jax.random.split(key, length))[1]


def characters_of(window: Any) -> jax.Array:
    """What a window's loss is a mean over."""
    return window.mask.sum()


def run(options: Options) -> Outcome:
    """Trains on every seed, and lets the best of them write."""
    text = data.load_text()
    characters = len(text.alphabet)
    units, epochs, seeds, train = (32, 1, 1, text.train[:100_000]) if options.quick else (256, 8, 3, text.train)
    source = gj.train.windows([(train[:-1], train[1:])], BATCH, WINDOW)
    steps = epochs * source.windows_per_epoch
    stretches = text.valid[: len(text.valid) // STRETCHES * STRETCHES].reshape(STRETCHES, -1)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(RATE, steps, 0.01)))
    loss, score = partial(loss_fn, characters), partial(evaluate, characters, stretches)

    fits = []
    for seed in range(options.seed, options.seed + seeds):
        key_init, key_fit = jax.random.split(jax.random.key(seed))
        params = network.init(CELL, key_init, input_size=characters, hidden_size=units, output_size=characters)
        fit = gj.train.fit(
            loss, params, optimizer, source, key=key_fit, steps=steps, steps_per_execution=source.windows_per_epoch, evaluate=score,
            evaluate_every=source.windows_per_epoch, early_stopping=gj.train.EarlyStopping("nats"),
            carry=CELL.initial_state(params.cell, BATCH), weight_fn=characters_of, mesh=mesh_for(BATCH),
        )  # fmt: skip
        fits.append(fit)
        print(f"seed {seed}: {fit.evaluations['nats'].min():.4f} nats per character after {fit.best_step} updates")
    best = [float(fit.evaluations["nats"].min()) for fit in fits]
    written = {}
    for temperature in (0.5, 1.0):
        drawn = sample(
            fits[int(np.argmin(best))].best_params,
            600,
            characters,
            jax.random.key(options.seed),
            text.alphabet.index("\n"),
            temperature,
        )
        written[temperature] = "".join(text.alphabet[i] for i in np.asarray(drawn))
    summary = {
        "valid_nats": best,
        "valid_bits": [nats / np.log(2) for nats in best],
        "bigram_nats": bigram(text),
        "parameters": network.count(fits[0].params),
        "epochs": epochs,
    }
    results = {
        "step": fits[0].evaluations["step"],
        "valid": [fit.evaluations["nats"] for fit in fits],
        "train_by_epoch": [fit.history["loss"].reshape(epochs, -1).mean(1) for fit in fits],
        "best_step": [fit.best_step for fit in fits],
        "published": PUBLISHED,
    }
    samples = "# Written by the network\n" + "".join(
        f"\nTemperature {temperature}:\n\n```text\n{words.strip()}\n```\n" for temperature, words in written.items()
    )
    return Outcome(summary, results, {"curves.png": draw(results, source.windows_per_epoch)}, {"samples.md": samples})


def draw(results: dict[str, Any], per_epoch: int) -> plt.Figure:
    """Nats by epoch."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    epochs = np.asarray(results["step"]) / per_epoch
    lines = {
        "validation": (epochs, np.stack(results["valid"], 1)),
        "training, with dropout": (epochs[1:], np.stack(results["train_by_epoch"], 1)),
    }
    labels = {"xlabel": "epoch", "ylabel": "nats per character", "title": "tinyshakespeare", "ylim": (1.2, 2.6)}
    network.draw_lines(axes, lines, ("nanoGPT, the GPU setting", PUBLISHED["nanoGPT"]), **labels)
    return figure


if __name__ == "__main__":
    main(run, all_cores=True)

"""How well does a GRU predict the next character of Shakespeare?

Data: Karpathy's tinyshakespeare, with 1,003,854 training and 111,540 validation characters over an
alphabet of 65.

Method: the training text is cut into 32 streams and windows of 128 characters, and the state is
carried from window to window. The optimiser is Adam with cosine decay to 1 % of the initial rate,
the gradient norm is clipped at 1, and dropout uses one mask per window.

Measured: nats per character on the validation text. The text is split into 30 segments that each
start from the zero state. All characters are predicted, except for the first one of a segment. The
best evaluation during training is reported.

Published: nanoGPT's transformer reaches 1.88 in its small CPU setting and 1.4697 in its GPU
setting. No figure for a GRU on this text was found. The baseline is a bigram model fitted here.

Expectation: a GRU of 256 units gets below 1.7.
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
from experiments.common import ON_A_TERMINAL, Options, Outcome, main, mesh_for

CELL = gj.gru()
BATCH, WINDOW, RATE, DROPOUT, SEGMENTS = 32, 128, 4e-3, 0.1, 30
PUBLISHED = {"nanoGPT, small": 1.88, "nanoGPT": 1.4697}


def bigram(text: data.Text) -> float:
    """Returns the nats per character of a bigram model on the validation text.

    All counts start at 1, so that unseen pairs keep a probability above 0.
    """
    counts = np.ones((len(text.alphabet),) * 2)
    np.add.at(counts, (text.train[:-1], text.train[1:]), 1)
    chances = counts / counts.sum(1, keepdims=True)
    return float(-np.log(chances[text.valid[:-1], text.valid[1:]]).mean())


def loss_fn(
    characters: int, params: network.Params, window: gj.train.WindowBatch, key: jax.Array, carry: Any
) -> tuple[jax.Array, dict, Any]:
    """Returns the nats per character of a window, no metrics, and the state after the window."""
    xs, targets = window.sequences
    cell = gj.variational_dropout(CELL, state=DROPOUT)
    inputs = jax.nn.one_hot(xs, characters)
    carry, hs = gj.unroll(cell, params.cell, inputs, carry, time_major=False, resets=window.resets, mask=window.mask, key=key)
    logits = gj.heads.dense(params.readout, hs)
    losses = gj.heads.softmax_cross_entropy(logits, targets.astype(jnp.int32), window.mask)
    return losses.sum() / window.mask.sum(), {}, carry


def evaluate(characters: int, segments: Any, params: network.Params) -> dict[str, jax.Array]:
    """Returns the nats per character over segments of text, `(segments, characters)`."""
    logits = network.logits(CELL, params, jax.nn.one_hot(segments[:, :-1], characters))
    return {"nats": gj.heads.softmax_cross_entropy(logits, segments[:, 1:].astype(jnp.int32)).mean()}


@partial(jax.jit, static_argnums=(1, 2))
def sample(params: network.Params, length: int, characters: int, key: jax.Array, first: int, temperature: float) -> jax.Array:
    """Samples a text of `length` characters, as indices, that follows the character `first`."""

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        h, last = carry
        h, y = CELL.step(params.cell, h, jax.nn.one_hot(last, characters))
        drawn = jax.random.categorical(key, gj.heads.dense(params.readout, y) / temperature)
        return (h, drawn), drawn

    return jax.lax.scan(step, (CELL.initial_state(params.cell), jnp.asarray(first)), jax.random.split(key, length))[1]


def valid_characters(window: Any) -> jax.Array:
    """Returns the number of valid characters of a window, which weights its loss."""
    return window.mask.sum()


def run(options: Options) -> Outcome:
    """Trains on every seed, and samples text from the best network."""
    text = data.load_text()
    characters = len(text.alphabet)
    units, epochs, seeds, train = (32, 1, 1, text.train[:100_000]) if options.quick else (256, 8, 3, text.train)
    source = gj.train.windows([(train[:-1], train[1:])], BATCH, WINDOW)
    steps = epochs * source.windows_per_epoch
    segments = text.valid[: len(text.valid) // SEGMENTS * SEGMENTS].reshape(SEGMENTS, -1)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(RATE, steps, 0.01)))
    loss, score = partial(loss_fn, characters), partial(evaluate, characters, segments)

    fits = []
    for seed in range(options.seed, options.seed + seeds):
        key_init, key_fit = jax.random.split(jax.random.key(seed))
        params = network.init(CELL, key_init, input_size=characters, hidden_size=units, output_size=characters)
        fit = gj.train.fit(
            loss, params, optimizer, source, key=key_fit, steps=steps, steps_per_execution=source.windows_per_epoch, evaluate=score,
            evaluate_every=source.windows_per_epoch, early_stopping=gj.train.EarlyStopping("nats"),
            carry=CELL.initial_state(params.cell, BATCH), weight_fn=valid_characters, mesh=mesh_for(BATCH),
            progress=ON_A_TERMINAL,
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
    """Draws the nats per character over epochs."""
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

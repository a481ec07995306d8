"""How long can a GRU and an LSTM keep ten symbols, and what does the initialisation of their gates change?

The copy memory task (Hochreiter and Schmidhuber 1997, in the form of Arjovsky et al. 2016): ten symbols of eight, T blanks of which the
last is a mark to begin, ten blanks: T + 20 steps in all, during the last ten of which the symbols are asked for in order. Batches of
32 made as training goes; loss is cross-entropy over all T + 20 steps, as in the papers. 128 units, Adam from 1e-2 with a cosine to a
hundredth, gradient norm clipped at 1 (by hand: RMSprop at 1e-3, the papers' choice, is not through after as many updates).

Whoever remembers nothing and answers at random pays 10 ln 8 / (T + 20) nats per step. Bai et al. 2018 publish GRU and LSTM at that
baseline for T = 1000 (0.0197), and accuracies below 20 % before T = 200. Tallec and Ollivier 2018 start an LSTM of 128 units with
gates that remember for 1 to T steps (chrono initialisation), and beat the baseline at T = 500 and 2000.

Expectation: above 99 % of symbols at T = 30; the longer the wait, the more the chrono start helps.
"""

import math
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

CELLS: dict[str, gj.Cell] = {"GRU": gj.gru(), "LSTM": gj.lstm()}
SYMBOLS, LENGTH, HIDDEN, BATCH = 8, 10, 128, 32
BLANK, BEGIN, CLASSES = 0, SYMBOLS + 1, SYMBOLS + 2
RATE = 1e-2


def baseline(T: int) -> float:
    """Nats per step of whoever knows everything but the symbols."""
    return LENGTH * math.log(SYMBOLS) / (T + 2 * LENGTH)


def batch_of(T: int, count: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What is shown and what is asked for at each step, `(count, T + 20)` of class numbers."""
    symbols = jax.random.randint(key, (count, LENGTH), 1, SYMBOLS + 1)
    blanks = lambda steps: jnp.full((count, steps), BLANK, symbols.dtype)
    shown = jnp.concatenate([symbols, blanks(T - 1), jnp.full((count, 1), BEGIN, symbols.dtype), blanks(LENGTH)], 1)
    return shown, jnp.concatenate([blanks(T + LENGTH), symbols], 1)


def loss_fn(cell: gj.Cell, params: network.Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Nats per step, over all steps."""
    shown, asked = batch
    return gj.heads.softmax_cross_entropy(network.logits(cell, params, jax.nn.one_hot(shown, CLASSES)), asked).mean(), {}


def score(cell: gj.Cell, test: Any, params: network.Params) -> dict[str, jax.Array]:
    """Nats per step, and the share of the ten symbols that come back right (1/8 by chance)."""
    shown, asked = test
    found = network.logits(cell, params, jax.nn.one_hot(shown, CLASSES))
    return {
        "nats": gj.heads.softmax_cross_entropy(found, asked).mean(),
        "accuracy": (found[:, -LENGTH:].argmax(-1) == asked[:, -LENGTH:]).mean(),
    }


def optimizer(updates: int) -> optax.GradientTransformation:
    """Adam with a cosine to a hundredth, gradient norm clipped at 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(RATE, updates, 0.01)))


def learn(name: str, T: int, chrono: bool, seeds: list[int], updates: int) -> dict[str, Any]:
    """One cell at one length from one kind of start, all seeds."""
    cell = CELLS[name]
    draw = partial(
        network.init,
        cell,
        input_size=CLASSES,
        hidden_size=HIDDEN,
        output_size=CLASSES,
        longest=T + 2 * LENGTH if chrono else None,
    )
    test = batch_of(T, 1000, jax.random.key(2**31 - 1))
    every = max(updates // 40, 1)
    fitted = network.train_seeds(
        partial(loss_fn, cell), draw, optimizer(updates), partial(batch_of, T, BATCH), seeds=seeds, steps=updates,
        steps_per_execution=every, evaluate=partial(score, cell, test), evaluate_every=every, mesh=mesh_for(BATCH),
    )  # fmt: skip
    told = " ".join(f"{share:.1%}" for share in fitted.evaluations["accuracy"][-1])
    print(f"{T} blanks, {name}{', chrono' * chrono}: {told} right", flush=True)
    return {metric: fitted.evaluations[metric] for metric in ("step", "nats", "accuracy")}


def run(options: Options) -> Outcome:
    """All lengths and starts."""
    seeds = list(range(options.seed, options.seed + (1 if options.quick else 3)))
    lengths = {5: ["GRU"]} if options.quick else {30: ["GRU", "LSTM"], 100: ["GRU"]}
    updates = 100 if options.quick else 6000
    results = {
        T: {
            f"{cell}, {'chrono' if chrono else 'zero biases'}": learn(cell, T, chrono, seeds, updates)
            for cell in cells
            for chrono in (False, True)
        }
        for T, cells in lengths.items()
    }
    summary: dict[str, Any] = {
        metric: {T: {kind: np.asarray(found[metric][-1]) for kind, found in kinds.items()} for T, kinds in results.items()}
        for metric in ("accuracy", "nats")
    }
    summary |= {"baseline_nats": {T: baseline(T) for T in lengths}, "seeds": seeds}
    return Outcome(summary, {"by_length": results}, {"curves.png": draw(results)})


def draw(results: dict[int, Any]) -> plt.Figure:
    """Cross-entropy by update, a panel for each length."""
    figure, all_axes = plt.subplots(1, len(results), figsize=(5.5 * len(results), 4), layout="constrained", squeeze=False)
    for axes, (T, kinds) in zip(all_axes[0], results.items(), strict=True):
        lines = {kind: (found["step"], found["nats"]) for kind, found in kinds.items()}
        labels = {"xlabel": "updates", "ylabel": "nats per step, test", "yscale": "log", "title": f"{T} blanks"}
        network.draw_lines(axes, lines, ("remembering nothing", baseline(T)), **labels)
    return figure


if __name__ == "__main__":
    main(run, all_cores=True)

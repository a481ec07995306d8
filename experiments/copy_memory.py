"""For how many steps do a GRU and an LSTM remember ten symbols?

Task: copy memory (Hochreiter and Schmidhuber 1997, in the form of Arjovsky et al. 2016). The input
is ten symbols out of eight, then T blanks of which the last is a start mark, then ten more blanks:
T + 20 steps in all. During the last ten steps the target is the ten symbols in order.

Method: 128 units, Adam with cosine decay from 1e-2 to 1e-4, gradient norm clipped at 1. Batches of
32 are generated during training. The loss is the cross-entropy over all T + 20 steps, as in the
papers. The papers use RMSprop at 1e-3, which had not converged after as many updates in a single
trial. The gate biases are initialised to zero or by the chrono rule.

Published: a network that remembers nothing and guesses costs 10 ln 8 / (T + 20) nats per step. Bai
et al. 2018 report the GRU and the LSTM at that baseline for T = 1000 (0.0197), and accuracies below
20 % before T = 200. Tallec and Ollivier 2018 initialise an LSTM of 128 units so that its gates
remember for 1 to T steps (chrono initialisation), and beat the baseline at T = 500 and 2000.

Expectation: more than 99 % of the symbols are correct at T = 30. The longer the wait, the more the
chrono initialisation helps.
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
    """Returns the loss, in nats per step, of a network that knows everything but the symbols."""
    return LENGTH * math.log(SYMBOLS) / (T + 2 * LENGTH)


def batch_of(T: int, count: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws `count` sequences.

    Returns the inputs and the targets as class indices, `(count, T + 20)` each.
    """
    symbols = jax.random.randint(key, (count, LENGTH), 1, SYMBOLS + 1)
    blanks = lambda steps: jnp.full((count, steps), BLANK, symbols.dtype)
    inputs = jnp.concatenate([symbols, blanks(T - 1), jnp.full((count, 1), BEGIN, symbols.dtype), blanks(LENGTH)], 1)
    return inputs, jnp.concatenate([blanks(T + LENGTH), symbols], 1)


def loss_fn(cell: gj.Cell, params: network.Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Returns the cross-entropy in nats per step, averaged over all steps."""
    inputs, targets = batch
    return gj.heads.softmax_cross_entropy(network.logits(cell, params, jax.nn.one_hot(inputs, CLASSES)), targets).mean(), {}


def score(cell: gj.Cell, test: Any, params: network.Params) -> dict[str, jax.Array]:
    """Returns the nats per step, and the fraction of correct symbols (1/8 by chance)."""
    inputs, targets = test
    logits = network.logits(cell, params, jax.nn.one_hot(inputs, CLASSES))
    return {
        "nats": gj.heads.softmax_cross_entropy(logits, targets).mean(),
        "accuracy": (logits[:, -LENGTH:].argmax(-1) == targets[:, -LENGTH:]).mean(),
    }


def optimizer(updates: int) -> optax.GradientTransformation:
    """Returns Adam with cosine decay from 1e-2 to 1e-4 and the gradient norm clipped at 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(RATE, updates, 0.01)))


def learn(name: str, T: int, *, chrono: bool, seeds: list[int], updates: int) -> dict[str, Any]:
    """Trains one cell at one length on all seeds, and returns its learning curves.

    With `chrono`, the gate biases are initialised by the chrono rule, and otherwise to zero.
    """
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
    accuracies = " ".join(f"{accuracy:.1%}" for accuracy in fitted.evaluations["accuracy"][-1])
    print(f"{T} blanks, {name}{', chrono' * chrono}: accuracy by seed {accuracies}", flush=True)
    return {metric: fitted.evaluations[metric] for metric in ("step", "nats", "accuracy")}


def run(options: Options) -> Outcome:
    """Trains the cells at all lengths, from both initialisations."""
    seeds = list(range(options.seed, options.seed + (1 if options.quick else 3)))
    lengths = {5: ["GRU"]} if options.quick else {30: ["GRU", "LSTM"], 100: ["GRU"]}
    updates = 100 if options.quick else 6000
    results = {
        T: {
            f"{cell}, {'chrono' if chrono else 'zero biases'}": learn(cell, T, chrono=chrono, seeds=seeds, updates=updates)
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
    """Draws the cross-entropy over updates, one panel per length."""
    figure, all_axes = plt.subplots(1, len(results), figsize=(5.5 * len(results), 4), layout="constrained", squeeze=False)
    for axes, (T, kinds) in zip(all_axes[0], results.items(), strict=True):
        lines = {kind: (found["step"], found["nats"]) for kind, found in kinds.items()}
        labels = {"xlabel": "updates", "ylabel": "nats per step, test", "yscale": "log", "title": f"{T} blanks"}
        network.draw_lines(axes, lines, ("remembering nothing", baseline(T)), **labels)
    return figure


if __name__ == "__main__":
    main(run, all_cores=True)

"""Does a GRU of ten units learn to add binary numbers, and how long can the numbers be?

Task: the example of the R package `rnn`, whose default cell is the sigmoid RNN. There are 5,000
pairs of numbers from 0 to 127, with eight bits each.

Method, first part: the package's settings. These are ten units, batches of 100, a learning rate of
0.1 on the sum of ½ squared errors over a batch, ten epochs, and weights from U(−1, 1). Biases are
left out.
Version 0.8.0 of the package reads the lowest bit first. The current version reads the highest bit
first, so that the carry comes from bits that have not been read yet. Both orders are run.

Method, second part: the same networks with cross-entropy and Adam (1e-2), trained on eight bits and
tested on 8 to 64 bits.

Published: the number of wrong bits (of eight) of the sigmoid RNN after each of the first epochs.
With the lowest bit first it is 3.970, 3.471, 2.596 and 1.465. With the highest bit first it is
3.990, 3.868 and 3.742.

Expectation: with the lowest bit first and the correct gradient, the GRU gets all sums right. With
the highest bit first, no cell can. A network that has learned to carry adds numbers of any length.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj
from experiments import network
from experiments.common import Options, Outcome, main

CELLS: dict[str, gj.Cell] = {
    "GRU": gj.gru(),
    "LSTM": gj.lstm(),
    "tanh RNN": gj.elman("tanh"),
    "sigmoid RNN": gj.elman("sigmoid"),
}
PAIRS, BITS, HIDDEN, BATCH, RATE = 5000, 8, 10, 100, 0.1
LENGTHS = (8, 16, 32, 64)
uniform = gj.initializers.symmetric_uniform(1.0)


def sums(rng: np.random.Generator, pairs: int, bits: int, *, lowest_first: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Draws pairs of numbers of `bits` − 1 bits.

    Returns their bits `(pairs, bits, 2)` and those of the sums `(pairs, bits, 1)`.
    """
    numbers = rng.integers(0, 2 ** (bits - 1), (pairs, 2), dtype=np.uint64)
    shifts = np.arange(bits, dtype=np.uint64)
    unpack = lambda n: ((n[:, None] >> shifts[None, :, *[None] * (n.ndim - 1)]) & np.uint64(1)).astype(np.float32)
    xs, ys = unpack(numbers), unpack(numbers.sum(1, dtype=np.uint64)[:, None])
    return (xs, ys) if lowest_first else (xs[:, ::-1].copy(), ys[:, ::-1].copy())


def draw_weights(cell: gj.Cell, key: jax.Array) -> network.Params:
    """Draws weights from U(−1, 1), as the package does.

    Biases are left out, as in `published_derivations`. The package's default for them was not
    checked.
    """
    key_cell, key_readout = jax.random.split(key)
    params = cell.init(key_cell, 2, HIDDEN, bias=False, kernel_init=uniform, recurrent_init=uniform)
    return network.Params(params, gj.heads.init_dense(key_readout, HIDDEN, 1, bias=False, kernel_init=uniform))


def squared_loss(cell: gj.Cell, params: network.Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Returns the package's loss, the sum of ½ squared errors of the sigmoid outputs."""
    xs, ys = batch
    return gj.heads.half_squared_error(jax.nn.sigmoid(network.logits(cell, params, xs)), ys).sum(), {}


def cross_entropy_loss(cell: gj.Cell, params: network.Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Returns the cross-entropy in nats per bit."""
    xs, ys = batch
    return gj.heads.sigmoid_binary_cross_entropy(network.logits(cell, params, xs), ys).mean(), {}


def score(cell: gj.Cell, test: Any, params: network.Params) -> dict[str, jax.Array]:
    """Returns the number of wrong bits per sum, and the fraction of sums without a wrong bit."""
    xs, ys = test
    right = (network.logits(cell, params, xs) > 0) == (ys > 0.5)
    return {"wrong_bits": (~right).sum((1, 2)).mean(), "sums": right.all((1, 2)).mean()}


class Kind(NamedTuple):
    """One way to train.

    Attributes:
        settings: "package" for the R package's loss and SGD, "Adam" for cross-entropy and Adam.
        lowest_first: Whether the lowest bit comes first.
        epochs: Number of epochs.
    """

    settings: str
    lowest_first: bool
    epochs: int


def learn(name: str, kind: Kind, seeds: list[int]) -> dict[str, Any]:
    """Trains one cell in one way on all seeds.

    Returns the learning curves and, for Adam, the accuracy on longer numbers.
    """
    cell, rng = CELLS[name], np.random.default_rng(seeds[0])
    data, test = (sums(rng, count, BITS, lowest_first=kind.lowest_first) for count in (PAIRS, 1000))
    loss, optimizer = {
        "package": (squared_loss, optax.sgd(RATE)),
        "Adam": (cross_entropy_loss, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))),
    }[kind.settings]
    per_epoch = PAIRS // BATCH
    fitted = network.train_seeds(
        partial(loss, cell), partial(draw_weights, cell), optimizer, data, seeds=seeds, steps=kind.epochs * per_epoch,
        batch_size=BATCH, steps_per_execution=per_epoch, evaluate=partial(score, cell, test), evaluate_every=per_epoch,
    )  # fmt: skip
    accuracies = " ".join(f"{accuracy:.0%}" for accuracy in fitted.evaluations["sums"][-1])
    order = "" if kind.lowest_first else ", highest bit first"
    print(f"{kind.settings}{order}, {name}: right sums by seed {accuracies}", flush=True)
    result: dict[str, Any] = {metric: fitted.evaluations[metric] for metric in ("wrong_bits", "sums")}
    result["epoch"] = fitted.evaluations["step"] // per_epoch
    if kind.lowest_first:
        longer = {bits: sums(rng, 1000, bits) for bits in LENGTHS}
        result["sums_of_bits"] = {
            bits: jax.vmap(lambda params, task=task: score(cell, task, params)["sums"])(fitted.params)
            for bits, task in longer.items()
        }
    return result


def run(options: Options) -> Outcome:
    """Trains every cell with both orders of bits and both losses."""
    seeds = list(range(options.seed, options.seed + (1 if options.quick else 5)))
    cells = ["GRU"] if options.quick else list(CELLS)
    kinds = {
        "package": Kind("package", lowest_first=True, epochs=3 if options.quick else 10),
        "package, highest bit first": Kind("package", lowest_first=False, epochs=1 if options.quick else 10),
        "Adam": Kind("Adam", lowest_first=True, epochs=3 if options.quick else 20),
    }
    results = {name: {cell: learn(cell, kind, seeds) for cell in cells} for name, kind in kinds.items()}
    last = lambda kind, cell, metric: np.asarray(results[kind][cell][metric][-1])
    summary = {
        "sums_right": {kind: {cell: last(kind, cell, "sums") for cell in cells} for kind in kinds},
        "wrong_bits": {kind: {cell: last(kind, cell, "wrong_bits") for cell in cells} for kind in kinds},
        "sums_right_of_bits": {cell: results["Adam"][cell]["sums_of_bits"] for cell in cells},
        "seeds": seeds,
    }
    return Outcome(summary, results, {"addition.png": draw_curves(results)})


def draw_curves(results: dict[str, Any]) -> plt.Figure:
    """Draws the number of wrong bits over epochs."""
    published = {"package": (3.970, 3.471, 2.596, 1.465), "package, highest bit first": (3.990, 3.868, 3.742)}
    figure, all_axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for axes, (kind, cells) in zip(all_axes, results.items(), strict=True):
        if kind in published:
            axes.plot(range(1, 1 + len(published[kind])), published[kind], "k+", label="published, sigmoid RNN")
        lines = {name: (cell["epoch"], cell["wrong_bits"]) for name, cell in cells.items()}
        network.draw_lines(axes, lines, xlabel="epoch", ylabel="wrong bits of 8", title=kind)
    return figure


if __name__ == "__main__":
    main(run)

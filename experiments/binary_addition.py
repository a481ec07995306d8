"""Does a GRU of ten units add binary numbers, in which order of bits, and how far beyond the lengths it was trained on?

The example of the R package `rnn` (its sigmoid RNN is the default there): 5,000 pairs from 0 to 127, eight bits, ten units, batches of
100, rate 0.1 on the sum of a batch's ½ squared errors, ten epochs, weights U(−1, 1), here without biases. Version 0.8.0 fed the lowest
bit first, and published 3.970, 3.471, 2.596, 1.465 wrong bits of eight after its first epochs; today's feeds the highest bit first
(3.990, 3.868, 3.742): the carry comes from bits not yet read.

Then the same networks with cross-entropy and Adam (1e-2), on sums of eight bits, tested on numbers of 8 to 64 bits.

Expectation: lowest bit first, the GRU by its correct gradient reaches 100 % of sums; highest bit first nobody can; a network that
has found the carry adds numbers of any length.
"""

from functools import partial
from typing import Any

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


def sums(rng: np.random.Generator, pairs: int, bits: int, lowest_first: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Bits of two numbers `(pairs, bits, 2)`, each of one bit less than `bits`, and of their sum `(pairs, bits, 1)`."""
    numbers = rng.integers(0, 2 ** (bits - 1), (pairs, 2), dtype=np.uint64)
    shifts = np.arange(bits, dtype=np.uint64)
    unpack = lambda n: ((n[:, None] >> shifts[None, :, *[None] * (n.ndim - 1)]) & np.uint64(1)).astype(np.float32)
    xs, ys = unpack(numbers), unpack(numbers.sum(1, dtype=np.uint64)[:, None])
    return (xs, ys) if lowest_first else (xs[:, ::-1].copy(), ys[:, ::-1].copy())


def draw_weights(cell: gj.Cell, key: jax.Array) -> network.Params:
    """U(−1, 1) as in the package; without biases, as in `published_derivations` (the package's default was not looked up)."""
    key_cell, key_readout = jax.random.split(key)
    params = cell.init(key_cell, 2, HIDDEN, bias=False, kernel_init=uniform, recurrent_init=uniform)
    return network.Params(params, gj.heads.init_dense(key_readout, HIDDEN, 1, bias=False, kernel_init=uniform))


def squared_loss(cell: gj.Cell, params: network.Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """The package's: ½ squared error of sigmoid outputs, summed over everything."""
    xs, ys = batch
    return gj.heads.half_squared_error(jax.nn.sigmoid(network.logits(cell, params, xs)), ys).sum(), {}


def cross_entropy_loss(cell: gj.Cell, params: network.Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Nats per bit."""
    xs, ys = batch
    return gj.heads.sigmoid_binary_cross_entropy(network.logits(cell, params, xs), ys).mean(), {}


def score(cell: gj.Cell, test: Any, params: network.Params) -> dict[str, jax.Array]:
    """Wrong bits per sum, and the share of sums with every bit right."""
    xs, ys = test
    right = (network.logits(cell, params, xs) > 0) == (ys > 0.5)
    return {"wrong_bits": (~right).sum((1, 2)).mean(), "sums": right.all((1, 2)).mean()}


def learn(name: str, how: str, lowest_first: bool, seeds: list[int], epochs: int) -> dict[str, Any]:
    """One kind of network: every seed's curve, and the sums of longer numbers it adds."""
    cell, rng = CELLS[name], np.random.default_rng(seeds[0])
    data, test = sums(rng, PAIRS, BITS, lowest_first), sums(rng, 1000, BITS, lowest_first)
    loss, optimizer = {
        "package": (squared_loss, optax.sgd(RATE)),
        "Adam": (cross_entropy_loss, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))),
    }[how]
    per_epoch = PAIRS // BATCH
    fitted = network.train_seeds(
        partial(loss, cell), partial(draw_weights, cell), optimizer, data, seeds=seeds, steps=epochs * per_epoch, batch_size=BATCH,
        steps_per_execution=per_epoch, evaluate=partial(score, cell, test), evaluate_every=per_epoch,
    )  # fmt: skip
    told = " ".join(f"{share:.0%}" for share in fitted.evaluations["sums"][-1])
    print(f"{how}{', highest bit first' * (not lowest_first)}, {name}: {told} of sums right", flush=True)
    result: dict[str, Any] = {metric: fitted.evaluations[metric] for metric in ("wrong_bits", "sums")}
    result["epoch"] = fitted.evaluations["step"] // per_epoch
    if lowest_first:
        longer = {bits: sums(rng, 1000, bits) for bits in LENGTHS}
        result["sums_of_bits"] = {
            bits: jax.vmap(lambda params, task=task: score(cell, task, params)["sums"])(fitted.params)
            for bits, task in longer.items()
        }
    return result


def run(options: Options) -> Outcome:
    """Every cell, both orders, both ways to learn."""
    seeds = list(range(options.seed, options.seed + (1 if options.quick else 5)))
    cells = ["GRU"] if options.quick else list(CELLS)
    kinds = {
        "package": ("package", True, 3 if options.quick else 10),
        "package, highest bit first": ("package", False, 1 if options.quick else 10),
        "Adam": ("Adam", True, 3 if options.quick else 20),
    }
    results = {
        kind: {cell: learn(cell, how, first, seeds, epochs) for cell in cells} for kind, (how, first, epochs) in kinds.items()
    }
    last = lambda kind, cell, metric: np.asarray(results[kind][cell][metric][-1])
    summary = {
        "sums_right": {kind: {cell: last(kind, cell, "sums") for cell in cells} for kind in kinds},
        "wrong_bits": {kind: {cell: last(kind, cell, "wrong_bits") for cell in cells} for kind in kinds},
        "sums_right_of_bits": {cell: results["Adam"][cell]["sums_of_bits"] for cell in cells},
        "seeds": seeds,
    }
    return Outcome(summary, results, {"addition.png": draw_curves(results)})


def draw_curves(results: dict[str, Any]) -> plt.Figure:
    """Wrong bits by epoch."""
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

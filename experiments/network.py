"""The network that most experiments train: a recurrent cell with a linear read-out."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj
from experiments.common import ON_A_TERMINAL


class Params(NamedTuple):
    """The parameters of a cell and of its read-out."""

    cell: Any
    readout: gj.heads.DenseParams


def init(
    cell: Any, key: jax.Array, input_size: int, hidden_size: int, output_size: int, longest: int | None = None, **options: Any
) -> Params:
    """Draws the parameters of a network.

    Args:
        cell: The recurrent cell.
        key: A PRNG key.
        input_size: Size of the input of one step.
        hidden_size: Number of units.
        output_size: Number of outputs of the read-out.
        longest: If given, initialises the gate biases by `gj.initializers.chrono`, so that units
            remember for up to this many steps. Defaults to None, which keeps the cell's own
            initialisation.
        **options: Further arguments of `cell.init`.
    """
    key_cell, key_readout, key_gates = jax.random.split(key, 3)
    params = cell.init(key_cell, input_size, hidden_size, **options)
    if longest is not None:
        params = gj.initializers.chrono(key_gates, params, longest)
    return Params(params, gj.heads.init_dense(key_readout, hidden_size, output_size))


def logits(cell: Any, params: Params, xs: Any, **options: Any) -> jax.Array:
    """Returns the read-out after every step, `(B, T, K)` for `xs` of shape `(B, T, D)`.

    `options` are passed to `gj.unroll`.
    """
    _, hs = gj.unroll(cell, params.cell, xs, time_major=False, **options)
    return gj.heads.dense(params.readout, hs)


def last_logits(cell: Any, params: Params, xs: Any, **options: Any) -> jax.Array:
    """Returns the read-out of the last state, `(B, K)`.

    With `lengths`, that is the last valid step of each sequence.
    """
    h_last, _ = gj.unroll(cell, params.cell, xs, time_major=False, outputs="last", **options)
    return gj.heads.dense(params.readout, getattr(h_last, "h", h_last))


def count(params: Any) -> int:
    """Returns the number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def train_seeds(
    loss_fn: Callable[..., Any],
    draw: Callable[[jax.Array], Params],
    optimizer: optax.GradientTransformation,
    data: Any,
    *,
    seeds: Sequence[int],
    **options: Any,
) -> gj.train.FitResult:
    """Trains one network per seed, all in one compiled program.

    Args:
        loss_fn: The loss, as `gj.train.fit` takes it.
        draw: Returns initial parameters for a key.
        optimizer: An optax optimizer.
        data: The training data, as `gj.train.fit` takes it.
        seeds: The seeds. Each determines the initial parameters and the order of the batches.
        **options: Further arguments of the training function.
    """
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    key_draw, key_fit = jax.vmap(partial(jax.random.split, num=2), out_axes=1)(keys)
    params = jax.jit(jax.vmap(draw))(key_draw)
    return gj.train.fit_ensemble(loss_fn, params, optimizer, data, keys=key_fit, progress=ON_A_TERMINAL, **options)


def draw_lines(
    axes: plt.Axes, lines: Mapping[str, tuple[Any, np.ndarray]], baseline: tuple[str, float] | None = None, **labels: Any
) -> None:
    """Draws curves, with one colour for each name and one line for each seed.

    Args:
        axes: Where to draw.
        lines: A pair for each name: the positions x, and the values of shape `(len(x), seeds)`.
        baseline: Label and height of a dotted horizontal line. Defaults to no line.
        **labels: Further arguments of `axes.set`.
    """
    for colour, (name, (x, ys)) in enumerate(lines.items()):
        for i, y in enumerate(np.asarray(ys).T):
            axes.plot(x, y, color=f"C{colour}", label=name if i == 0 else None, alpha=0.8)
    if baseline is not None:
        axes.axhline(baseline[1], color="grey", linestyle=":", label=baseline[0])
    axes.set(**labels)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)

"""What most experiments train: a cell and its read-out, several seeds at once in one compiled program."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj


class Params(NamedTuple):
    """A cell's parameters and those of its read-out."""

    cell: Any
    readout: gj.heads.DenseParams


def init(
    cell: Any, key: jax.Array, input_size: int, hidden_size: int, output_size: int, longest: int | None = None, **options: Any
) -> Params:
    """Draws a network; with `longest` its gates remember for up to so many steps (`gj.initializers.chrono`)."""
    key_cell, key_readout, key_gates = jax.random.split(key, 3)
    params = cell.init(key_cell, input_size, hidden_size, **options)
    if longest is not None:
        params = gj.initializers.chrono(key_gates, params, longest)
    return Params(params, gj.heads.init_dense(key_readout, hidden_size, output_size))


def logits(cell: Any, params: Params, xs: Any, **options: Any) -> jax.Array:
    """The read-out after every step, `(B, T, K)` for `xs` `(B, T, D)`; `options` are those of `gj.unroll`."""
    _, hs = gj.unroll(cell, params.cell, xs, time_major=False, **options)
    return gj.heads.dense(params.readout, hs)


def last_logits(cell: Any, params: Params, xs: Any, **options: Any) -> jax.Array:
    """The read-out of the last state, `(B, K)`; with `lengths` of each sequence's own last."""
    h_last, _ = gj.unroll(cell, params.cell, xs, time_major=False, outputs="last", **options)
    return gj.heads.dense(params.readout, getattr(h_last, "h", h_last))


def count(params: Any) -> int:
    """How many numbers there are to learn."""
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
    """`gj.train.fit_ensemble` over seeds: a network for each, drawn by `draw(key)`; `options` are those of `fit_ensemble`."""
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    key_draw, key_fit = jax.vmap(partial(jax.random.split, num=2), out_axes=1)(keys)
    return gj.train.fit_ensemble(loss_fn, jax.jit(jax.vmap(draw))(key_draw), optimizer, data, keys=key_fit, **options)


def draw_lines(
    axes: plt.Axes, lines: Mapping[str, tuple[Any, np.ndarray]], baseline: tuple[str, float] | None = None, **labels: Any
) -> None:
    """A colour for each name and a line for each seed: `lines` holds x and `(len(x), seeds)`."""
    for colour, (name, (x, ys)) in enumerate(lines.items()):
        for i, y in enumerate(np.asarray(ys).T):
            axes.plot(x, y, color=f"C{colour}", label=name if i == 0 else None, alpha=0.8)
    if baseline is not None:
        axes.axhline(baseline[1], color="grey", linestyle=":", label=baseline[0])
    axes.set(**labels)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)

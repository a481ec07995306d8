"""The network of the polyphonic music experiment, and what "nats per frame" can mean.

    p(frame_t | frames before) = Π_k Bernoulli(y_tk; σ(h_t V + b_y)_k),   h_t from frames 1 … t−1, the first from a silent frame

The cost of a frame is summed over its 88 notes. Over frames there are four averages: of all frames pooled, or first within each piece
and then over pieces; and with or without each piece's first frame, which is predicted from nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax as gj
from experiments import network
from experiments.data import NOTES

SILENCE = -3.0  # the read-out's first biases: about four of 88 notes sound at once


class Model(NamedTuple):
    """What is trained; dropout: one mask per window for state and inputs (Gal and Ghahramani 2016), one per frame for outputs."""

    cell: gj.Cell
    units: int
    state: float = 0.0
    inputs: float = 0.0
    outputs: float = 0.0


class Averages(NamedTuple):
    """Nats per frame."""

    pooled: jax.Array  # over all predicted frames, first ones not counted: as TCN and most others
    pooled_first: jax.Array  # first ones counted: as Boulanger-Lewandowski et al.
    per_piece: jax.Array  # the mean over pieces of each one's mean
    per_piece_first: jax.Array


def init(model: Model, key: jax.Array, longest: int) -> network.Params:
    """A network that starts with few notes, and with gates, where it has some, that remember for up to so many frames."""
    gated = model.cell.name.startswith(("gru", "lstm"))
    params = network.init(model.cell, key, NOTES, model.units, NOTES, longest=longest if gated else None)
    return params._replace(readout=params.readout._replace(b_y=jnp.full(NOTES, SILENCE, jnp.float32)))


def expected(
    model: Model, params: network.Params, xs: jax.Array, h0: Any = None, *, key: jax.Array | None = None, **options: Any
) -> tuple[Any, jax.Array]:
    """The last state, and the logits of the 88 notes after each frame; with dropout where a key is given."""
    if key is None:
        h_last, hs = gj.unroll(model.cell, params.cell, xs, h0, time_major=False, **options)
    else:
        key, key_outputs = jax.random.split(key)
        cell = gj.variational_dropout(model.cell, inputs=model.inputs, state=model.state)
        h_last, hs = gj.unroll(cell, params.cell, xs, h0, time_major=False, key=key, **options)
        kept = jax.random.bernoulli(key_outputs, 1 - model.outputs, hs.shape)
        hs = jnp.where(kept, hs / (1 - model.outputs), 0)
    return h_last, gj.heads.dense(params.readout, hs)


def loss_fn(
    model: Model, params: network.Params, window: gj.train.WindowBatch, key: jax.Array, carry: Any
) -> tuple[jax.Array, dict, Any]:
    """Nats per frame of a window, all frames pooled, and the state after it."""
    before, frames = (part.astype(jnp.float32) for part in window.sequences)
    carry, logits = expected(model, params, before, carry, key=key, resets=window.resets, mask=window.mask)
    losses = gj.heads.sigmoid_binary_cross_entropy(logits, frames, window.mask)
    return losses.sum() / jnp.maximum(frames_of(window), 1), {}, carry


def frames_of(window: gj.train.WindowBatch) -> jax.Array:
    """What the loss of a window is a mean over."""
    return window.mask.sum()


def with_previous(piece: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frame before each one, silence before the first, and the frames."""
    return np.concatenate([np.zeros_like(piece[:1]), piece[:-1]]), piece


def losses(model: Model, params: network.Params, batch: gj.train.PaddedBatch) -> jax.Array:
    """Nats of every frame of whole pieces, `(B, T)`, 0 where there is none."""
    before, frames = (part.astype(jnp.float32) for part in batch.sequences)
    _, logits = expected(model, params, before, lengths=batch.lengths)
    return gj.heads.sigmoid_binary_cross_entropy(logits, frames, batch.mask)


def averages(batches: list[tuple[jax.Array, jax.Array]]) -> Averages:
    """The four, from `(losses (B, T), lengths (B,))` of batches that hold every piece once; a length of 0 is no piece."""
    whole = jnp.concatenate([losses.sum(1) for losses, _ in batches])
    first = jnp.concatenate([losses[:, 0] for losses, _ in batches])
    lengths = jnp.concatenate([lengths for _, lengths in batches])

    def per_piece(sums: jax.Array, counts: jax.Array) -> jax.Array:
        there = counts > 0
        return jnp.where(there, sums / jnp.maximum(counts, 1), 0).sum() / there.sum()

    after = jnp.maximum(lengths - 1, 0)
    return Averages(
        pooled=(whole - first).sum() / after.sum(),
        pooled_first=whole.sum() / lengths.sum(),
        per_piece=per_piece(whole - first, after),
        per_piece_first=per_piece(whole, lengths),
    )


def evaluate(model: Model, batches: list[gj.train.PaddedBatch], params: network.Params) -> Averages:
    """The network's averages over pieces it is not trained on."""
    return averages([(losses(model, params, batch), batch.lengths) for batch in batches])


def batches_of(pieces: list[np.ndarray], buckets: int = 4) -> list[gj.train.PaddedBatch]:
    """All pieces in a few batches of similar lengths."""
    source = gj.train.bucketed([with_previous(piece) for piece in pieces], -(-len(pieces) // buckets), num_buckets=buckets)
    return [batch for batch, _ in source.evaluation_batches()]

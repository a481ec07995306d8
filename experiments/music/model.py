"""The network of the polyphonic music experiment, its loss, and four averages over frames.

    p(frame_t | earlier frames) = Π_k Bernoulli(y_tk; σ(h_t V + b_y)_k)

The state h_t depends on the frames 1 … t−1, and the first state on a silent frame. The loss of a
frame is summed over its 88 notes. There are four ways to average over frames: over all frames
together, or first within each piece and then over pieces; each with or without the first frame of a
piece, which is predicted without any context.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax as gj
from experiments import network
from experiments.data import NOTES

SILENCE = -3.0  # initial biases of the read-out, with which about four of 88 notes sound at once


class Model(NamedTuple):
    """A network and its dropout rates.

    Attributes:
        cell: The recurrent cell.
        units: Number of units.
        state_dropout: Rate on the state, with one mask per window (Gal and Ghahramani 2016).
            Defaults to 0.
        input_dropout: Rate on the inputs, with one mask per window. Defaults to 0.
        output_dropout: Rate on the outputs, with one mask per frame. Defaults to 0.
    """

    cell: gj.Cell
    units: int
    state_dropout: float = 0.0
    input_dropout: float = 0.0
    output_dropout: float = 0.0


class Averages(NamedTuple):
    """Four averages of the nats per frame.

    Attributes:
        pooled: Over all frames except first ones, as Bai et al. 2018 and most others report.
        pooled_first: Over all frames, as Boulanger-Lewandowski et al. report.
        per_piece: The mean over pieces of each piece's mean, without first frames.
        per_piece_first: The mean over pieces of each piece's mean.
    """

    pooled: jax.Array
    pooled_first: jax.Array
    per_piece: jax.Array
    per_piece_first: jax.Array


def init(model: Model, key: jax.Array, longest: int) -> network.Params:
    """Draws a network that predicts few notes.

    Its gates, if it has any, remember for up to `longest` frames.
    """
    gated = model.cell.name.startswith(("gru", "lstm"))
    params = network.init(model.cell, key, NOTES, model.units, NOTES, longest=longest if gated else None)
    return params._replace(readout=params.readout._replace(b_y=jnp.full(NOTES, SILENCE, jnp.float32)))


def predict(
    model: Model, params: network.Params, xs: jax.Array, h0: Any = None, *, key: jax.Array | None = None, **options: Any
) -> tuple[Any, jax.Array]:
    """Returns the last state, and the logits of the 88 notes after each frame.

    Applies dropout if a key is given.
    """
    if key is None:
        h_last, hs = gj.unroll(model.cell, params.cell, xs, h0, time_major=False, **options)
    else:
        key, key_outputs = jax.random.split(key)
        cell = gj.variational_dropout(model.cell, inputs=model.input_dropout, state=model.state_dropout)
        h_last, hs = gj.unroll(cell, params.cell, xs, h0, time_major=False, key=key, **options)
        keep = 1 - model.output_dropout
        hs = jnp.where(jax.random.bernoulli(key_outputs, keep, hs.shape), hs / keep, 0)
    return h_last, gj.heads.dense(params.readout, hs)


def loss_fn(
    model: Model, params: network.Params, window: gj.train.WindowBatch, key: jax.Array, carry: Any
) -> tuple[jax.Array, dict, Any]:
    """Returns the nats per frame of a window, no metrics, and the state after the window."""
    before, frames = (part.astype(jnp.float32) for part in window.sequences)
    carry, logits = predict(model, params, before, carry, key=key, resets=window.resets, mask=window.mask)
    losses = gj.heads.sigmoid_binary_cross_entropy(logits, frames, window.mask)
    return losses.sum() / jnp.maximum(valid_frames(window), 1), {}, carry


def valid_frames(window: gj.train.WindowBatch) -> jax.Array:
    """Returns the number of valid frames of a window, which weights its loss."""
    return window.mask.sum()


def with_previous(piece: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inputs and the targets of a piece.

    The input of a frame is the frame before it, or silence for the first.
    """
    return np.concatenate([np.zeros_like(piece[:1]), piece[:-1]]), piece


def losses(model: Model, params: network.Params, batch: gj.train.PaddedBatch) -> jax.Array:
    """Returns the nats of every frame of whole pieces, `(B, T)`. Padding has a loss of 0."""
    before, frames = (part.astype(jnp.float32) for part in batch.sequences)
    _, logits = predict(model, params, before, lengths=batch.lengths)
    return gj.heads.sigmoid_binary_cross_entropy(logits, frames, batch.mask)


def averages(batches: list[tuple[jax.Array, jax.Array]]) -> Averages:
    """Computes the four averages.

    Args:
        batches: For each batch, the losses `(B, T)` and the lengths `(B,)`. The batches hold every
            piece once. Rows of length 0 are padding.
    """
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
    """Computes the four averages of a network over batches of pieces."""
    return averages([(losses(model, params, batch), batch.lengths) for batch in batches])


def batches_of(pieces: list[np.ndarray], buckets: int = 4) -> list[gj.train.PaddedBatch]:
    """Groups all pieces into batches of similar lengths."""
    source = gj.train.bucketed([with_previous(piece) for piece in pieces], -(-len(pieces) // buckets), num_buckets=buckets)
    return [batch for batch, _ in source.evaluation_batches()]

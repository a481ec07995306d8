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
    """What is trained, and with which dropout (each mask one per sequence, Gal and Ghahramani 2016, but for the outputs')."""

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


def init(model: Model, key: jax.Array) -> network.Params:
    """A network that starts with few notes."""
    params = network.init(model.cell, key, input_size=NOTES, hidden_size=model.units, output_size=NOTES)
    return params._replace(readout=params.readout._replace(b_y=jnp.full(NOTES, SILENCE, jnp.float32)))


def losses(model: Model, params: network.Params, batch: gj.train.Padded, key: jax.Array | None = None) -> jax.Array:
    """Nats of every frame, `(B, T)`, 0 where there is none; with dropout where a key is given."""
    frames = batch.sequences.astype(jnp.float32)
    xs = jnp.concatenate([jnp.zeros_like(frames[:, :1]), frames[:, :-1]], 1)
    if key is None:
        _, hs = gj.unroll(model.cell, params.cell, xs, time_major=False, lengths=batch.lengths)
    else:
        key, key_outputs = jax.random.split(key)
        cell = gj.variational_dropout(model.cell, inputs=model.inputs, state=model.state)
        _, hs = gj.unroll(cell, params.cell, xs, time_major=False, lengths=batch.lengths, key=key)
        kept = jax.random.bernoulli(key_outputs, 1 - model.outputs, hs.shape)
        hs = jnp.where(kept, hs / (1 - model.outputs), 0)
    return gj.heads.bernoulli_cross_entropy(gj.heads.dense(params.readout, hs), frames, batch.mask)


def loss_fn(model: Model, params: network.Params, batch: gj.train.Padded, key: jax.Array) -> tuple[jax.Array, dict]:
    """Nats per frame of the batch, all frames pooled."""
    return losses(model, params, batch, key).sum() / jnp.maximum(batch.mask.sum(), 1), {}


def averages(batches: list[tuple[jax.Array, jax.Array]]) -> Averages:
    """The four, from `(losses (B, T), lengths (B,))` of batches that hold every piece once, and nothing (length 0) as often as you like."""
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


def evaluate(model: Model, batches: list[gj.train.Padded], params: network.Params) -> Averages:
    """The network's averages over pieces it is not trained on."""
    return averages([(losses(model, params, batch), batch.lengths) for batch in batches])


def batches_of(pieces: list[np.ndarray], buckets: int = 4) -> list[gj.train.Padded]:
    """All pieces in a few batches of similar lengths."""
    source = gj.train.bucketed(pieces, -(-len(pieces) // buckets), buckets=buckets)
    return [batch for batch, _ in source.in_order()]


def describe(model: Model) -> dict[str, Any]:
    """For the record."""
    return {"units": model.units, "dropout": {"inputs": model.inputs, "state": model.state, "outputs": model.outputs}}

"""Samples pieces from the network, writes them as MIDI files, and draws them."""

import io

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import mido
import numpy as np

import gru_jax as gj
from experiments import network
from experiments.data import LOWEST_MIDI_NOTE, NOTES

TICKS_PER_BEAT = 480


def sample(cell: gj.Cell, params: network.Params, key: jax.Array, frames: int, opening: np.ndarray) -> np.ndarray:
    """Samples a piano roll `(frames, 88)` that starts with the frames of `opening`.

    Each further frame is drawn from the network's prediction after the frames before it.
    """
    first = jnp.zeros((frames, NOTES)).at[: len(opening)].set(opening)
    given = jnp.arange(frames) < len(opening)

    def step(carry, at_t):
        h, last = carry
        key, frame, is_given = at_t
        h, y = cell.step(params.cell, h, last)
        drawn = jax.random.bernoulli(key, jax.nn.sigmoid(gj.heads.dense(params.readout, y))).astype(jnp.float32)
        frame = jnp.where(is_given, frame, drawn)
        return (h, frame), frame

    start = (cell.initial_state(params.cell), jnp.zeros(NOTES))
    _, roll = jax.jit(lambda keys: jax.lax.scan(step, start, (keys, first, given)))(jax.random.split(key, frames))
    return np.asarray(roll, np.uint8)


def encode(roll: np.ndarray, frames_per_beat: float, beats_per_minute: float = 90) -> bytes:
    """Encodes a piano roll as a MIDI file. A note that sounds in consecutive frames is held."""
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(beats_per_minute))])
    per_frame = round(TICKS_PER_BEAT / frames_per_beat)
    before, written = np.zeros(NOTES, bool), 0
    for at, frame in enumerate([*roll.astype(bool), np.zeros(NOTES, bool)]):
        for note in np.flatnonzero(frame != before):  # a note_on without velocity ends a note
            velocity = 64 if frame[note] else 0
            number = int(note) + LOWEST_MIDI_NOTE
            track.append(mido.Message("note_on", note=number, velocity=velocity, time=at * per_frame - written))
            written = at * per_frame
        before = frame
    file = io.BytesIO()
    mido.MidiFile(tracks=[track], ticks_per_beat=TICKS_PER_BEAT).save(file=file)
    return file.getvalue()


def draw(rolls: dict[str, np.ndarray]) -> plt.Figure:
    """Draws piano rolls one above the other."""
    figure, all_axes = plt.subplots(
        len(rolls), 1, figsize=(11, 2.6 * len(rolls)), layout="constrained", sharex=True, squeeze=False
    )
    sounding = np.flatnonzero(sum(roll.sum(0) for roll in rolls.values()))
    low, high = sounding.min() - 2, sounding.max() + 3
    for axes, (name, roll) in zip(all_axes[:, 0], rolls.items(), strict=True):
        extent = (0, len(roll), low + LOWEST_MIDI_NOTE - 0.5, high + LOWEST_MIDI_NOTE - 0.5)
        axes.imshow(roll[:, low:high].T, aspect="auto", origin="lower", cmap="gray_r", interpolation="nearest", extent=extent)
        axes.set(title=name, ylabel="MIDI note")
    all_axes[-1, 0].set_xlabel("frame")
    return figure

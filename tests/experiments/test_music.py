"""Tests the music experiment: averages, causality, windows, dropout, samples and tables."""

import io
from functools import partial

import jax
import jax.numpy as jnp
import mido
import numpy as np
import pytest

import gru_jax as gj
from experiments import network
from experiments.data import NOTES
from experiments.music import midi, report
from experiments.music.model import (
    Averages,
    Model,
    averages,
    batches_of,
    evaluate,
    init,
    loss_fn,
    losses,
    predict,
    with_previous,
)
from experiments.polyphonic_music import UNITS
from tests.problems import compiled

KEY = jax.random.key(0)
MODEL = Model(gj.gru(), 6, state_dropout=0.3, input_dropout=0.2, output_dropout=0.4)
WITHOUT_DROPOUT = Model(gj.gru(), 6)
losses_of = jax.jit(losses, static_argnums=0)


def pieces(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.random((T, NOTES)) < 0.05).astype(np.uint8) for T in lengths]


def test_averages_equal_a_loop_over_pieces():
    rng = np.random.default_rng(0)
    lengths = [5, 0, 3, 7, 2, 0]  # rows of length 0 are padding
    costs = [rng.random(T) for T in lengths]
    rows = np.stack([np.pad(cost, (0, 7 - len(cost))) for cost in costs])
    found = averages([(jnp.asarray(rows[:4]), jnp.asarray(lengths[:4])), (jnp.asarray(rows[4:]), jnp.asarray(lengths[4:]))])
    real = [cost for cost in costs if len(cost)]
    expected = Averages(
        pooled=np.concatenate([cost[1:] for cost in real]).mean(),
        pooled_first=np.concatenate(real).mean(),
        per_piece=np.mean([cost[1:].mean() for cost in real]),
        per_piece_first=np.mean([cost.mean() for cost in real]),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len({round(float(value), 4) for value in found}) == 4


@pytest.mark.slow
def test_network_that_knows_only_frequencies_has_the_loss_of_the_note_1gram():
    from experiments.music.baselines import note_1gram

    train, test = pieces(9, 12, seed=1), pieces(5, 8, 3, seed=2)
    frames = np.concatenate(train)
    chances = (frames.sum(0) + 0.5) / (len(frames) + 1)
    zero = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda key: init(MODEL, key, 9), KEY))
    params = zero._replace(readout=zero.readout._replace(b_y=jnp.asarray(np.log(chances / (1 - chances)))))
    found = compiled(partial(evaluate, MODEL, batches_of(test, buckets=2)), params)
    assert float(found.pooled_first) == pytest.approx(note_1gram(train, test), rel=1e-5)


def test_predictions_depend_only_on_earlier_frames():
    params, (piece,) = init(MODEL, KEY, 9), pieces(9)
    changed = piece.copy()
    changed[4] = 1 - changed[4]
    before, after = (losses_of(MODEL, params, batches_of([one], buckets=1)[0])[0] for one in (piece, changed))
    np.testing.assert_array_equal(before[:4], after[:4])
    assert (np.asarray(before != after)[4:]).all()


def test_padding_has_no_loss_and_a_piece_has_the_same_loss_in_any_batch():
    params, both = init(MODEL, KEY, 9), pieces(9, 6)
    (batch,) = batches_of(both, buckets=1)
    together = losses_of(MODEL, params, batch)
    assert not np.asarray(together)[np.asarray(~batch.mask)].any()
    alone = losses_of(MODEL, params, batches_of(both[1:], buckets=1)[0])
    np.testing.assert_allclose(alone[0], together[0, :6], rtol=1e-5)  # the shorter piece comes first


def test_windows_with_carried_states_have_the_loss_of_whole_pieces():
    model = WITHOUT_DROPOUT
    params, both = init(model, KEY, 9), pieces(9, 6, 14)
    source = gj.train.windows([with_previous(piece) for piece in both], 2, 4)
    carry, total, frames = model.cell.initial_state(params.cell, 2), 0.0, 0
    loss_of = jax.jit(partial(loss_fn, model))
    for window in source.evaluation_batches():
        loss, _, carry = loss_of(params, window, KEY, carry)
        total, frames = total + float(loss) * int(window.mask.sum()), frames + int(window.mask.sum())
    assert frames == 29  # the first stream has two pieces, the second one piece
    whole = sum(float(losses_of(model, params, batch).sum()) for batch in batches_of(both, buckets=1))
    assert total == pytest.approx(whole, rel=1e-5)


def test_dropout_is_applied_only_if_a_key_is_given():
    params, xs = init(MODEL, KEY, 9), jnp.asarray(np.stack(pieces(9, 9)), jnp.float32)

    def results(params, xs):
        of_seeds = [predict(MODEL, params, xs, key=jax.random.key(seed))[1] for seed in (0, 1)]
        of_neither = [predict(MODEL, params, xs)[1] for _ in range(2)]
        return *of_seeds, *of_neither, predict(WITHOUT_DROPOUT, params, xs, key=KEY)[1]

    one, two, without_key, again, without_dropout = compiled(results, params, xs)
    np.testing.assert_array_equal(without_key, again)
    assert np.abs(one - two).max() > 1e-3
    np.testing.assert_allclose(without_dropout, without_key, rtol=1e-6)


def test_units_have_the_numbers_of_parameters_of_the_table():
    count = lambda make: network.count(jax.eval_shape(make, KEY))
    sizes = {unit: count(partial(init, Model(cell, units), longest=9)) for unit, (cell, units) in UNITS.items()}
    assert sizes == {"tanh RNN": 27_788, "GRU": 22_766, "LSTM": 21_364}
    # The 20,100, 20,200 and 19,800 of the paper are for the recurrent layer alone, with 100 inputs.
    of_layer = {
        unit: count(lambda key, cell=cell, units=units: cell.init(key, 100, units)) for unit, (cell, units) in UNITS.items()
    }
    assert {unit: round(size / 1000, 1) for unit, size in of_layer.items()} == {"tanh RNN": 20.1, "GRU": 20.3, "LSTM": 19.8}


def test_sample_continues_its_opening():
    params = init(MODEL, KEY, 9)
    (opening,) = pieces(4, seed=3)
    roll = midi.sample(MODEL.cell, params, KEY, 30, opening)
    assert (roll.shape, roll.dtype) == ((30, NOTES), np.uint8)
    np.testing.assert_array_equal(roll[:4], opening)
    assert 0 < roll[4:].mean() < 0.5
    other = midi.sample(MODEL.cell, params, jax.random.key(1), 30, opening)
    assert (roll[4:] != other[4:]).any()


def test_midi_file_holds_the_notes_of_the_roll():
    (roll,) = pieces(12, seed=4)
    roll[3:7, 40], roll[-2:, 50], roll[0, 0], roll[5, 87] = 1, 1, 1, 1
    file = mido.MidiFile(file=io.BytesIO(midi.encode(roll, frames_per_beat=2)))
    per_frame = file.ticks_per_beat // 2
    read, at, sounding = np.zeros_like(roll), 0, set()
    for message in file.tracks[0]:
        for frame in range(at // per_frame, (at + message.time) // per_frame):
            read[frame, list(sounding)] = 1
        at += message.time
        if message.type == "note_on":
            (sounding.add if message.velocity else sounding.discard)(message.note - 21)
    assert not sounding
    np.testing.assert_array_equal(read, roll)


def test_table_has_every_unit_with_its_averages_and_the_published_numbers():
    run = lambda value: {split: dict.fromkeys(report.AVERAGES, value) for split in ("train", "valid", "test")}
    found = {"units": 46, "parameters": 22766, "runs": [run(8.0), run(9.0)], "tried": {"one way": 8.5, "another": 8.25}}
    text = report.table({"JSB Chorales": {"GRU": found}}, {"JSB Chorales": {"note 1-gram": 11.06}})
    assert "| GRU, 46 units, 22,766 parameters | 8.50 (8.00 – 9.00) |" in text
    assert "| 8.54 |" in text
    assert "- GRU: one way 8.500, another 8.250" in text
    assert "TCN, Bai et al. 2018 | 8.10 |" in text
    assert "RNN, BL | | 8.71 |" in text
    assert "note 1-gram, computed here as BL do | | 11.06 |" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {8}

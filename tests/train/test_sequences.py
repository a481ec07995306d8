"""Buckets and windows drop no step, and have exact masks. Their order depends on key and epoch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from gru_jax.train.batch_sources import Shard
from tests import reference
from tests.problems import assert_raises, on_host
from tests.train.problem import KEY, counted

RNG = np.random.default_rng(0)
LENGTHS = [3, 9, 1, 4, 7, 7, 2, 12, 5, 0, 6]
D, H = 2, 5
SEQUENCES = [(RNG.normal(size=(length, D)).astype(np.float32), np.arange(length)) for length in LENGTHS]
LABELS = [np.float32(i) for i in range(len(LENGTHS))]
CELL = gj.gru()


def source(batch_size=4, num_buckets=3, **options):
    return gj.train.bucketed(SEQUENCES, batch_size, labels=LABELS, num_buckets=num_buckets, **options)


def batches(data, key, start, steps):
    """Makes the batches of these steps as `fit` does."""
    found = data.step_indices(key, start, steps)
    makers = data.batch_makers()
    return [makers[b].make(data.bucket_data[b], rows, key, Shard()) for b, rows in zip(*found, strict=True)]


@pytest.mark.parametrize(("batch_size", "buckets"), [pytest.param(1, 20, marks=pytest.mark.slow), (4, 3), (30, 1)])
def test_every_epoch_contains_each_whole_sequence_once_with_its_label(batch_size, buckets):
    data = source(batch_size, buckets)
    for epoch in range(3):
        seen = []
        for batch in on_host(batches(data, KEY, epoch * data.batches_per_epoch, data.batches_per_epoch)):
            xs, times = batch.sequences
            for b, length in enumerate(batch.lengths):
                if not batch.mask[b].any() and float(batch.labels[b]) != LENGTHS.index(0):
                    assert length == 0
                    continue
                i = int(batch.labels[b])
                seen.append(i)
                assert length == LENGTHS[i]
                np.testing.assert_array_equal(batch.mask[b], np.arange(xs.shape[1]) < length)
                np.testing.assert_array_equal(xs[b, :length], SEQUENCES[i][0])
                np.testing.assert_array_equal(times[b, :length], SEQUENCES[i][1])
                assert not xs[b, length:].any()
        # sequences that fill a batch have label 0 too, but length 0
        assert sorted(seen) == [i for i in range(len(LENGTHS))]


def test_the_order_depends_only_on_the_key_and_the_epoch():
    data = source()
    each = data.batches_per_epoch
    rows = lambda key, start, steps: [np.asarray(part) for part in data.step_indices(key, start, steps)]
    for start in (0, 1, each - 1, each, 2 * each + 1):
        for part, again in zip(rows(KEY, 0, 4 * each), rows(KEY, start, each), strict=True):
            np.testing.assert_array_equal(part[start : start + each], again)
    first, second = rows(KEY, 0, each), rows(KEY, each, each)
    assert not all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (np.diff(first[0]) < 0).any()  # the buckets take turns
    assert not all((a == b).all() for a, b in zip(first, rows(jax.random.key(1), 0, each), strict=True))


def test_bucket_shapes_follow_from_the_lengths_and_pad_to():
    assert source(num_buckets=1).bucket_shapes == [(11, 12)]
    assert source(num_buckets=3).bucket_shapes == [(4, 3), (4, 7), (3, 12)]
    assert source(num_buckets=3, pad_to=20).bucket_shapes == [(4, 3), (4, 7), (3, 20)]


def loss_fn(params, batch, key):
    """Returns the mean over all valid steps of the batch."""
    xs, _ = batch.sequences
    _, hs = gj.unroll(CELL, params, xs, lengths=batch.lengths, time_major=False)
    losses = gj.heads.squared_error(hs, jnp.ones_like(hs), batch.mask)
    return losses.sum() / jnp.maximum(batch.mask.sum(), 1), {"steps": batch.mask.sum()}


@pytest.mark.slow
def test_training_on_buckets_compiles_once_per_shape_and_learns():
    counting, traces = counted(loss_fn)
    data = source(num_buckets=3)
    params = CELL.init(KEY, D, H)
    run = partial(gj.train.fit, counting, params, optax.adam(1e-2), data, key=KEY, steps_per_execution=7)
    fitted = run(steps=60)
    run(steps=45)
    assert len(traces) == 3
    assert fitted.history["loss"][-8:].mean() < 0.7 * fitted.history["loss"][:8].mean()
    assert fitted.history["steps"][: data.batches_per_epoch].sum() == sum(LENGTHS)


def test_a_padded_batch_has_the_loss_of_its_sequences_without_padding():
    params = CELL.init(KEY, D, H)
    for batch in batches(source(), KEY, 0, 2):
        total = 0.0
        for b, length in enumerate(np.asarray(batch.lengths)):
            xs = np.asarray(batch.sequences[0])[b, :length, None]
            _, hs, _ = reference.unroll("gru", params, xs, np.zeros((1, H)))
            total += ((hs - 1) ** 2).sum()
        np.testing.assert_allclose(float(loss_fn(params, batch, KEY)[0]) * float(batch.mask.sum()), total, rtol=1e-5)


def test_evaluation_batches_contain_every_sequence_once_with_its_index():
    indices = []
    for batch, batch_indices in source(batch_size=3).evaluation_batches():
        for b, i in enumerate(batch_indices):
            if i >= 0:
                indices.append(int(i))
                assert int(batch.labels[b]) == i
                assert int(batch.lengths[b]) == LENGTHS[i]
            else:
                assert not batch.mask[b].any()
    assert sorted(indices) == list(range(len(LENGTHS)))


# Windows


def numbered_sequences(*lengths):
    """Makes sequences whose entry at each step is 100 · (index of the sequence) + step."""
    return [np.array([100 * p + t for t in range(length)], np.int32) for p, length in enumerate(lengths)]


def test_windows_follow_each_other_in_every_stream_and_no_step_is_dropped():
    data = gj.train.windows(numbered_sequences(13, 0, 9), 2, 4)
    assert data.windows_per_epoch == 3
    _, numbers = data.step_indices(KEY, 2, 5)
    assert numbers.tolist() == [2, 0, 1, 2, 0]
    made = [
        data.batch_makers()[0].make(jax.tree.map(jnp.asarray, data.bucket_data[0]), number, KEY, Shard()) for number in range(3)
    ]
    jax.tree.map(np.testing.assert_array_equal, list(data.evaluation_batches()), made)
    rows = np.concatenate([window.sequences for window in made], 1)
    mask = np.concatenate([window.mask for window in made], 1)
    resets = np.concatenate([window.resets for window in made], 1)
    expected = np.concatenate(numbered_sequences(13, 0, 9))
    assert rows[mask].tolist() == expected.tolist()
    assert mask.sum(1).tolist() == [11, 11]
    assert rows[0][:11].tolist() == list(range(11))
    # the start of both streams, and of the sequence of 9 steps within the second stream
    np.testing.assert_array_equal(np.argwhere(resets), [[0, 0], [1, 0], [1, 2]])


def test_windows_with_a_carry_equal_one_long_unroll():
    """With a learning rate of 0, the losses of the windows sum to that of the whole sequences."""
    rng = np.random.default_rng(1)
    data = [(rng.normal(size=(length, D)).astype(np.float32),) for length in (13, 9)]
    params = CELL.init(KEY, D, H)

    def window_loss(params, batch, key, carry):
        (xs,) = batch.sequences
        h_last, hs = gj.unroll(CELL, params, xs, carry, resets=batch.resets, mask=batch.mask, time_major=False)
        return jnp.where(batch.mask[..., None], hs, 0).sum(), {}, h_last

    source = gj.train.windows(data, 1, 4)
    run = partial(gj.train.fit, window_loss, params, optax.sgd(0.0), source, key=KEY, carry=CELL.initial_state(params, 1))
    fitted = run(steps=12)  # two epochs; the second one starts with a reset
    alone = sum(float(gj.unroll(CELL, params, xs)[1].sum()) for (xs,) in data)
    np.testing.assert_allclose(fitted.history["loss"][:6].sum(), alone, rtol=1e-4)
    np.testing.assert_allclose(fitted.history["loss"][6:], fitted.history["loss"][:6], rtol=1e-5)
    assert fitted.carry.shape == (1, H)
    assert jnp.abs(fitted.carry).max() > 0


def test_the_carry_survives_a_resume_and_microbatches(tmp_path):
    rng = np.random.default_rng(1)
    source = gj.train.windows([rng.normal(size=(60, D)).astype(np.float32)], 4, 5)
    params = CELL.init(KEY, D, H)

    def window_loss(params, batch, key, carry):
        h_last, hs = gj.unroll(CELL, params, batch.sequences, carry, resets=batch.resets, mask=batch.mask, time_major=False)
        return ((hs - 1) ** 2).mean(), {}, h_last

    run = partial(gj.train.fit, window_loss, params, optax.adam(1e-2), source, key=KEY, carry=CELL.initial_state(params, 4))
    whole = run(steps=8)
    run(steps=5, checkpoint_dir=tmp_path)
    resumed = run(steps=8, checkpoint_dir=tmp_path)
    for ours, theirs in zip(
        jax.tree.leaves((*resumed[:2], resumed.carry)), jax.tree.leaves((*whole[:2], whole.carry)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    in_parts = run(steps=8, grad_accumulation_steps=2)
    np.testing.assert_allclose(in_parts.carry, whole.carry, atol=1e-5)


@pytest.mark.slow
def test_buckets_and_windows_train_under_strict_dtype_and_rank_promotion():
    """The model has one weight for each feature."""

    def bucket_loss(w, batch, key):
        losses = gj.heads.squared_error(batch.sequences[0] * w[None, None], jnp.ones_like(batch.sequences[0]), batch.mask)
        return losses.sum() / jnp.maximum(batch.mask.sum(), 1).astype(losses.dtype), {}

    def window_loss(w, batch, key, carry):
        return jnp.square(batch.sequences * w[None, None] - carry[:, None]).mean(), {}, batch.sequences[:, -1]

    w, windows = jnp.ones(D, jnp.float32), gj.train.windows([xs for xs, _ in SEQUENCES], 2, 4)
    run = lambda: (
        gj.train.fit(bucket_loss, w, optax.sgd(1e-2), source(), key=KEY, steps=5).params,
        gj.train.fit(window_loss, w, optax.sgd(0.1), windows, key=KEY, steps=5, carry=jnp.zeros((2, D), jnp.float32)).params,
    )
    expected = run()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = run()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


BAD = {
    "no sequence": (lambda: gj.train.bucketed([], 2), ValueError, "sequences: got none"),
    "scalars": (lambda: gj.train.bucketed([np.float32(3)], 2), TypeError, r"sequences\[0\]: got float32, expected arrays with a leading time axis"),
    "two lengths": (lambda: gj.train.bucketed([(np.ones(3), np.ones(4))], 2), ValueError, r"sequences\[0\]: got arrays of \[3, 4\] steps"),
    "labels": (lambda: gj.train.bucketed(SEQUENCES, 2, labels=LABELS[:3]), ValueError, "labels: got 3 for 11 sequences"),
    "batch size": (lambda: source(batch_size=0), ValueError, "batch_size: got 0"),
    "buckets": (lambda: source(num_buckets=0), ValueError, "num_buckets: got 0"),
    "pad to": (lambda: source(pad_to=5), ValueError, r"pad_to: got 5, expected at least 12, the length of sequences\[7\]"),
    "batch size of fit": (lambda: gj.train.fit(loss_fn, CELL.init(KEY, D, H), optax.sgd(1.0), source(), key=KEY, steps=1, batch_size=3), ValueError, "batch_size: got 3 for bucketed or windowed data.*expected None"),
    "streams": (lambda: gj.train.windows(numbered_sequences(3), 4, 2), ValueError, "sequences: got 3 time steps in total, expected at least 4"),
    "buckets as a float": (lambda: source(num_buckets=2.0), TypeError, r"num_buckets: got 2.0 \(float\), expected an integer"),
    "streams as a bool": (lambda: gj.train.windows(numbered_sequences(9), True, 2), TypeError, r"batch_size: got True \(bool\), expected an integer"),
    "window": (lambda: gj.train.windows(numbered_sequences(9), 2, 0), ValueError, "window: got 0"),
    "a number": (lambda: gj.train.windows([3], 2, 2), TypeError, r"sequences\[0\]: got int"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    assert_raises(*BAD[case])

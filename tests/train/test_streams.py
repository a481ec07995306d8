"""Streamed data: its order, prefetching, its position in checkpoints, and what cannot be resumed."""

import itertools
import os
import signal
import threading
import time
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from gru_jax.train.batch_streams import decoded, encoded
from tests.problems import assert_raises
from tests.train.problem import KEY, OPTIMIZER, D, T, digests, init_readout, readout_loss_fn


def batch(number, size=4):
    xs = np.random.default_rng(number).integers(0, 2, (size, T, D)).astype(np.float32)
    return xs, xs.sum((1, 2))[:, None]


class LikeGrain:
    """A loader whose iterators have a position, in bytes."""

    def __iter__(self):
        return GrainIterator()


class GrainIterator:
    def __init__(self):
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == 7:
            raise StopIteration
        self.taken += 1
        return batch(self.taken)

    def get_state(self):
        return str(self.taken).encode()

    def set_state(self, state):
        self.taken = int(state)


class LikeTorchdata:
    """A loader that has a position, and another order in each epoch."""

    def __init__(self):
        self.epoch, self.taken = 0, 0

    def __iter__(self):
        while self.taken < 7:
            self.taken += 1
            yield batch(np.random.default_rng(self.epoch).permutation(7)[self.taken - 1])
        self.epoch, self.taken = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": np.int64(self.epoch), "taken": (self.taken, None), 3: {"noise": np.arange(2, dtype=np.uint8)}}

    def load_state_dict(self, state):
        assert state[3]["noise"].dtype == np.uint8
        self.epoch, (self.taken, _) = int(state["epoch"]), state["taken"]


def plain_loop(all_batches, steps):
    """Returns the losses of a plain loop over batches."""

    @jax.jit
    def step(params, state, batch):
        (loss, _), grads = jax.value_and_grad(quiet, has_aux=True)(params, batch, None)
        updates, state = OPTIMIZER.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params, state, losses = init_readout(), OPTIMIZER.init(init_readout()), []
    for batch in itertools.islice(all_batches, steps):
        params, state, loss = step(params, state, batch)
        losses.append(loss)
    return np.array(losses)


def quiet(params, batch, key):
    return readout_loss_fn(params, batch, jax.random.key(1))


def fit(data, steps, loss=quiet, **options):
    return gj.train.fit(loss, init_readout(), OPTIMIZER, data, key=KEY, steps=steps, **options)


SIZES = (4, 4, 4, 3, 4, 2, 2)  # of the batches of an epoch
BATCHES = [batch(number, size) for number, size in enumerate(SIZES)]
LOSSES = plain_loop(itertools.cycle(BATCHES), 17)


class Reiterable:
    def __iter__(self):
        return (batch for batch in BATCHES)


@pytest.mark.parametrize(
    "make", [lambda: iter(itertools.cycle(BATCHES)), lambda: BATCHES, Reiterable], ids=["iterator", "list", "iterable"]
)
def test_the_batches_are_used_in_order_whatever_their_shapes_and_the_schedule(make):
    """An execution ends before a batch of another shape, at an evaluation and at a new epoch."""
    ends = []
    result = fit(make(), 17, steps_per_execution=3, callbacks=[lambda info: ends.append(info.step)])
    np.testing.assert_allclose(result.history["loss"], LOSSES, rtol=1e-4)
    assert ends == [3, 4, 5, 7, 10, 11, 12, 14, 17]
    evaluated = fit(make(), 17, steps_per_execution=3, evaluate=lambda params: {"V": params.V.sum()}, evaluate_every=2)
    np.testing.assert_allclose(evaluated.history["loss"], LOSSES, rtol=1e-4)
    assert evaluated.evaluations["step"].tolist() == [*range(0, 17, 2), 17]


def test_each_batch_shape_is_compiled_once():
    traces = []

    def counting(params, batch, key):
        traces.append(batch[0].shape)
        return quiet(params, batch, key)

    fit(iter(itertools.cycle(BATCHES)), 14, counting, steps_per_execution=3)
    assert sorted(set(traces)) == [(2, T, D), (3, T, D), (4, T, D)]
    before = len(traces)
    fit(BATCHES, 17, counting, steps_per_execution=3)
    assert len(traces) == before


@pytest.mark.parametrize(
    "make",
    [LikeGrain, lambda: iter(LikeGrain()), LikeTorchdata, lambda: BATCHES[:3]],
    ids=["grain", "iterator", "torchdata", "list"],
)
def test_a_run_resumes_bit_for_bit_at_the_position_of_its_data(make, tmp_path):
    """Prefetches beyond the position. The last run begins a new epoch, except with an iterator."""
    run = partial(fit, loss=readout_loss_fn, steps_per_execution=4, save_every=3)
    steps = 7 if isinstance(make(), GrainIterator) else 16
    straight = run(make(), steps, checkpoint_dir=tmp_path / "straight")
    for end in (end for end in (3, 5, 7, 12, 16) if end <= steps):
        resumed = run(make(), end, checkpoint_dir=tmp_path / "resumed")
    assert digests(resumed) == digests(straight)
    assert len(set(resumed.history["loss"].tolist())) == steps  # as no batch is used twice in the same state


def test_the_position_is_right_where_the_next_batch_has_another_shape(tmp_path):
    """The next batch has been taken, but not used, when the callback stops the run after 3 steps."""
    run = partial(fit, BATCHES, steps_per_execution=4, checkpoint_dir=tmp_path)
    assert run(6, callbacks=[lambda info: True]).steps == 3
    np.testing.assert_allclose(run(6).history["loss"], LOSSES[:6], rtol=1e-4)


def test_data_without_a_position_warns_and_is_not_resumed(tmp_path):
    generator = lambda: (batch(number) for number in itertools.count())
    with pytest.warns(
        UserWarning, match="data: got generator, with which this run cannot be resumed, because it has neither get_state"
    ):
        fit(generator(), 6, checkpoint_dir=tmp_path, save_every=2)
    ways_out = (
        r"data: got generator, whose position in .* is not known after 6 steps, .*grain or torchdata.*gj\.train\.load_params"
    )
    assert_raises(lambda: fit(generator(), 9, checkpoint_dir=tmp_path), ValueError, ways_out)
    assert fit(generator(), 6, checkpoint_dir=tmp_path).steps == 6  # nothing is left to do
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(generator(), 6)


def test_data_of_another_kind_is_refused(tmp_path):
    fit(LikeGrain(), 3, checkpoint_dir=tmp_path / "grain")
    other = r"source: 'LikeGrain' in the checkpoint, 'LikeTorchdata' in this call"
    assert_raises(lambda: fit(LikeTorchdata(), 5, checkpoint_dir=tmp_path / "grain"), ValueError, other)
    fit(BATCHES, 3, checkpoint_dir=tmp_path / "list")
    other = r"batches: 'sha256:\w+' in the checkpoint, 'sha256:\w+' in this call"
    assert_raises(lambda: fit(BATCHES[::-1], 5, checkpoint_dir=tmp_path / "list"), ValueError, other)


def test_batches_are_taken_ahead_while_training_but_never_more_than_there_are_steps():
    taken, ahead = [], []

    def generate():
        for number in itertools.count():
            taken.append(number)
            yield batch(number)

    def look(info):
        deadline = time.monotonic() + 10
        while len(taken) < min(info.step + 2, 9) and time.monotonic() < deadline:
            time.sleep(0.01)
        ahead.append(len(taken) - info.step)

    fit(generate(), 9, steps_per_execution=2, callbacks=[look])
    assert min(ahead[:-1]) >= 2 - (9 % 2)
    assert ahead[-1] == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "gru_jax batches"]


def test_batches_beyond_64_mib_are_not_transferred_together():
    sizes = []
    wide = lambda: ({"x": np.zeros((2, 2**22 + number), np.float32)[:, : 2**22]} for number in range(5))  # 32 MiB each
    loss_fn = lambda params, batch, key: (params**2 + batch["x"][0, 0], {})
    gj.train.fit(
        loss_fn,
        jnp.float32(1),
        optax.sgd(0.1),
        wide(),
        key=KEY,
        steps=5,
        callbacks=[lambda info: sizes.append(len(info.metrics["loss"]))],
    )
    assert sizes == [2, 2, 1]


def test_training_stops_where_the_data_ends():
    evaluate = lambda params: {"V": params.V.sum()}
    result = fit(iter(BATCHES), 20, steps_per_execution=3, evaluate=evaluate)
    assert (result.steps, result.stop_reason) == (7, "data")
    assert result.evaluations["step"].tolist() == [0, 7]
    np.testing.assert_allclose(result.history["loss"], LOSSES[:7], rtol=1e-4)
    assert fit(iter(BATCHES), 7, steps_per_execution=3).stop_reason is None


def test_an_error_of_the_data_is_raised_as_it_is_and_ends_the_thread():
    def generate():
        yield from BATCHES[:2]
        raise KeyError("file 3")

    with pytest.raises(KeyError, match="file 3") as caught:
        fit(generate(), 9)
    assert "generate" in [frame.name for frame in caught.traceback]
    assert not [thread for thread in threading.enumerate() if thread.name == "gru_jax batches"]


def test_a_signal_ends_a_run_that_waits_for_data(tmp_path):
    used, ended = threading.Event(), threading.Event()

    class Slow(LikeTorchdata):
        def __iter__(self):
            for number, each in enumerate(super().__iter__()):
                if number == 5:
                    used.wait(20)
                    time.sleep(0.5)
                    os.kill(os.getpid(), signal.SIGTERM)
                    ended.wait(20)
                yield each

    began = time.monotonic()
    callbacks = [lambda info: info.step == 5 and used.set()]
    with pytest.raises(SystemExit) as caught:
        fit(Slow(), 9, steps_per_execution=1, checkpoint_dir=tmp_path, callbacks=callbacks)
    ended.set()
    assert caught.value.code == 143
    assert time.monotonic() - began < 30
    assert [path.name[:17] for path in tmp_path.glob("step_*")] == ["step_000000000005"]


def test_an_ensemble_and_a_carry_take_streams():
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), init_readout())
    run = partial(gj.train.fit_ensemble, quiet, both, OPTIMIZER, keys=jax.random.split(KEY), steps=3)
    result = run(BATCHES[:3])
    np.testing.assert_allclose(result.history["loss"], np.stack([LOSSES[:3]] * 2, 1), rtol=1e-4)

    def counting(params, batch, key, carry):
        return quiet(params, batch, key)[0], {"carry": carry.sum()}, carry + batch[0].shape[0]

    carried = fit(BATCHES[:3], 5, counting, carry=jnp.zeros(4))
    assert carried.history["carry"].tolist() == [0, 16, 32, 48, 64]


STATE = {
    "a": [1, 2.5, None, True, "ü", 2**70],
    7: (b"\0\xff", ()),
    "arrays": {"x": np.arange(6.0).reshape(2, 3).T},
    "n": np.int8(3),
}


def test_a_position_becomes_json_and_back():
    import json

    found = decoded(json.loads(json.dumps(encoded(STATE))))
    assert found.keys() == STATE.keys()
    assert found["a"] == STATE["a"]
    assert found[7] == STATE[7]
    np.testing.assert_array_equal(found["arrays"]["x"], STATE["arrays"]["x"])
    assert (found["n"], found["n"].dtype) == (3, np.int8)
    assert_raises(lambda: encoded({"a": [object()]}), TypeError, r"data: got a state with object, expected numbers, strings")


def changing():
    yield batch(0)
    yield {"xs": batch(0)}


BAD = {
    "a list of arrays": (lambda: fit([batch(0)[0], batch(1)[0]], 2), TypeError, r"data: got a list of 2 arrays, expected a tuple such as \(xs, ys\).*iter\(data\)"),
    "batch size": (lambda: fit(iter(BATCHES), 2, batch_size=4), ValueError, r"batch_size: got 4 for an iterable, which yields whole batches, expected None"),
    "no batches": (lambda: fit(range(0), 2), ValueError, r"data: got range, which yields no batches"),
    "strings": (lambda: fit([{"x": "a"}], 2), TypeError, r"data: got str at \['x'\] of batch 0, expected an array of numbers"),
    "objects": (lambda: fit([(batch(0)[0], object())], 2), TypeError, r"data: got object at \[1\] of batch 0"),
    "an empty batch": (lambda: fit(iter([()]), 2), TypeError, r"data: got tuple without arrays as batch 0"),
    "another structure": (lambda: fit(changing(), 2), ValueError, r"data: got batch 1 with the structure .*'xs'.*, expected PyTreeDef\(\(\*, \*\)\)"),
    "a string": (lambda: fit("data", 2), TypeError, r"data: got str, expected arrays whose leading axis counts examples, an iterable of batches"),
    "an empty list": (lambda: fit([], 2), TypeError, r"data: got list, expected arrays"),
    "NaN": (lambda: fit([tuple(np.full_like(leaf, np.nan) for leaf in batch(0))], 9, max_consecutive_nonfinite=3), FloatingPointError, r"the batch was number 2 of data, counted from 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data_raises(case):
    assert_raises(*BAD[case])

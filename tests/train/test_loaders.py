"""Loaders of grain and PyTorch: trained on as they are, and resumed at their position.

The extra `peers` installs them. The tests of a missing library are skipped, unless GRU_JAX_PEERS=1
is set, as in CI.
"""

import importlib
import os
import warnings
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from tests.train.problem import KEY, digests

XS = np.random.default_rng(0).normal(size=(26, 3)).astype(np.float32)
SAVED_EVERY = 3


def library(name):
    return importlib.import_module(name) if os.environ.get("GRU_JAX_PEERS", "0") != "0" else pytest.importorskip(name)


def loss_fn(params, batch, key):
    xs, _ = batch
    return ((params - xs) ** 2).mean(), {"first": xs[0, 0], "size": jnp.float32(xs.shape[0])}


fit = partial(gj.train.fit, loss_fn, jnp.zeros(3), optax.adam(0.1), key=KEY, save_every=SAVED_EVERY, steps_per_execution=4)


class Rows:
    """A data source with random access, as both libraries take."""

    def __repr__(self):
        return "Rows()"  # grain compares it with that in the position

    def __len__(self):
        return len(XS)

    def __getitem__(self, i):
        return XS[i], np.int32(i)


def grain_loader():
    grain = library("grain.python")
    sampler = grain.IndexSampler(26, shuffle=True, seed=3, num_epochs=1, shard_options=grain.NoSharding())
    return grain.DataLoader(data_source=Rows(), sampler=sampler, operations=[grain.Batch(4)], worker_count=0)


def grain_dataset():
    grain = library("grain.python")
    dataset = grain.MapDataset.source(Rows()).shuffle(seed=3).repeat().batch(4).to_iter_dataset()
    return iter(dataset)


def torchdata_loader():
    torch = library("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchdata calls what PyTorch has deprecated
        loaders = library("torchdata.stateful_dataloader")
        return loaders.StatefulDataLoader(Rows(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::UserWarning:torchdata")
@pytest.mark.parametrize(("make", "steps"), [(grain_loader, 17), (grain_dataset, 17), (torchdata_loader, 7)])
def test_a_run_resumes_bit_for_bit_at_the_position_of_a_loader(make, steps, tmp_path):
    """An epoch has 7 batches. torchdata itself draws the order of later epochs anew."""
    straight = fit(make(), steps=steps, checkpoint_dir=tmp_path / "straight")
    for end in (3, 5, 7, 8, 17)[: 5 if steps == 17 else 3]:
        resumed = fit(make(), steps=end, checkpoint_dir=tmp_path / "resumed")
    assert digests(resumed) == digests(straight)
    assert len(set(straight.history["first"][:7].tolist())) == 7
    assert set(straight.history["size"].tolist()) == ({4.0} if make is grain_dataset else {4.0, 2.0})


@pytest.mark.peers
def test_a_loader_of_pytorch_trains_and_says_that_it_cannot_be_resumed(tmp_path):
    torch = library("torch")
    loader = torch.utils.data.DataLoader(Rows(), batch_size=4)
    with pytest.warns(
        UserWarning, match=r"data: got DataLoader, with which this run cannot be resumed.*torchdata\.stateful_dataloader"
    ):
        result = fit(loader, steps=9, checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(result.history["first"], XS[[0, 4, 8, 12, 16, 20, 24, 0, 4], 0])
    with pytest.raises(ValueError, match=r"data: got DataLoader, whose position in .* is not known after 9 steps"):
        fit(loader, steps=10, checkpoint_dir=tmp_path)

"""Helpers for the tests against other libraries: random weights and comparisons.

The extra `peers` installs the libraries. The tests of a missing library are skipped, unless
GRU_JAX_PEERS=1 is set, as in CI.
"""

import functools
import importlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import B, D, H, T, assert_close

LENGTHS = np.array([T, 3, 1])
XS = np.random.default_rng(1).normal(size=(T, B, D))


def library(name):
    """Imports a library, or skips the test if it is missing and GRU_JAX_PEERS is not set."""
    if os.environ.get("GRU_JAX_PEERS", "0") == "0":
        return pytest.importorskip(name)
    return importlib.import_module(name)


def normal(tree, seed=0):
    """Draws random values for every leaf, so that a misplaced bias or sign has an effect."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray((rng.normal(size=leaf.shape) / 2).astype(leaf.dtype)), tree)


@functools.cache
def shapes(cell, bias):
    """Returns the shapes of the parameters of a cell."""
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H, bias=bias))


def random_params(cell, dtype=np.float64, seed=0, bias=True):
    """Draws parameters of a cell."""
    return normal(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes(cell, bias)), seed)


def random_state(cell, params, seed=5):
    """Draws an initial state of B sequences."""
    return normal(cell.initial_state(params, B), seed)


def assert_same_function(ours, theirs, *args, seed=7):
    """Asserts that both functions have equal outputs, and equal gradients for random cotangents."""
    (outputs, pull), (expected, pull_theirs) = (jax.vjp(function, *args) for function in (ours, theirs))
    assert_close(outputs, expected)
    cotangents = normal(expected, seed)
    assert_close(pull(cotangents), pull_theirs(cotangents))


def assert_same_bits(tree, expected):
    """Asserts that structure, dtypes and all bits are the same, including the sign of zero."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        other = jax.tree.leaves(tree)[[p for p, _ in jax.tree_util.tree_leaves_with_path(expected)].index(path)]
        assert leaf.dtype == other.dtype
        assert leaf.shape == other.shape
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), jax.tree_util.keystr(path)


def stacked(cell, two_directions):
    """Makes a stack of two layers as in PyTorch and Keras."""
    return gj.stack([gj.bidirectional(cell)] * 2) if two_directions else gj.stack([cell] * 2)

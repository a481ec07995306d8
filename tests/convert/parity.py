"""What the parity tests share: weights without a zero among them, and the comparison of outputs, final states and gradients.

The libraries come with the extra `peers`; where one is missing its tests are skipped, unless GRU_JAX_PEERS=1 asks for all, as CI does.
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
    """The module, or a skip where it is missing and nobody insists."""
    if os.environ.get("GRU_JAX_PEERS", "0") == "0":
        return pytest.importorskip(name)
    return importlib.import_module(name)


def normal(tree, seed=0):
    """A tree like `tree` of normal numbers: nothing is zero, so a bias or a sign in the wrong place shows."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray((rng.normal(size=leaf.shape) / 2).astype(leaf.dtype)), tree)


@functools.cache
def shapes(cell, bias):
    """What `cell.init` makes, without values."""
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H, bias=bias))


def random_params(cell, dtype=np.float64, seed=0, bias=True):
    """Parameters of a cell."""
    return normal(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes(cell, bias)), seed)


def random_state(cell, params, seed=5):
    """An initial state of B sequences."""
    return normal(cell.initial_state(params, B), seed)


def assert_same_function(ours, theirs, *args, seed=7):
    """Both have the same outputs, and the same gradients by every argument under random cotangents on every output."""
    (outputs, pull), (expected, pull_theirs) = (jax.vjp(function, *args) for function in (ours, theirs))
    assert_close(outputs, expected)
    cotangents = normal(expected, seed)
    assert_close(pull(cotangents), pull_theirs(cotangents))


def assert_same_bits(tree, expected):
    """Structure, dtypes and every bit, the sign of zero too."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        other = jax.tree.leaves(tree)[[p for p, _ in jax.tree_util.tree_leaves_with_path(expected)].index(path)]
        assert leaf.dtype == other.dtype
        assert leaf.shape == other.shape
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), jax.tree_util.keystr(path)


def stacked(cell, two_directions):
    """Two layers, as PyTorch and Keras have them."""
    return gj.stack([gj.bidirectional(cell)] * 2) if two_directions else gj.stack([cell] * 2)

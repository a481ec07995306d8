"""Cells are values and static pytrees: a copy is equal, hashes equal, and is not traced again."""

import copy
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from gru_jax.cells import LSTMState
from tests.problems import CELLS, B, D, H, T, assert_close, normal, small_like

ROOT = Path(__file__).parents[2]
LAYERS = {
    "zoneout": gj.zoneout(gj.gru(), 0.1),
    "zoneout of an LSTM": gj.zoneout(gj.lstm(), LSTMState(h=0.05, c=0.5)),
    "variational dropout": gj.variational_dropout(gj.gru(), inputs=0.1, state=0.2),
    "stack": gj.stack([gj.gru(), gj.lstm()], dropout=0.1),
    "bidirectional": gj.bidirectional(gj.elman(), merge="sum"),
}
ALL = CELLS | LAYERS
every_layer = pytest.mark.parametrize("cell", ALL.values(), ids=ALL.keys())
KEY = jax.random.key(0)


def by_cloudpickle(cell):
    return pickle.loads(pytest.importorskip("cloudpickle").dumps(cell))


COPIES = {
    "pickle": lambda cell: pickle.loads(pickle.dumps(cell)),
    "cloudpickle": by_cloudpickle,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "replace": replace,
    "tree_map": lambda cell: jax.tree.map(lambda leaf: leaf, cell),
}
every_copy = pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES.keys())


@every_layer
@every_copy
def test_a_copy_is_equal_and_hashes_equal(cell, make_copy):
    copied = make_copy(cell)
    assert copied == cell
    assert hash(copied) == hash(cell)
    assert {cell: "found"}[copied] == "found"
    assert repr(copied) == repr(cell)


def test_different_cells_are_unequal_and_can_be_keys_of_one_dict():
    assert len(set(ALL.values())) == len(ALL)
    assert gj.zoneout(gj.gru(), 0.1) != gj.zoneout(gj.gru(), 0.2)
    assert gj.stack([gj.gru(), gj.lstm()]) != gj.stack([gj.lstm(), gj.gru()])


@pytest.mark.slow
def test_a_pickle_loaded_in_another_process_is_equal_there(tmp_path):
    path = tmp_path / "cells.pickle"
    path.write_bytes(pickle.dumps(ALL))
    code = (
        "import pickle, sys, gru_jax as gj\n"
        "cells = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert cells['gru'] == gj.gru() and hash(cells['gru']) == hash(gj.gru())\n"
        "assert cells['elman_relu'] == gj.elman('relu') != cells['elman_tanh']\n"
        "assert cells['lstm_peephole'] == gj.lstm(peephole=True)\n"
        "assert cells['zoneout'] == gj.zoneout(gj.gru(), 0.1)\n"
        "assert cells['variational dropout'] == gj.variational_dropout(gj.gru(), inputs=0.1, state=0.2)\n"
        "assert cells['stack'] == gj.stack([gj.gru(), gj.lstm()], dropout=0.1)\n"
        "assert cells['bidirectional'] == gj.bidirectional(gj.elman(), merge='sum')\n"
        "print(len(cells))"
    )
    process = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == [str(len(ALL))]


@pytest.mark.parametrize("as_static_argument", [True, False], ids=["static argument", "pytree argument"])
def test_a_copy_is_not_traced_again(as_static_argument):
    traced = []

    @partial(jax.jit, static_argnums=(0,) if as_static_argument else ())
    def run(cell, x):
        traced.append(cell)
        return x

    for cell in ALL.values():
        run(cell, 1.0)
        run(copy.deepcopy(cell), 2.0)
        run(pickle.loads(pickle.dumps(cell)), 3.0)
    assert traced == list(ALL.values())


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=name, marks=() if name in ("lstm_peephole", "stack") else pytest.mark.slow)
        for name, cell in ALL.items()
    ],
)
def test_unroll_can_be_jitted_with_a_cell_as_argument(cell):
    params = small_like(0, jax.eval_shape(lambda key: cell.init(key, D, H, dtype=jnp.result_type(float)), KEY))
    xs = normal(1, T, B, D)
    key = KEY if cell.needs_key else None
    expected = gj.unroll(cell, params, xs, key=key)
    assert_close(jax.jit(gj.unroll)(cell, params, xs, key=key), expected)
    assert_close(jax.jit(gj.unroll, static_argnums=0)(cell, params, xs, key=key), expected)


@every_layer
def test_a_cell_is_a_pytree_without_leaves(cell):
    assert jax.tree.leaves(cell) == []
    tree = {"cell": cell, "params": jnp.ones(3)}
    doubled = jax.tree.map(lambda leaf: 2 * leaf, tree)
    assert doubled["cell"] == cell
    assert (doubled["params"] == 2).all()


def scaled_update(scale, g, h):
    return scale * g


def test_a_partial_in_a_custom_cell_compares_by_value():
    """Two `functools.partial` objects are unequal even if function and arguments are equal."""
    make = lambda scale: replace(gj.elman(), update=partial(scaled_update, scale), adjoint=None, tangent=None, name="scaled")
    assert partial(scaled_update, 0.5) != partial(scaled_update, 0.5)
    assert make(0.5) == make(0.5) == copy.deepcopy(make(0.5)) == pickle.loads(pickle.dumps(make(0.5))) != make(0.25)
    assert hash(make(0.5)) == hash(copy.deepcopy(make(0.5)))

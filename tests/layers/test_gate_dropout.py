"""Variational dropout with masks of each gate, as the GRU and the LSTM of Keras."""

import os
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax._engine.noise import keys_of_sequence
from tests import reference
from tests.conditions import ALL_THREE
from tests.convert.parity import library
from tests.problems import (
    CELLS,
    PROJECTED,
    B,
    D,
    H,
    T,
    assert_close,
    assert_raises,
    compiled,
    gradients,
    normal,
    problem,
    small_like,
)

KEY = jax.random.key(5)
P_X, P_H = 0.3, 0.4


def dropped(name):
    return gj.variational_dropout(CELLS[name], inputs=P_X, state=P_H, per_gate=True)


def masks(cell, params, xs):
    """Returns the mask of each weight, scaled, (B, D) and (B, H)."""
    noisy, _ = cell.sample_noise(keys_of_sequence(KEY), params, xs)
    rate = {"W": P_X, "U": P_H}
    found = {field: getattr(leaf, "keep", None) for field, leaf in noisy._asdict().items()}
    return {field: np.asarray(keep) / (1 - rate[field[0]]) for field, keep in found.items() if keep is not None}


@pytest.mark.parametrize(
    "name",
    ["gru_reset_after", "lstm_peephole", *(pytest.param(name, marks=pytest.mark.slow) for name in ("elman_tanh", "gru"))],
)
def test_each_gate_has_masks_of_its_own(name, needs_x64):
    """For one sequence at a time the masks are diagonal matrices in front of the weights."""
    cell, p = dropped(name), problem(CELLS[name])
    scaled = masks(cell, p.params, p.xs)
    assert set(scaled) == {field for field in p.params._fields if field[0] in "WU"}
    _, ys = compiled(partial(gj.unroll, cell, key=KEY), *p[:3])
    for b in range(B):
        one = lambda tree, b=b: jax.tree.map(lambda leaf: leaf[b : b + 1], tree)
        weights = {field: mask[b][:, None] * getattr(p.params, field) for field, mask in scaled.items()}
        _, expected, _ = reference.unroll(name, p.params._replace(**weights), p.xs[:, b : b + 1], one(p.h0))
        np.testing.assert_allclose(ys[:, b : b + 1], expected, rtol=1e-12, atol=1e-13)
    flat = np.concatenate([mask.ravel() for mask in scaled.values()])
    assert len({mask.tobytes() for mask in scaled.values()}) == len(scaled)
    assert set(np.round(flat, 6)) == {0.0, round(1 / (1 - P_X), 6), round(1 / (1 - P_H), 6)}


@pytest.mark.derivative
@pytest.mark.parametrize("name", ["gru", pytest.param("lstm_peephole", marks=pytest.mark.slow)])
def test_gradients_equal_autodiff_with_the_same_key(name):
    cell, p = dropped(name), problem(CELLS[name])
    runs = [
        partial(gj.unroll, cell, key=KEY, derivative=derivative, **ALL_THREE)
        for derivative in (gj.Autodiff(), gj.CustomVJP(), gj.CustomVJP(block_size=3), gj.CustomJVP())
    ]
    expected, *measured = compiled(lambda p: [gradients(run, p) for run in runs], p)
    for result in measured:
        assert_close(result, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


def test_step_draws_the_masks_of_unroll_and_layers_and_projections_take_them():
    cell = gj.stack([dropped("gru"), gj.variational_dropout(PROJECTED["lstm_projected"], state=0.5, per_gate=True)])
    keys = tuple(jax.random.split(jax.random.key(1)))
    params = small_like(0, jax.eval_shape(lambda key: cell.init(key, D, H), KEY))

    def results(params, xs):
        h = cell.initial_state(params, B)
        by_step = jax.lax.scan(lambda h, x: gj.step(cell, params, h, x, key=keys), h, xs)
        in_both = [gj.unroll(cell, params, xs, key=KEY, compute_dtype=dtype)[1] for dtype in (jnp.bfloat16, None)]
        return (by_step, gj.unroll(cell, params, xs, h, key=keys)), in_both

    same, in_both = compiled(results, params, normal(0, T, B, D, dtype=jnp.float32))
    assert_close(*same)
    assert_close(*in_both, tol=0.05)
    assert cell.deterministic() == gj.stack([gj.gru(), PROJECTED["lstm_projected"]])


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["gru", "gru_reset_after", "lstm"])
def test_the_steps_are_those_of_keras_with_the_same_masks(name):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = library("keras")
    if keras.backend.backend() != "jax":
        pytest.skip(f"Keras runs on {keras.backend.backend()} here")
    options = {"dropout": P_X, "recurrent_dropout": P_H, "implementation": 1}
    layer = (
        keras.layers.LSTMCell(H, **options)
        if name == "lstm"
        else keras.layers.GRUCell(H, reset_after="after" in name, **options)
    )
    layer.build((B, D))
    cell, p = dropped(name), problem(CELLS[name], dtype=jnp.float32)
    layer.set_weights(gj.convert.to_keras(CELLS[name], p.params))
    scaled = masks(cell, p.params, p.xs)
    gates = "ifgo" if name == "lstm" else "zrh"
    layer._dropout_mask = [scaled[f"W_{gate}"] for gate in gates]
    layer._recurrent_dropout_mask = [scaled[f"U_{gate}"] for gate in gates]
    state = list(p.h0) if name == "lstm" else [p.h0]
    for x in p.xs:
        y, state = layer(x, state, training=True)
    _, ys = gj.unroll(cell, p.params, p.xs, p.h0, key=KEY)
    assert_close(np.asarray(ys[-1]), np.asarray(y))


OWN = gj.Cell(lambda key, D, H: {"U": jnp.zeros((H, H))}, lambda p, x: x, lambda p, u, h: u, lambda g, h: g, name="own")
BAD = {
    "a custom cell": (lambda: gj.variational_dropout(OWN, state=0.1, per_gate=True), TypeError, "cell: got own with per_gate=True"),
    "a custom cell that checks its params": (lambda: gj.variational_dropout(replace(OWN, check_params=lambda params: D), state=0.1, per_gate=True), TypeError, "cell: got own with per_gate=True"),
    "noise inside": (lambda: gj.variational_dropout(gj.zoneout(gj.gru(), 0.1), state=0.1, per_gate=True), TypeError, "cell: got zoneout"),
    "a rate for each array": (lambda: gj.variational_dropout(gj.gru(), inputs=(0.1, 0.2), per_gate=True), TypeError, "inputs: got"),
    "a number, without dropout": (lambda: gj.variational_dropout(gj.gru(), per_gate="no"), TypeError, "per_gate: got 'no', expected True or False"),
    "a number": (lambda: gj.variational_dropout(gj.gru(), state=0.1, per_gate=1), TypeError, "per_gate: got 1, expected True or False"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_raises(call, error, message):
    assert_raises(call, error, message)

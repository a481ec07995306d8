"""`jax.export` of `unroll` and `step`: symbolic numbers of steps and sequences, and through a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import gru_jax as gj
from tests.problems import D, H, assert_close, compiled, normal, small_like

CELLS = {
    "gru": gj.gru(),
    "gru_reset_after": gj.gru(reset_after=True),
    "elman": gj.elman(),
    "linear": gj.linear_rnn(),
    "lstm": gj.lstm(),
    "stack": gj.stack([gj.gru(), gj.lstm()]),
    "bidirectional": gj.bidirectional(gj.gru()),
}
SIZES = ((5, 2), (9, 4))
sizes = pytest.mark.parametrize(("T", "B"), [pytest.param(*SIZES[0], marks=pytest.mark.slow), SIZES[1]])
some_cells = pytest.mark.parametrize(
    "name", ["lstm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bidirectional", "gru", "stack"))]
)
float_ = jnp.result_type(float)


def params_of(cell):
    return small_like(0, jax.eval_shape(lambda key: cell.init(key, D, H, dtype=float_), jax.random.key(0)))


def shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def through_bytes(exported):
    """The program that a file of it would give back."""
    return export.deserialize(exported.serialize(vjp_order=1))


@some_cells
@sizes
def test_an_exported_unroll_with_symbolic_sizes_has_the_same_values_and_gradients(name, T, B):
    cell = CELLS[name]
    params = params_of(cell)
    steps, batch = export.symbolic_shape("T, B")
    xs = jax.ShapeDtypeStruct((steps, batch, D), float_)
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def run(params, xs, lengths):
        loss = lambda params: (gj.unroll(cell, params, xs, lengths=lengths)[1] ** 2).sum()
        return gj.unroll(cell, params, xs, lengths=lengths), jax.grad(loss)(params)

    exported = through_bytes(export.export(jax.jit(run))(shapes(params), xs, lengths))
    xs, lengths = normal(T, T, B, D), np.arange(1, B + 1, dtype=np.int32)
    assert_close(exported.call(params, xs, lengths), compiled(run, params, xs, lengths))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "stack" else pytest.mark.slow) for name in CELLS if name != "bidirectional"],
)
def test_an_exported_step_takes_any_number_of_sequences(name):
    cell = CELLS[name]
    params = params_of(cell)
    (batch,) = export.symbolic_shape("B")
    h = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype), cell.initial_state(params))

    def run(params, h, x, reset):
        return gj.step(cell, params, h, x, reset=reset)

    arguments = h, jax.ShapeDtypeStruct((batch, D), float_), jax.ShapeDtypeStruct((batch,), bool)
    exported = through_bytes(export.export(jax.jit(run))(shapes(params), *arguments))
    for _, B in SIZES:
        arguments = cell.initial_state(params, B), normal(B, B, D), np.arange(B) % 2 == 0
        assert_close(exported.call(params, *arguments), compiled(run, params, *arguments))


def test_the_gradient_of_an_exported_unroll():
    cell = CELLS["lstm"]
    params = params_of(cell)
    steps, batch = export.symbolic_shape("T, B")
    run = lambda params, xs: (gj.unroll(cell, params, xs)[1] ** 2).sum()
    exported = through_bytes(export.export(jax.jit(run))(shapes(params), jax.ShapeDtypeStruct((steps, batch, D), float_)))
    xs = normal(1, 5, 2, D)
    assert_close(jax.grad(exported.call)(params, xs), compiled(jax.grad(run), params, xs))


@sizes
def test_a_cell_without_a_derivation_and_a_read_out(T, B):
    cell = gj.Cell(
        lambda key, D, H: None, lambda p, x: x @ p["W"], lambda p, u, h: jnp.tanh(u + h @ p["U"]), lambda g, h: g - 0.5 * h
    )
    weights = {"W": normal(0, D, H), "U": normal(1, H, H)}
    params = weights, gj.heads.init_dense(jax.random.key(2), H, 2)
    steps, batch = export.symbolic_shape("T, B")
    run = lambda params, xs: gj.heads.dense(params[1], gj.unroll(cell, params[0], xs)[1])
    grad = lambda params, xs: jax.grad(lambda params: (run(params, xs) ** 2).sum())(params)
    exported = through_bytes(export.export(jax.jit(grad))(shapes(params), jax.ShapeDtypeStruct((steps, batch, D), jnp.float_)))
    xs = normal(T, T, B, D)
    assert_close(exported.call(params, xs), compiled(grad, params, xs))

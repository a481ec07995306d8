"""`jax.export` of `unroll` with symbolic numbers of steps and sequences."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

import gru_jax as gj
from tests.problems import D, H, assert_close

CELLS = {
    "gru": gj.gru(),
    "lstm": gj.lstm(),
    "stack": gj.stack([gj.gru(), gj.lstm()]),
    "bidirectional": gj.bidirectional(gj.gru()),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_an_exported_unroll_with_symbolic_sizes_has_the_same_values_and_gradients(cell):
    params = cell.init(jax.random.key(0), D, H, dtype=jnp.result_type(float))
    steps, batch = export.symbolic_shape("T, B")
    xs = jax.ShapeDtypeStruct((steps, batch, D), jnp.result_type(float))
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def run(xs, lengths):
        loss = lambda params: (gj.unroll(cell, params, xs, lengths=lengths)[1] ** 2).sum()
        return gj.unroll(cell, params, xs, lengths=lengths), jax.grad(loss)(params)

    exported = export.export(jax.jit(run))(xs, lengths)
    for T, B in ((5, 2), (9, 4)):
        xs = jax.random.normal(jax.random.key(T), (T, B, D))
        lengths = jnp.arange(1, B + 1, dtype=jnp.int32)
        assert_close(exported.call(xs, lengths), run(xs, lengths))

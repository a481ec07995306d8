"""`gj.unroll` inside a Flax NNX module."""

from typing import Any

import jax
from flax import nnx

import gru_jax as gj


class Recurrent(nnx.Module):
    """A cell over (T, *batch, D); `options` are those of `gj.unroll`: lengths, resets, reverse, …"""

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, cell: Any = gj.gru()):
        self.cell = nnx.static(cell)
        self.params = nnx.data(jax.tree.map(nnx.Param, cell.init(rngs.params(), input_size, hidden_size)))

    def __call__(self, xs: Any, h0: Any = None, **options: Any) -> Any:
        """(h_last, ys)."""
        params = jax.tree.map(lambda p: p[...], self.params, is_leaf=lambda p: isinstance(p, nnx.Param))
        return gj.unroll(self.cell, params, xs, h0, **options)

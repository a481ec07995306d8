"""`gj.unroll` inside an Equinox module."""

from typing import Any

import equinox as eqx
import jax

import gru_jax as gj


class Recurrent(eqx.Module):
    """A cell over (T, *batch, D); `options` are those of `gj.unroll`: lengths, resets, reverse, …"""

    params: Any
    cell: Any = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, key: jax.Array, cell: Any = gj.gru()):
        self.cell = cell
        self.params = cell.init(key, input_size, hidden_size)

    def __call__(self, xs: Any, h0: Any = None, **options: Any) -> Any:
        """(h_last, ys)."""
        return gj.unroll(self.cell, self.params, xs, h0, **options)

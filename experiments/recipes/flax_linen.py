"""`gj.unroll` inside a Flax linen module."""

from typing import Any

import flax.linen as nn

import gru_jax as gj


class Recurrent(nn.Module):
    """A cell over (T, *batch, D); `options` are those of `gj.unroll`: lengths, resets, reverse, …"""

    hidden_size: int
    cell: Any = gj.gru()

    @nn.compact
    def __call__(self, xs: Any, h0: Any = None, **options: Any) -> Any:
        """(h_last, ys)."""
        params = self.param("cell", self.cell.init, xs.shape[-1], self.hidden_size)
        return gj.unroll(self.cell, params, xs, h0, **options)

"""Shows a recurrent layer as a Flax linen module.

The cell is a plain attribute of the module, and its parameters are one entry of the variables, a
NamedTuple such as `GRUParams`.
"""

from typing import Any

import flax.linen as nn

import gru_jax as gj


class Recurrent(nn.Module):
    """A recurrent layer over sequences of shape (T, *batch, D)."""

    hidden_size: int
    cell: gj.Cell = gj.gru()

    @nn.compact
    def __call__(self, xs: Any, h0: Any = None, **options: Any) -> Any:
        """Runs the layer and returns (h_last, ys). The options are those of `gj.unroll`."""
        params = self.param("cell", self.cell.init, xs.shape[-1], self.hidden_size)
        return gj.unroll(self.cell, params, xs, h0, **options)

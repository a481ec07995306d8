"""Shows a recurrent layer as an Equinox module.

The cell is a plain field of the module. It is a static pytree, so it contains no arrays that
Equinox would train.
"""

from typing import Any

import equinox as eqx
import jax

import gru_jax as gj


class Recurrent(eqx.Module):
    """A recurrent layer over sequences of shape (T, *batch, D)."""

    cell: gj.Cell
    params: Any

    def __init__(self, input_size: int, hidden_size: int, *, key: jax.Array, cell: gj.Cell = gj.gru()):
        self.cell = cell
        self.params = cell.init(key, input_size, hidden_size)

    def __call__(self, xs: Any, h0: Any = None, **options: Any) -> Any:
        """Runs the layer and returns (h_last, ys). The options are those of `gj.unroll`."""
        return gj.unroll(self.cell, self.params, xs, h0, **options)

"""Shows a recurrent layer as a Flax NNX module.

The cell is a plain attribute of the module. Its parameters are a NamedTuple whose leaves are
`nnx.Param`.
"""

from typing import Any

import jax
from flax import nnx

import gru_jax as gj


class Recurrent(nnx.Module):
    """A recurrent layer over sequences of shape (T, *batch, D)."""

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, cell: gj.Cell = gj.gru()):
        self.cell = cell
        self.params = nnx.data(jax.tree.map(nnx.Param, cell.init(rngs.params(), input_size, hidden_size)))

    def __call__(self, xs: Any, h0: Any = None, **options: Any) -> Any:
        """Runs the layer and returns (h_last, ys). The options are those of `gj.unroll`."""
        params = jax.tree.map(lambda param: param[...], self.params, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))
        return gj.unroll(self.cell, params, xs, h0, **options)

"""Shows a recurrent layer as a Haiku module.

Haiku asks for one parameter at a time, while `cell.init` draws all of them. The module therefore
draws them once, in `hk.init`, and hands each to `hk.get_parameter`.
"""

from functools import cache
from typing import Any

import haiku as hk
import jax

import gru_jax as gj


class Recurrent(hk.Module):
    """A recurrent layer over sequences of shape (T, *batch, D)."""

    def __init__(self, hidden_size: int, cell: gj.Cell = gj.gru(), name: str | None = None):
        super().__init__(name=name)
        self.hidden_size, self.cell = hidden_size, cell

    def __call__(self, xs: Any, h0: Any = None, **options: Any) -> Any:
        """Runs the layer and returns (h_last, ys). The options are those of `gj.unroll`."""
        return gj.unroll(self.cell, self._params(xs.shape[-1]), xs, h0, **options)

    def _params(self, input_size: int) -> Any:
        """Gets the parameters of the cell from Haiku."""
        init = lambda key: self.cell.init(key, input_size, self.hidden_size)
        shapes = jax.eval_shape(init, jax.random.key(0))
        draw = cache(lambda: init(hk.next_rng_key()))

        def parameter(field: str) -> Any:
            leaf = getattr(shapes, field)
            if leaf is None:
                return None
            return hk.get_parameter(field, leaf.shape, leaf.dtype, init=lambda shape, dtype: getattr(draw(), field))

        return type(shapes)(*map(parameter, shapes._fields))

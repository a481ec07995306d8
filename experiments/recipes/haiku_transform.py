"""`gj.unroll` inside a Haiku transform."""

from functools import cache
from typing import Any

import haiku as hk
import jax

import gru_jax as gj


class Recurrent(hk.Module):
    """A cell over (T, *batch, D); `options` are those of `gj.unroll`: lengths, resets, reverse, …"""

    def __init__(self, hidden_size: int, cell: Any = gj.gru(), name: str | None = None):
        super().__init__(name=name)
        self.hidden_size, self.cell = hidden_size, cell

    def __call__(self, xs: Any, h0: Any = None, **options: Any) -> Any:
        """(h_last, ys)."""
        init = lambda key: self.cell.init(key, xs.shape[-1], self.hidden_size)
        shapes = jax.eval_shape(init, jax.random.key(0))._asdict()
        drawn = cache(lambda: init(hk.next_rng_key())._asdict())  # once, and in hk.init only
        leaf = lambda field, shape: hk.get_parameter(field, shape.shape, shape.dtype, init=lambda *_: drawn()[field])
        fields = {field: None if shape is None else leaf(field, shape) for field, shape in shapes.items()}
        params = type(jax.eval_shape(init, jax.random.key(0)))(**fields)
        return gj.unroll(self.cell, params, xs, h0, **options)

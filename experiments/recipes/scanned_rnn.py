"""Shows a replacement for the `ScannedRNN` of PureJaxRL, which many projects have copied.

The module is called like the original and has the same parameter tree,
`GRUCell_0/{ir,iz,in,hr,hz,hn}`, so it loads existing checkpoints. Autodiff of the original saves
every gate of every step; the derived backward pass can recompute them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import gru_jax as gj

CELL = gj.gru(reset_after=True)  # the form of Flax's GRUCell


class ScannedRNN(nn.Module):
    """A GRU over a sequence whose state is reset where an episode starts."""

    @nn.compact
    def __call__(self, carry: Any, x: Any) -> Any:
        """Runs the GRU.

        Args:
            carry: The state before the first step, of shape (B, H).
            x: A pair `(ins, resets)` of shapes (T, B, H) and (T, B). The inputs have as many features
                as there are units. The state is set to zero before each step with a reset.

        Returns:
            The final state, and the outputs of shape (T, B, H).
        """
        ins, resets = x
        flax_cell = nn.GRUCell(features=ins.shape[-1], name="GRUCell_0")
        if self.is_initializing():
            flax_cell(carry, ins[0])
        params = gj.convert.from_flax_linen(CELL, flax_cell.variables["params"])
        return gj.unroll(CELL, params, ins, carry, resets=resets.astype(bool))

    @staticmethod
    def initialize_carry(batch_size: int, hidden_size: int) -> jax.Array:
        """Returns a state of zeros, as the original does."""
        return jnp.zeros((batch_size, hidden_size))

"""A drop-in for the `ScannedRNN` that recurrent reinforcement learning in JAX copies around (PureJaxRL and its descendants).

Same calls, same parameter tree (`GRUCell_0/{ir,iz,in,hr,hz,hn}`), so checkpoints load; one derived backward pass instead of a scan
that autodiff stores every gate of.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import gru_jax as gj


class ScannedRNN(nn.Module):
    """(carry, (ins, resets)) → (carry, outputs); `resets` (T, B) are true where the state is set to zero before the step."""

    @nn.compact
    def __call__(self, carry: Any, x: Any) -> Any:
        """`ins` (T, B, H): as many features as units, as in the original."""
        ins, resets = x
        cell = nn.GRUCell(features=ins.shape[-1], name="GRUCell_0")
        if self.is_initializing():
            cell(carry, ins[0])
        params = gj.convert.from_flax_linen(gj.gru(reset_after=True), cell.variables["params"])
        return gj.unroll(gj.gru(reset_after=True), params, ins, carry, resets=resets.astype(bool))

    @staticmethod
    def initialize_carry(batch_size: int, hidden_size: int) -> jax.Array:
        """Zeros, as the original."""
        return jnp.zeros((batch_size, hidden_size))

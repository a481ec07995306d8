"""A drop-in for the `ScannedRNN` that recurrent reinforcement learning in JAX copies around (PureJaxRL and its descendants).

Same calls, same parameter tree (`GRUCell_0/{ir,iz,in,hr,hz,hn}`), so checkpoints load; one derived backward pass instead of a scan
that autodiff stores every gate of. Flax' `GRUCell` resets after the matmul and puts z on the old state: W_z, U_z and b_z change sign.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import gru_jax as gj
from gru_jax.cells import GRUResetAfterParams


class ScannedRNN(nn.Module):
    """(carry, (ins, resets)) → (carry, outputs); `resets` (T, B) are true where the state is set to zero before the step."""

    @nn.compact
    def __call__(self, carry: Any, x: Any) -> Any:
        """`ins` (T, B, H): as many features as units, as in the original."""
        ins, resets = x
        cell = nn.GRUCell(features=ins.shape[-1], name="GRUCell_0")
        if self.is_initializing():
            cell(carry, ins[0])
        params = from_flax(cell.variables["params"])
        return gj.unroll(gj.gru(reset_after=True), params, ins, carry, resets=resets.astype(bool))

    @staticmethod
    def initialize_carry(batch_size: int, hidden_size: int) -> jax.Array:
        """Zeros, as the original."""
        return jnp.zeros((batch_size, hidden_size))


def from_flax(tree: Any) -> GRUResetAfterParams:
    """The parameters of a linen `GRUCell` as ours; differentiable, so that gradients come back in Flax' tree."""
    kernel, bias = (lambda gate: tree[gate]["kernel"]), (lambda gate: tree[gate]["bias"])
    return GRUResetAfterParams(
        W_z=-kernel("iz"), U_z=-kernel("hz"), b_z=-bias("iz"),
        W_r=kernel("ir"), U_r=kernel("hr"), b_r=bias("ir"),
        W_h=kernel("in"), U_h=kernel("hn"), b_h=bias("in"), c_h=bias("hn"),
    )  # fmt: skip

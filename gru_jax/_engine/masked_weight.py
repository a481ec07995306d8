"""A weight with units of its operand dropped, which `gru_jax.ops` multiplies by."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class MaskedWeight(NamedTuple):
    """Stands for a weight in the params of a cell: x W becomes (keep ⊙ x) W."""

    weight: Float[Array, "K H"]
    keep: Bool[Array, "*b K"]


def operands(x: Any, W: Any) -> tuple[Any, Any]:
    """Returns what x W multiplies."""
    return (jnp.where(W.keep, x, 0), W.weight) if isinstance(W, MaskedWeight) else (x, W)

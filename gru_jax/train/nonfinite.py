"""What a run says when too many updates in a row were not finite: the step, the batch, the norms of the leaves."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.train.folder import named
from gru_jax.train.program import Setup, State, gradient


def explain(setup: Setup, state: State, step: int, data: Any, which: Any, address: Any, key: jax.Array) -> str:
    """A message about the last step: its loss, its examples, the norm of every leaf of its gradient and of the parameters."""
    loss, grads = _last(state, jnp.asarray(step), data, jnp.asarray(which), address, key, setup=setup)
    norms = {name: float(norm) for name, norm in named(jax.tree.map(_norm, grads)).items()}
    sizes = {name: float(norm) for name, norm in named(jax.tree.map(_norm, state.member.params)).items()}
    bad = [f"{name or 'params'}: gradient {norms[name]:.3g}, parameter {sizes[name]:.3g}" for name in norms]
    rows = np.asarray(jax.tree.leaves(address)[0]) if jax.tree.leaves(address) else np.zeros(0)
    batch = f"examples {rows.tolist()}" if rows.size else "the whole data, or one made from the step's key"
    return (
        f"loss_fn: {setup.patience} updates in a row, up to step {step}, had a loss, gradient or parameter that is not finite, and "
        f"were left out. At step {step} the loss was {float(loss):.6g}, the batch {batch}. Norms: {'; '.join(bad)}. The parameters "
        "are those of the last finite update."
    )


@partial(jax.jit, static_argnames=("setup",))
def _last(state: State, step: Any, data: Any, which: Any, address: Any, key: jax.Array, *, setup: Setup) -> tuple[Any, Any]:
    (loss, _, _), grads = gradient(setup, state.member, step, data, which, address, key)
    return loss, grads


def _norm(leaf: jax.Array) -> jax.Array:
    return jnp.linalg.norm(leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)))

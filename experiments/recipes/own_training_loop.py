"""Shows a custom training loop: plain optax, and the pieces that `fit` is made of.

It takes the batches that `fit` takes, skips updates that are not finite, saves checkpoints, and
continues from the newest one. What it computes equals `fit`, if the loss draws no random numbers.
Change whatever your method needs.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gru_jax as gj


class State(NamedTuple):
    """What a checkpoint holds."""

    params: Any
    opt_state: Any
    consecutive_skipped: jax.Array


def train(
    loss_fn: Callable[..., Any],
    params: Any,
    optimizer: optax.GradientTransformation,
    data: Any,
    *,
    key: jax.Array,
    steps: int,
    batch_size: int,
    checkpoint_dir: str | Path,
    save_every: int = 100,
    max_consecutive_nonfinite: int = 10,
) -> tuple[State, dict[int, jax.Array]]:
    """Trains for a number of steps in total, and returns the state and the losses of its steps.

    Raises:
        FloatingPointError: If the last updates before a save were not finite, and too many.
    """

    @jax.jit
    def take_step(state: State, batch: Any, key: jax.Array) -> tuple[State, jax.Array]:
        (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        is_finite = gj.train.all_finite((loss, grads, params))
        keep = partial(jax.tree.map, partial(jnp.where, is_finite))
        skipped = jnp.where(is_finite, 0, state.consecutive_skipped + 1)
        return State(keep(params, state.params), keep(opt_state, state.opt_state), skipped), loss

    state, first_step = State(params, optimizer.init(params), jnp.zeros((), int)), 0
    batches = gj.train.batches(data, batch_size, key=key)
    restored = gj.train.restore_checkpoint(checkpoint_dir, like=state)
    if restored is not None:
        first_step, state = restored.step, restored.state
        batches.set_state(restored.metadata)

    losses = {}
    for step in range(first_step, steps):
        state, losses[step] = take_step(state, next(batches), jax.random.fold_in(key, step))
        if (step + 1) % save_every == 0 or step + 1 == steps:
            if state.consecutive_skipped >= max_consecutive_nonfinite:
                raise FloatingPointError(
                    f"loss_fn: {state.consecutive_skipped} consecutive updates, up to step {step}, were not finite."
                )
            gj.train.save_checkpoint(checkpoint_dir, state, step + 1, metadata=batches.get_state())
    return state, losses

"""Truncated back-propagation through time: windows, between which the state passes and its gradient does not."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from gru_jax._engine import validate
from gru_jax._jax.sharding import vary_like
from gru_jax._jax.tracing import is_traced
from gru_jax.unroll import unroll


def unroll_truncated(
    cell: Any,
    params: Any,
    xs: ArrayLike,
    h0: Any = None,
    *,
    window: int,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    time_major: bool = True,
    key: jax.Array | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """`unroll` whose gradient does not cross from one window of time to the one before.

    The values are those of `gj.unroll`. Backward, the loss at a step reaches the steps of its own window only: between two windows
    stands a `jax.lax.stop_gradient`. With `window` ≥ T it is full back-propagation. The windows are `window` steps each, counted from
    the first step in the direction of travel; the last one may be shorter.

    Args:
        cell: as for `gj.unroll`, but for bidirectional layers: one of their directions has no state to carry on.
        params: as for `gj.unroll`.
        xs: as for `gj.unroll`.
        h0: as for `gj.unroll`. The gradient of the first window reaches it.
        window: the number of steps, at least 1.
        lengths: as for `gj.unroll`.
        mask: as for `gj.unroll`.
        resets: as for `gj.unroll`.
        reverse: as for `gj.unroll`.
        time_major: as for `gj.unroll`.
        key: for cells that draw noise; each window draws its own (a variational mask is one per window then).
        **options: the others of `gj.unroll`.

    Returns:
        `(h_last, ys)`, as `gj.unroll`.

    Raises:
        ValueError: `window` below 1; else as `gj.unroll`.
        TypeError: as `gj.unroll`; a bidirectional layer.

    Training on a stream, one optimiser step per window, needs no helper: `h, ys = gj.unroll(cell, params, window_of_xs, h)` and hand
    `jax.lax.stop_gradient(h)` to the next step.

    Source: Williams and Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories". Cost: a scan over the windows around that over their steps; saves what `gj.unroll` saves.
    """
    validate.check_cell(cell)
    _check_one_direction(cell)
    window = validate.check_steps("window", window)
    everything: Any = partial(unroll, cell, params, reverse=reverse, time_major=time_major, **options)
    jax.eval_shape(
        partial(everything, key=key, lengths=lengths, mask=mask, resets=resets), xs, h0
    )  # what is wrong is told here
    axis = 0 if time_major else jnp.ndim(xs) - 2
    xs = jnp.asarray(xs)
    steps, batch = xs.shape[axis], xs.shape[1:-1] if time_major else xs.shape[:-2]
    windows = -(-steps // window)
    if windows <= 1:
        return everything(xs, h0, key=key, lengths=lengths, mask=mask, resets=resets)
    if lengths is not None:
        lengths = validate.check_lengths(lengths, batch, steps)

    def run_window(h, number, size):
        start = steps - number * window - size if reverse else number * window
        part = lambda a: None if a is None else lax.dynamic_slice_in_dim(a, start, size, axis)
        within = None
        if lengths is not None:
            within = jnp.clip(lengths - start, 0, size)
            within = jnp.where((lengths < 0) | (lengths > steps), -1, within) if is_traced(lengths) else within
        own_key = None if key is None else jax.random.fold_in(key, number)
        return everything(part(xs), h, lengths=within, mask=part(mask), resets=part(resets), key=own_key)

    def scan_step(h, number):
        h, ys = run_window(h, number, window)
        return lax.stop_gradient(h), ys

    if h0 is None:
        h0 = cell.initial_state(params, batch, like=xs if time_major else jnp.moveaxis(xs, -2, 0))
    h0 = vary_like(h0, params, xs, h0, lengths, mask, resets)
    h, ys = lax.scan(scan_step, h0, jnp.arange(windows - 1))
    h_last, ys_last = run_window(h, windows - 1, steps - (windows - 1) * window)
    return h_last, jax.tree.map(partial(_joined, axis, reverse), ys, ys_last)


def _joined(axis: int, reverse: bool, windows: jax.Array, last: jax.Array) -> jax.Array:
    """The outputs of all windows, (windows, …, steps of a window at `axis`, …), and of the last one, as (…, steps, …)."""
    in_order = jnp.moveaxis(windows[::-1] if reverse else windows, 0, axis)
    steps = in_order.shape[axis] * in_order.shape[axis + 1]
    before = in_order.reshape(*in_order.shape[:axis], steps, *in_order.shape[axis + 2 :])
    return jnp.concatenate([last, before] if reverse else [before, last], axis)


def _check_one_direction(cell: Any) -> None:
    if hasattr(cell, "backward_cell"):
        raise TypeError(f"cell: got {cell.name}, expected one with a single direction: the other has no state to carry on.")
    for part in getattr(cell, "cells", ()):
        _check_one_direction(part)

"""Truncated back-propagation through time: windows, between which the state passes and its
gradient does not.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from gru_jax._engine import validate, validate_cell
from gru_jax._engine.arguments import check_positive_int
from gru_jax._engine.inputs import leading_shape
from gru_jax._engine.layer import Layer, check_cell
from gru_jax._engine.noise import keys_of_sequence
from gru_jax._jax.sharding import vary_like
from gru_jax._jax.tracing import is_traced
from gru_jax.unroll import unroll


def unroll_truncated(
    cell: Layer,
    params: PyTree,
    xs: PyTree,
    h0: PyTree = None,
    *,
    window: int,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: PyTree = None,
    reverse: bool = False,
    time_major: bool = True,
    key: Array | tuple[Array, Array] | None = None,
    **options: Any,
) -> tuple[PyTree, PyTree]:
    """Runs a cell over a sequence with gradients that stay within windows of time.

    The values are those of `gj.unroll`. The loss at a step sends gradients only to the
    steps of its own window: between windows the state passes through `jax.lax.stop_gradient`.
    Windows are counted in processing order, and the last one may be shorter. With `window` ≥ T it
    is full back-propagation.

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> h_last, ys = gj.unroll_truncated(cell, params, jax.numpy.ones((100, 2, 3)), window=20)
        >>> ys.shape
        (100, 2, 4)

    Args:
        cell: As for `gj.unroll`, but without bidirectional layers: the backward direction has no
            state to carry on.
        params: As for `gj.unroll`.
        xs: As for `gj.unroll`.
        h0: As for `gj.unroll`. The gradient of the first window reaches it.
        window: The number of steps of a window, at least 1.
        lengths: As for `gj.unroll`.
        mask: As for `gj.unroll`.
        resets: As for `gj.unroll`.
        reset_state: As for `gj.unroll`.
        reverse: As for `gj.unroll`.
        time_major: As for `gj.unroll`.
        key: As for `gj.unroll`. A mask of variational dropout holds for all windows.
        **options: The other options of `gj.unroll`.

    Returns:
        `(h_last, ys)`, as `gj.unroll`.

    Raises:
        ValueError: If `window` is below 1; otherwise as `gj.unroll`.
        TypeError: If a layer is bidirectional; otherwise as `gj.unroll`.

    Training on a stream with one optimiser step per window needs no helper: call
    `h, ys = gj.unroll(cell, params, window_of_xs, h)` and hand `jax.lax.stop_gradient(h)` to the
    next step.

    The cost is that of `gj.unroll`, as a scan over windows around the scan over their steps.

    Source: Williams and Peng 1990, "An efficient gradient-based algorithm for on-line training of
        recurrent network trajectories".
    """
    check_cell(cell)
    _check_one_direction(cell)
    window = check_positive_int("window", window)
    run: Any = partial(unroll, cell, params, reverse=reverse, time_major=time_major, **options)
    # the arguments are checked as a whole: inside the windows messages would speak of parts
    whole = partial(run, key=key, lengths=lengths, mask=mask, resets=resets, reset_state=reset_state)
    jax.eval_shape(whole, xs, h0)
    xs, leading = jax.tree.map(jnp.asarray, xs), leading_shape(cell, xs)
    axis = 0 if time_major else len(leading) - 1
    steps, batch = leading[axis], leading[1:] if time_major else leading[:-1]
    windows = -(-steps // window)
    if windows <= 1:
        return whole(xs, h0)
    if lengths is not None:
        lengths = jnp.asarray(validate.check_lengths(lengths, batch, steps))

    keys = keys_of_sequence(key)

    def run_window(h, number, size):
        start = steps - number * window - size if reverse else number * window
        part = lambda a: None if a is None else lax.dynamic_slice_in_dim(a, start, size, axis)
        within = None
        if lengths is not None:
            within = jnp.clip(lengths - start, 0, size)
            within = jnp.where((lengths < 0) | (lengths > steps), -1, within) if is_traced(lengths) else within
        own_key = None if keys is None else (keys.of_sequence, jax.random.fold_in(keys.per_step, number))
        conditions: Any = {"lengths": within, "mask": part(mask), "resets": part(resets)}
        if reset_state is not None:
            of_window = lambda leaf, h: part(leaf) if jnp.ndim(leaf) > h.ndim and leaf.shape[axis] > 1 else leaf
            conditions["reset_state"] = jax.tree.map(of_window, reset_state, h)
        return run(jax.tree.map(part, xs), h, key=own_key, **conditions)

    def scan_step(h, number):
        h, ys = run_window(h, number, window)
        return lax.stop_gradient(h), ys

    if h0 is None:
        time_first = lambda leaf: jnp.moveaxis(leaf, axis, 0)
        h0 = cell.initial_state(params, batch, like=jax.tree.map(time_first, xs))
    else:
        h0 = validate_cell.broadcast_state(cell, validate_cell.check_params(cell, params)[0], h0, batch)
    h0 = vary_like(h0, params, xs, h0, lengths, mask, resets)
    h, ys = lax.scan(scan_step, h0, jnp.arange(windows - 1))
    h_last, ys_last = run_window(h, windows - 1, steps - (windows - 1) * window)
    return h_last, jax.tree.map(partial(_joined, axis, reverse), ys, ys_last)


def _joined(axis: int, reverse: bool, windows: jax.Array, last: jax.Array) -> jax.Array:
    """The outputs of all windows, (windows, …, steps of a window at `axis`, …), and of the last
    one, as (…, steps, …).
    """
    in_order = jnp.moveaxis(windows[::-1] if reverse else windows, 0, axis)
    steps = in_order.shape[axis] * in_order.shape[axis + 1]
    before = in_order.reshape(*in_order.shape[:axis], steps, *in_order.shape[axis + 2 :])
    return jnp.concatenate([last, before] if reverse else [before, last], axis)


def _check_one_direction(cell: Any) -> None:
    if hasattr(cell, "backward_cell"):
        raise TypeError(
            f"cell: got {cell.name}, expected a unidirectional cell: the backward direction would need states of later windows. "
            "Use gj.unroll."
        )
    for part in getattr(cell, "cells", ()):
        _check_one_direction(part)

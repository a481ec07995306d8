"""Splits a gradient into its terms (loss step, use step), by one reverse scan per loss step."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._engine.differentiable import differentiable, transpose_output, where_differentiable
from gru_jax._engine.step_flags import apply_resets, tree_where, zero_masked
from gru_jax._engine.weights import transpose_matrices
from gru_jax.flow.linearized import Conditions, Trajectory, linearize_along, params_vjp, state_vjp
from gru_jax.flow.norms import norm

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def contributions(
    cell: Any,
    params: Any,
    xs: Any,
    loss: Loss,
    h0: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_state: Any = None,
    per_example: bool = False,
    max_bytes: int = 2**30,
) -> Any:
    """Splits the gradient of Σ_t loss(t, y_t) into its terms (loss step, use step).

    The term (t, k) is the derivative of the loss of step t with respect to the parameters as step k
    uses them. The sum of all terms is the gradient, up to rounding. Terms with k > t are exactly 0.

    Args:
        cell: A `gj.Cell` without noise. Pass the layers of a stack one by one, each with its own
            inputs.
        params: The parameters, from `cell.init`.
        xs: The inputs, of shape `(T, *batch, D)`.
        loss: A function `loss(t, y_t)` that returns the loss of step t, a scalar. t is a traced
            integer, and y_t is the output of step t, of shape `(*batch, H)`.
        h0: The initial state. Defaults to zeros.
        lengths: The number of valid steps of each sequence, as in `gj.unroll`. Defaults to all.
        mask: Which steps are valid, as in `gj.unroll`. Defaults to all.
        resets: Before which steps the state is reset, as in `gj.unroll`. Defaults to none.
        reset_state: The state after a reset, as in `gj.unroll`. Defaults to zeros.
        per_example: If True, returns the terms of each example. The loss must then be a sum over
            examples. Defaults to False, which returns the sums over the batch.
        max_bytes: The maximum size of the result, in bytes. Defaults to 1 GiB.

    Returns:
        A pytree like `params`, with leaves of shape `(T_loss, T_use, *leaf)`. If `per_example` is
        True, the shape is `(T_loss, T_use, *batch, *leaf)`.

    Raises:
        ValueError: If the result would take more than `max_bytes`.
        TypeError, ValueError: If `cell` is a stack or draws noise, and as `gj.unroll` does.

    Cost: T reverse scans, T² weight gradients of a single step, and memory for T²·|params| numbers.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> xs = jax.random.normal(jax.random.key(1), (10, 2, 3))  # (T, B, D)
        >>> loss = lambda t, y: (y**2).sum()
        >>> terms = gj.flow.contributions(cell, params, xs, loss)
        >>> terms.W_z.shape
        (10, 10, 3, 4)
    """
    trajectory = linearize_along(cell, params, xs, h0, Conditions(lengths, mask, resets, reset_state))
    T, batch = trajectory.steps, trajectory.batch
    numbers = T * T * sum(leaf.size for leaf in jax.tree.leaves(differentiable(trajectory.params)))
    size = (
        numbers
        * (math.prod(batch) if per_example else 1)
        * jax.tree.leaves(differentiable(trajectory.params))[0].dtype.itemsize
    )
    if size > max_bytes:
        raise ValueError(
            f"xs: got {T} steps, whose terms take {size:,} bytes, expected at most max_bytes={max_bytes:,}. Use "
            "gj.flow.contribution_norms, which returns only the norm of each term, or pass a shorter sequence or a larger "
            "max_bytes."
        )
    term = partial(params_vjp, cell, trajectory.params)
    if per_example:
        for _ in batch:
            term = jax.vmap(term)
    terms_of_loss = jax.vmap(term)  # over the use steps
    xs, h_prevs, g, k = trajectory.xs, trajectory.h_prevs, trajectory.g, trajectory.k
    outputs_bar = _outputs_bar(cell, trajectory, loss)
    h_bars = jax.vmap(lambda t: _state_cotangents(cell, trajectory, outputs_bar, t)[1])(jnp.arange(T))
    return jax.vmap(lambda h_bars: terms_of_loss(xs, h_prevs, g, k, h_bars))(h_bars)


def contribution_norms(
    cell: Any,
    params: Any,
    xs: Any,
    loss: Loss,
    h0: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_state: Any = None,
) -> Any:
    """Computes the Frobenius norm of every term that `contributions` returns.

    Keeps only one term in memory at a time, so that it works for longer sequences.

    Args:
        cell: A `gj.Cell` without noise. Pass the layers of a stack one by one, each with its own
            inputs.
        params: The parameters, from `cell.init`.
        xs: The inputs, of shape `(T, *batch, D)`. Each term is summed over the batch before its
            norm is taken.
        loss: A function `loss(t, y_t)` that returns the loss of step t, a scalar. t is a traced
            integer, and y_t is the output of step t, of shape `(*batch, H)`.
        h0: The initial state. Defaults to zeros.
        lengths: The number of valid steps of each sequence, as in `gj.unroll`. Defaults to all.
        mask: Which steps are valid, as in `gj.unroll`. Defaults to all.
        resets: Before which steps the state is reset, as in `gj.unroll`. Defaults to none.
        reset_state: The state after a reset, as in `gj.unroll`. Defaults to zeros.

    Returns:
        A pytree like `params`, with leaves of shape `(T_loss, T_use)`.

    Raises:
        TypeError, ValueError: If `cell` is a stack or draws noise, and as `gj.unroll` does.

    Cost: The time of `contributions`, and memory for T·B·H numbers besides the result.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> xs = jax.random.normal(jax.random.key(1), (10, 2, 3))  # (T, B, D)
        >>> loss = lambda t, y: (y**2).sum()
        >>> norms = gj.flow.contribution_norms(cell, params, xs, loss)
        >>> norms.W_z.shape
        (10, 10)
    """
    trajectory = linearize_along(cell, params, xs, h0, Conditions(lengths, mask, resets, reset_state))
    outputs_bar = _outputs_bar(cell, trajectory, loss)

    def norms_of_term(step):
        return jax.tree.map(norm, params_vjp(cell, trajectory.params, *step))

    def norms_of_loss(t):
        _, h_bars = _state_cotangents(cell, trajectory, outputs_bar, t)
        return lax.map(norms_of_term, (trajectory.xs, trajectory.h_prevs, trajectory.g, trajectory.k, h_bars))

    return lax.map(norms_of_loss, jnp.arange(trajectory.steps))


def state_sensitivity(
    cell: Any,
    params: Any,
    xs: Any,
    loss: Loss,
    h0: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_state: Any = None,
) -> jax.Array:
    """Computes ‖∂L_t/∂h_k‖: how strongly the loss of step t depends on the state after step k.

    Args:
        cell: A `gj.Cell` without noise. Pass the layers of a stack one by one, each with its own
            inputs.
        params: The parameters, from `cell.init`.
        xs: The inputs, of shape `(T, *batch, D)`.
        loss: A function `loss(t, y_t)` that returns the loss of step t, a scalar. t is a traced
            integer, and y_t is the output of step t, of shape `(*batch, H)`.
        h0: The initial state. Defaults to zeros.
        lengths: The number of valid steps of each sequence, as in `gj.unroll`. Defaults to all.
        mask: Which steps are valid, as in `gj.unroll`. Defaults to all.
        resets: Before which steps the state is reset, as in `gj.unroll`. Defaults to none.
        reset_state: The state after a reset, as in `gj.unroll`. Defaults to zeros.

    Returns:
        Euclidean norms over the whole state, of shape `(T_loss, T_state, *batch)`. The state of an
        LSTM is h and c. The norms are 0 for k > t.

    Raises:
        TypeError, ValueError: If `cell` is a stack or draws noise, and as `gj.unroll` does.

    Cost: T reverse scans, and memory for T²·B numbers.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> xs = jax.random.normal(jax.random.key(1), (10, 2, 3))  # (T, B, D)
        >>> loss = lambda t, y: (y**2).sum()
        >>> norms = gj.flow.state_sensitivity(cell, params, xs, loss)
        >>> norms.shape
        (10, 10, 2)
    """
    trajectory = linearize_along(cell, params, xs, h0, Conditions(lengths, mask, resets, reset_state))
    outputs_bar, batch_rank = _outputs_bar(cell, trajectory, loss), len(trajectory.batch)

    def norms_of_loss(t):
        leaves = jax.tree.leaves(_state_cotangents(cell, trajectory, outputs_bar, t)[0])
        return norm(jnp.stack([norm(leaf, tuple(range(1 + batch_rank, leaf.ndim))) for leaf in leaves]), 0)

    return lax.map(norms_of_loss, jnp.arange(trajectory.steps))


def _outputs_bar(cell: Any, trajectory: Trajectory, loss: Loss) -> Any:
    """Computes ∂loss(t, y_t)/∂y_t for every t, zero where y_t is."""
    ys = zero_masked(trajectory.flags, cell.output(trajectory.hs))
    return zero_masked(trajectory.flags, jax.vmap(jax.grad(loss, argnums=1))(jnp.arange(ys.shape[0]), ys))


def _state_cotangents(cell: Any, trajectory: Trajectory, outputs_bar: Any, t: jax.Array) -> tuple[Any, Any]:
    """Computes ∂L_t/∂h_k for every k, and the part of it that step k itself receives: zero on a
    masked step.

    A reverse scan with the loss of step t alone. Its lines are those of `step_flags`.
    """
    params_T = transpose_matrices(trajectory.params)
    state = jax.tree.map(lambda leaf: leaf[0], trajectory.h_prevs)

    def step_back(delta, step):
        k, flags, j, y_bar = step
        own = jax.tree.map(lambda bar: jnp.where(j == t, bar, 0), transpose_output(cell.output, state, y_bar))
        h_bar = jax.tree.map(jnp.add, delta, own)
        valid_h_bar = zero_masked(flags, h_bar)
        h_prev_bar = where_differentiable(state, state_vjp(cell, params_T, k, valid_h_bar))
        passed_on = tree_where(flags.mask, apply_resets(flags, None, h_prev_bar), h_bar)
        return jax.tree.map(lambda bar: jnp.where(j <= t, bar, 0), passed_on), (h_bar, valid_h_bar)

    zeros = jax.tree.map(jnp.zeros_like, differentiable(state))
    steps = (trajectory.k, trajectory.flags, jnp.arange(trajectory.steps), outputs_bar)
    return lax.scan(step_back, zeros, steps, reverse=True)[1]

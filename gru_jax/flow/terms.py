"""Splits a gradient into its terms (loss step, use step), by one reverse scan per loss step."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._engine.arguments import check_flag, check_positive_int
from gru_jax._jax.partition import differentiable
from gru_jax.flow.conditions import Conditions
from gru_jax.flow.cotangents import Loss, loss_bars, per_example_term, state_cotangents, term_of_use, uses_of_loss
from gru_jax.flow.layered import by_layer
from gru_jax.flow.linearized import linearize_along
from gru_jax.flow.norms import norm


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
        cell: A `gj.Cell` without noise, or a `gj.stack` of them.
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
        True, the shape is `(T_loss, T_use, *batch, *leaf)`. A leaf with batch axes, such as a memory
        for each example, keeps them; its terms are 0 at all examples but the own.

    Raises:
        ValueError: If the result would take more than `max_bytes`.
        TypeError, ValueError: If `cell` is bidirectional or draws noise, and as `gj.unroll` does.

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
    per_example, max_bytes = check_flag("per_example", per_example), check_positive_int("max_bytes", max_bytes)
    trajectory = linearize_along(cell, params, xs, h0, Conditions(lengths, mask, resets, reset_state))
    T, batch = trajectory.steps, trajectory.batch
    leaves = jax.tree.leaves(differentiable(trajectory.params))
    size = T * T * (math.prod(batch) if per_example else 1) * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    if size > max_bytes:
        raise ValueError(
            f"xs: got {T} steps, whose terms take {size:,} bytes, expected at most max_bytes={max_bytes:,}. Use "
            "gj.flow.contribution_norms, which returns only the norm of each term, or pass a shorter sequence or a larger "
            "max_bytes."
        )
    term = per_example_term(trajectory) if per_example else partial(term_of_use, trajectory)
    bars = loss_bars(trajectory, loss)

    def terms_of_loss(t: jax.Array) -> Any:
        return jax.vmap(term)(uses_of_loss(trajectory, bars, t))

    return jax.vmap(terms_of_loss)(jnp.arange(T))


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
        cell: A `gj.Cell` without noise, or a `gj.stack` of them.
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
        TypeError, ValueError: If `cell` is bidirectional or draws noise, and as `gj.unroll` does.

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
    bars = loss_bars(trajectory, loss)

    def norms_of_loss(t: jax.Array) -> Any:
        return lax.map(lambda use: jax.tree.map(norm, term_of_use(trajectory, use)), uses_of_loss(trajectory, bars, t))

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
        cell: A `gj.Cell` without noise, or a `gj.stack` of them.
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
        LSTM is h and c. The norms are 0 for k > t. For a stack: a tuple with the norms of the state
        of each layer, and `()` for a layer without state.

    Raises:
        TypeError, ValueError: If `cell` is bidirectional or draws noise, and as `gj.unroll` does.

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
    bars, batch_rank = loss_bars(trajectory, loss), len(trajectory.batch)

    def norm_of_state(h_bars: Any) -> jax.Array:
        leaves = [norm(leaf, tuple(range(1 + batch_rank, leaf.ndim))) for leaf in jax.tree.leaves(h_bars)]
        return norm(jnp.stack(leaves), 0)

    def norms_of_loss(t: jax.Array) -> Any:
        return by_layer(cell, norm_of_state, state_cotangents(trajectory, bars.output, t)[0])

    return lax.map(norms_of_loss, jnp.arange(trajectory.steps))

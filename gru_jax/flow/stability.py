"""Computes the Jacobian of every step, its norm, and the Lyapunov exponents of a sequence."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from gru_jax._engine.step_flags import tree_where, zero_at_resets
from gru_jax._jax.partition import differentiable
from gru_jax._jax.precision import at_least_float32
from gru_jax.flow.conditions import Conditions
from gru_jax.flow.layered import check_layer, run_by_layer
from gru_jax.flow.linearized import linearize_along, state_jvp, zero_state
from gru_jax.layers.stack import Stack


def jacobians(
    cell: Any,
    params: Any,
    xs: Any,
    h0: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_state: Any = None,
) -> Any:
    """Computes the Jacobian J_t = ∂h_t/∂h_{t-1} of every step.

    Uses the tangent of the cell if it has one, and `jax.jvp` of its step otherwise. The step of a
    complex state must be holomorphic.

    Args:
        cell: A `gj.Cell` without noise, or a `gj.stack` of them.
        params: The parameters, from `cell.init`.
        xs: The inputs, of shape `(T, *batch, D)`.
        h0: The initial state. Defaults to zeros.
        lengths: The number of valid steps of each sequence, as in `gj.unroll`. Defaults to all.
        mask: Which steps are valid, as in `gj.unroll`. Defaults to all.
        resets: Before which steps the state is reset, as in `gj.unroll`. Defaults to none.
        reset_state: The state after a reset, as in `gj.unroll`. Defaults to zeros.

    Returns:
        Matrices of shape `(T, *batch, n, n)`, where n is the size of the state. The state of an
        LSTM is h followed by c. The matrices act on row vectors, ḣ_t = ḣ_{t-1} J_t, so J_t is the
        transpose of what `jax.jacobian` returns. The matrix of a masked step is the identity, because
        the step holds the state. That of a step after a reset is 0. For a stack: a tuple with the
        matrices of each layer for itself, its inputs held fixed, and `()` for a layer without state.

    Raises:
        TypeError, ValueError: If `cell` is bidirectional or draws noise, and as `gj.unroll` does.

    Cost: n Jacobian-vector products per step, and memory for T·B·n² numbers.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> xs = jax.random.normal(jax.random.key(1), (10, 2, 3))  # (T, B, D)
        >>> gj.flow.jacobians(cell, params, xs).shape
        (10, 2, 4, 4)
    """
    conditions = Conditions(lengths, mask, resets, reset_state)
    check_layer(cell)
    if isinstance(cell, Stack):
        return run_by_layer(jacobians, cell, params, xs, h0, conditions)
    trajectory = linearize_along(cell, params, xs, h0, conditions)
    params, flags, batch = trajectory.params, trajectory.flags, trajectory.batch
    state = differentiable(zero_state(trajectory))
    one_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[len(batch) :], leaf.dtype), state)
    flat, unravel = ravel_pytree(one_state)

    def jacobian(x, h_prev, k, flags):
        def row(e):  # the same direction in every sequence
            h_dot = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch, *leaf.shape)), unravel(e))
            stepped = state_jvp(cell, params, x, h_prev, k, zero_at_resets(flags, h_dot))
            leaves = jax.tree.leaves(tree_where(flags.mask, stepped, h_dot))
            return jnp.concatenate([leaf.reshape(*batch, math.prod(leaf.shape[len(batch) :])) for leaf in leaves], -1)

        return jax.vmap(row, out_axes=-2)(jnp.eye(flat.size, dtype=flat.dtype))

    return jax.vmap(jacobian)(trajectory.xs, trajectory.h_prevs, trajectory.k, flags)


def jacobian_norms(
    cell: Any,
    params: Any,
    xs: Any,
    h0: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_state: Any = None,
) -> Any:
    """Computes the spectral norm of the Jacobian J_t of every step.

    It is the largest factor by which the step can stretch a small change of the state.

    Args:
        cell: A `gj.Cell` without noise, or a `gj.stack` of them.
        params: The parameters, from `cell.init`.
        xs: The inputs, of shape `(T, *batch, D)`.
        h0: The initial state. Defaults to zeros.
        lengths: The number of valid steps of each sequence, as in `gj.unroll`. Defaults to all.
        mask: Which steps are valid, as in `gj.unroll`. Defaults to all.
        resets: Before which steps the state is reset, as in `gj.unroll`. Defaults to none.
        reset_state: The state after a reset, as in `gj.unroll`. Defaults to zeros.

    Returns:
        Norms of shape `(T, *batch)`, in at least float32. For a stack: a tuple with those of each
        layer, as `jacobians`.

    Raises:
        TypeError, ValueError: If `cell` is bidirectional or draws noise, and as `gj.unroll` does.

    Cost: That of `jacobians`, and one singular value decomposition per step.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> xs = jax.random.normal(jax.random.key(1), (10, 2, 3))  # (T, B, D)
        >>> gj.flow.jacobian_norms(cell, params, xs).shape
        (10, 2)
    """
    Js = jacobians(cell, params, xs, h0, lengths=lengths, mask=mask, resets=resets, reset_state=reset_state)
    return jax.tree.map(lambda Js: jnp.linalg.norm(_widened(Js), ord=2, axis=(-2, -1)), Js)


def lyapunov_exponents(
    cell: Any,
    params: Any,
    xs: Any,
    h0: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_state: Any = None,
) -> Any:
    """Computes the Lyapunov exponents along a sequence.

    The exponents measure how fast small changes of the state grow, in nats per step:

        Q_t R_t = J_tᵀ Q_{t-1},    λ_i = 1/T Σ_t log |(R_t)_ii|

    If an exponent is positive, changes grow and gradients explode. If it is near 0, both persist.
    If it is far below 0, both vanish. The exponents are limits for T → ∞ (Oseledets' theorem).
    Short sequences give rough estimates, because the directions Q_t have not converged at the first
    steps.

    Args:
        cell: A `gj.Cell` without noise, or a `gj.stack` of them.
        params: The parameters, from `cell.init`.
        xs: The inputs, of shape `(T, *batch, D)`.
        h0: The initial state. Defaults to zeros.
        lengths: The number of valid steps of each sequence, as in `gj.unroll`. Defaults to all.
        mask: Which steps are valid, as in `gj.unroll`. Defaults to all.
        resets: Before which steps the state is reset, as in `gj.unroll`. Defaults to none.
        reset_state: The state after a reset, as in `gj.unroll`. Defaults to zeros.

    Returns:
        The n exponents of each sequence, of shape `(*batch, n)`. The largest comes first unless T
        is too small. An exponent is -inf if a step forgets a direction completely, that is, if its
        Jacobian is singular. All are NaN for T = 0. For a stack: a tuple with those of each layer;
        the exponents of the stack are all of them, because no layer acts on one below.

    Raises:
        TypeError, ValueError: If `cell` is bidirectional or draws noise, and as `gj.unroll` does.

    Cost: That of `jacobians`, and one QR decomposition per step, of order n³.

    Example:
        >>> import jax
        >>> import gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), 3, 4)
        >>> xs = jax.random.normal(jax.random.key(1), (10, 2, 3))  # (T, B, D)
        >>> gj.flow.lyapunov_exponents(cell, params, xs).shape
        (2, 4)
    """
    Js = jacobians(cell, params, xs, h0, lengths=lengths, mask=mask, resets=resets, reset_state=reset_state)
    return jax.tree.map(_exponents, Js)


def _exponents(Js: jax.Array) -> jax.Array:
    """Computes the exponents of the matrices of one cell."""
    Js = _widened(Js)
    identity = jnp.broadcast_to(jnp.eye(Js.shape[-1], dtype=Js.dtype), Js.shape[1:])

    def step(Q, J):
        Q, R = jnp.linalg.qr(J.mT @ Q)
        return Q, jnp.log(jnp.abs(jnp.diagonal(R, axis1=-2, axis2=-1)))

    return lax.scan(step, identity, Js)[1].mean(0)


def _widened(Js: jax.Array) -> jax.Array:
    """Converts matrices to at least float32, because LAPACK has no half precision."""
    return Js.astype(at_least_float32(Js.dtype))

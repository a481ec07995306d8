"""Where a gradient comes from: the exact split into (loss step t, use step k), and what the recurrence does on the way.

    ∂J/∂θ = Σ_t Σ_{k≤t} ∂J_t/∂h_t · J_tᵀ J_{t-1}ᵀ … J_{k+1}ᵀ · ∂⁺h_k/∂θ        J_j = ∂h_j/∂h_{j-1}, row vectors: ḣ = ḣ₋ J, δ₋ = δ Jᵀ

J = Σ_t loss(t, y_t). The term (t, k) is what the loss at step t says about the parameters as they were used at step k. Back-propagation
adds all terms up and shows the sum only; here each one is kept. The reverse scan runs once per loss step, through the same
`state_vjp` and `input_vjp` as the custom VJP.

Sources: the double sum of Pascanu et al. 2013 (arXiv 1211.5063), eqs. 3-5; Lyapunov exponents by repeated QR, Engelken et al. 2023
(arXiv 2006.02427).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from gru_jax._engine import validate
from gru_jax._engine.layer import check_cell
from gru_jax._engine.local_vjp import backward_functions
from gru_jax._engine.plan import Plan
from gru_jax._engine.recursion import Loop, Save, forward, previous_states
from gru_jax._engine.step_flags import StepFlags
from gru_jax._engine.weights import transpose_matrices
from gru_jax.cell import Cell

Loss = Callable[[jax.Array, jax.Array], jax.Array]


class Steps(NamedTuple):
    """The values at every step of a sequence."""

    params: Any
    xs: jax.Array
    hs: Any
    h_prevs: Any
    g: Any
    k: Any


def contributions(
    cell: Any, params: Any, xs: Any, loss: Loss, h0: Any = None, *, per_example: bool = False, limit: int = 2**30
) -> Any:
    """The gradient of Σ_t loss(t, y_t) with respect to `params`, split into loss steps and use steps.

    Args:
        cell: a `gj.Cell`.
        params: from `cell.init`.
        xs: the inputs, `(T, *batch, D)`.
        loss: `loss(t, y_t) -> scalar` of a step (traced) and its output `(*batch, H)`.
        h0: the state before the first step; zeros if None.
        per_example: keep the batch axes too; the loss may couple examples only as a sum does.
        limit: the largest size of the result in bytes.

    Returns:
        The tree of `params`, leaves `(T_loss, T_use, *leaf)`, or `(T_loss, T_use, *batch, *leaf)`. What lies at use steps
        after the loss step is exactly 0. The sum over both steps (and the batch) is the gradient, to rounding.

    Raises:
        ValueError: the result would be larger than `limit`; the message says how large, and names `contribution_norms`.
        TypeError, ValueError: as `gj.unroll`.

    Cost: T reverse scans, and T² times the weight gradient of a single step; T²·|params| numbers.
    """
    at = _steps(cell, params, xs, h0)
    T, batch = at.xs.shape[0], at.xs.shape[1:-1]
    numbers = T * T * sum(leaf.size for leaf in jax.tree.leaves(at.params))
    size = numbers * (_product(batch) if per_example else 1) * jax.tree.leaves(at.params)[0].dtype.itemsize
    if size > limit:
        raise ValueError(
            f"xs: got {T} steps, for which the split has {size:,} bytes, expected at most limit = {limit:,}. Use "
            "gj.flow.contribution_norms, which keeps a norm per term (T² numbers for each parameter); or a shorter sequence, or "
            "raise limit."
        )
    one = partial(_used_at, cell, at.params)
    if per_example:
        for _ in batch:
            one = jax.vmap(one)
    by_use = jax.vmap(one)
    use = at._replace(params=None)
    return jax.vmap(lambda h_bars: by_use(use.xs, use.h_prevs, use.g, use.k, h_bars))(_cotangents(cell, at, loss))


def contribution_norms(cell: Any, params: Any, xs: Any, loss: Loss, h0: Any = None) -> Any:
    """The Frobenius norm of every term of `contributions`, without ever holding more than one of them.

    Args:
        cell: a `gj.Cell`.
        params: from `cell.init`.
        xs: the inputs, `(T, *batch, D)`; a term is summed over the batch before its norm is taken.
        loss: as for `contributions`.
        h0: the state before the first step; zeros if None.

    Returns:
        The tree of `params`, leaves `(T_loss, T_use)`.

    Raises:
        TypeError, ValueError: as `gj.unroll`.

    Cost: the time of `contributions`; T²·B·H numbers for the cotangents' sake are avoided too: T·B·H beside the result.
    """
    at = _steps(cell, params, xs, h0)
    ys_bar = _outputs_bar(cell, at, loss)

    def at_use(parts):
        x, h_prev, g, k, h_bar = parts
        term = _used_at(cell, at.params, x, h_prev, g, k, h_bar)
        return jax.tree.map(norm, term)

    def at_loss(t):
        return lax.map(at_use, (at.xs, at.h_prevs, at.g, at.k, _cotangents_of(cell, at, ys_bar, t)))

    return lax.map(at_loss, jnp.arange(at.xs.shape[0]))


def state_sensitivity(cell: Any, params: Any, xs: Any, loss: Loss, h0: Any = None) -> jax.Array:
    """‖∂J_t/∂h_k‖: how much the loss at step t feels the state after step k, for all t ≥ k (0 elsewhere).

    Args:
        cell: a `gj.Cell`.
        params: from `cell.init`.
        xs: the inputs, `(T, *batch, D)`.
        loss: as for `contributions`.
        h0: the state before the first step; zeros if None.

    Returns:
        `(T_loss, T_state, *batch)`: Euclidean norms over the whole state (an LSTM's h and c).

    Raises:
        TypeError, ValueError: as `gj.unroll`.

    Cost: T reverse scans; T²·B numbers.
    """
    at = _steps(cell, params, xs, h0)
    ys_bar, batch_rank = _outputs_bar(cell, at, loss), at.xs.ndim - 2

    def norms(t):
        leaves = jax.tree.leaves(_cotangents_of(cell, at, ys_bar, t))
        return norm(jnp.stack([norm(leaf, tuple(range(1 + batch_rank, leaf.ndim))) for leaf in leaves]), 0)

    return lax.map(norms, jnp.arange(at.xs.shape[0]))


def jacobians(cell: Any, params: Any, xs: Any, h0: Any = None) -> jax.Array:
    """J_t = ∂h_t/∂h_{t-1} at every step, by the cell's own tangent `state_jvp` (`jax.jvp` of its step where it has none).

    Args:
        cell: a `gj.Cell`.
        params: from `cell.init`.
        xs: the inputs, `(T, *batch, D)`.
        h0: the state before the first step; zeros if None.

    Returns:
        `(T, *batch, n, n)`, n the size of the state (an LSTM's is h, then c). Row vectors: ḣ_t = ḣ_{t-1} J_t, so J_t is the
        transpose of what `jax.jacobian` returns.

    Raises:
        TypeError, ValueError: as `gj.unroll`.

    Cost: n tangents of every step, T·B·n² numbers.
    """
    at = _steps(cell, params, xs, h0)
    one_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[at.xs.ndim - 1 :], leaf.dtype), at.hs)
    flat, unravel = ravel_pytree(one_state)

    def push(g, k, x, h_prev, h_dot):
        if cell.tangent is not None:
            return cell.tangent.state_jvp(at.params, k, h_dot)
        step = lambda h: cell.update(cell.gates(at.params, cell.project(at.params, x), h), h)
        return jax.jvp(step, (h_prev,), (h_dot,))[1]

    def jacobian(g, k, x, h_prev):
        return jax.vmap(lambda e: ravel_pytree(push(g, k, x, h_prev, unravel(e)))[0])(jnp.eye(flat.size, dtype=flat.dtype))

    for _ in range(at.xs.ndim - 1):
        jacobian = jax.vmap(jacobian)
    return jacobian(at.g, at.k, at.xs, at.h_prevs)


def jacobian_norms(cell: Any, params: Any, xs: Any, h0: Any = None) -> jax.Array:
    """The largest factor by which one step stretches a change of the state: the spectral norm of each J_t.

    Args, raises, cost: as `jacobians`.

    Returns:
        `(T, *batch)`.
    """
    return jnp.linalg.norm(jacobians(cell, params, xs, h0), ord=2, axis=(-2, -1))


def lyapunov_exponents(cell: Any, params: Any, xs: Any, h0: Any = None) -> jax.Array:
    """How fast small changes of the state grow along this sequence, in nats per step: the mean of log |r_ii| over repeated QR.

        Q_t R_t = J_tᵀ Q_{t-1},    λ_i = 1/T Σ_t log |(R_t)_ii|

    Above 0 changes grow and gradients explode; far below 0 both vanish; near 0 they last. (Oseledets' theorem speaks of T → ∞:
    over a short sequence the first directions are still being found.)

    Args, raises: as `jacobians`.

    Returns:
        `(*batch, n)`: n exponents, the largest first but for what T leaves undecided; -inf where a step forgets a direction
        altogether; NaN without a step.

    Cost: `jacobians`, and a QR decomposition per step, n³.
    """
    Js = jacobians(cell, params, xs, h0)
    identity = jnp.broadcast_to(jnp.eye(Js.shape[-1], dtype=Js.dtype), Js.shape[1:])

    def step(Q, J):
        Q, R = jnp.linalg.qr(J.mT @ Q)
        return Q, jnp.log(jnp.abs(jnp.diagonal(R, axis1=-2, axis2=-1)))

    return lax.scan(step, identity, Js)[1].mean(0)


def norm(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """The Euclidean norm over `axis` (all of them if None) of values that may be very large or very small.

        m √Σ (x / m)²,   m = max |x|

    A gradient of 1e-25 that has vanished, or one of 1e25 that has exploded, has a square that float32 cannot hold; its norm is
    right here, in at least float32. Infinity stays infinity, NaN stays NaN.
    """
    x = jnp.abs(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    largest = x.max(axis, keepdims=True, initial=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    total = jnp.sqrt(jnp.sum((x / scale) ** 2, axis, keepdims=True)) * scale
    return total.reshape(()) if axis is None else total.squeeze(axis)


def _steps(cell: Any, params: Any, xs: Any, h0: Any) -> Steps:
    """The forward pass, its input checked as by `gj.unroll`."""
    check_cell(cell)
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: got {cell.name}, expected a gj.Cell: give the layers one by one, each with its own inputs.")
    if cell.needs_key:
        raise ValueError(f"cell: got {cell.name}, which draws noise, expected a cell without: cell.deterministic().")
    params, input_size = validate.check_params(cell, params)
    validate.check_input("xs", xs, input_size, least_rank=2)
    params = jax.tree.map(jnp.asarray, params)
    xs = jnp.asarray(xs, jax.tree.leaves(params)[0].dtype)
    batch = xs.shape[1:-1]
    if h0 is not None:
        validate.check_state("h0", h0, cell, params, batch)
    h0 = cell.initial_state(params, batch) if h0 is None else jax.tree.map(jnp.asarray, h0)
    validate.check_functions(cell, params, xs, h0)
    hs = forward(cell, Loop(Plan()), Save(states=True), params, xs, h0, None, StepFlags())[1].states
    h_prevs = previous_states(h0, hs, False)
    backward = backward_functions(cell)
    g = backward.gates(params, cell.project(params, xs), h_prevs)
    return Steps(params, xs, hs, h_prevs, g, backward.linearize(g, h_prevs))


def _outputs_bar(cell: Any, at: Steps, loss: Loss) -> Any:
    """∂loss(t, y_t)/∂y_t for every t."""
    ys = cell.output(at.hs)
    return jax.vmap(jax.grad(loss, argnums=1))(jnp.arange(at.xs.shape[0]), ys)


def _cotangents(cell: Any, at: Steps, loss: Loss) -> Any:
    """∂J_t/∂h_k: leaves (T_loss, T_state, *batch, …)."""
    ys_bar = _outputs_bar(cell, at, loss)
    return jax.vmap(lambda t: _cotangents_of(cell, at, ys_bar, t))(jnp.arange(at.xs.shape[0]))


def _cotangents_of(cell: Any, at: Steps, ys_bar: Any, t: jax.Array) -> Any:
    """∂J_t/∂h_k for every k: the reverse scan with the loss at step t alone."""
    backward, params_T = backward_functions(cell), transpose_matrices(at.params)

    def pull_step(delta, at_k):
        k, step, y_bar = at_k
        (through_output,) = jax.linear_transpose(cell.output, delta)(y_bar)
        enters = jax.tree.map(lambda bar: jnp.where(step == t, bar, 0), through_output)
        h_bar = jax.tree.map(jnp.add, delta, enters)
        passed = jax.tree.map(lambda bar: jnp.where(step <= t, bar, 0), backward.state_vjp(params_T, k, h_bar))
        return passed, h_bar

    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), at.h_prevs)
    return lax.scan(pull_step, nothing, (at.k, jnp.arange(at.xs.shape[0]), ys_bar), reverse=True)[1]


def _used_at(cell: Any, params: Any, x: Any, h_prev: Any, g: Any, k: Any, h_bar: Any) -> Any:
    """∂⁺h_k/∂θ, applied to a cotangent: what one step of use adds to the gradient."""
    return backward_functions(cell).input_vjp(params, x, h_prev, g, k, h_bar)[0]


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total

"""Forward and reverse mode from one derivation: a custom JVP whose linear recurrence knows its
transpose.

    ḣ_t = state_jvp(k_t, ḣ_{t-1}) + w_t,   ws = input_jvp(…) for all t     the tangent: a scan
    δ_{t-1} = state_vjp(k_t, δ_t), …                                        its transpose: the reverse scan

The recurrence is the solution of a linear system, (1 − shift·state_jvp) ḣs = ws, so
`lax.custom_linear_solve` can be given both scans. Forward mode solves the system, reverse mode
solves the transposed one, and higher derivatives follow.

`recursion` saves less and is faster. Use this for `jax.jvp`, `jax.jacfwd` or
`jax.linearize`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._engine.differentiable import with_float0, without_float0
from gru_jax._engine.forward import Loop, Save, forward, outputs_of, previous_states
from gru_jax._engine.products import joined_products
from gru_jax._engine.step_flags import StepFlags, apply_resets, tree_where, tree_zeros_like, zero_at_resets, zero_masked
from gru_jax._engine.weights import lower_matrices, transpose_matrices
from gru_jax._jax.partition import differentiable


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def states_with_jvp(cell: Any, loop: Loop, params: Any, xs: Any, h0: Any, reset_state: Any, flags: StepFlags) -> Any:
    """The state after every step."""
    return forward(cell, loop, Save(states=True), params, xs, h0, reset_state, flags)[1].states


@states_with_jvp.defjvp
def states_jvp(cell: Any, loop: Loop, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """(hs, ḣs): `input_jvp` for all t at once, then a scan of `state_jvp`.

    With the lines of `step_flags`: ḣ_t = m ? state_jvp(k, r ? 0 : ḣ_{t-1}) : ḣ_{t-1}, driven by
    ws = m ? w + (r ? state_jvp(k, reset_state˙) : 0) : 0.
    """
    params, xs, h0, reset_state, flags = primals
    adjoint, tangent, join = cell.adjoint, cell.tangent, loop.plan.join_in_loop
    hs = states_with_jvp(cell, loop, *primals)

    params_dot, xs_dot, h0_dot, reset_state_dot, flags_dot = without_float0(tangents)
    weights, weights_dot = lower_matrices(params, loop.compute_dtype), lower_matrices(params_dot, loop.compute_dtype)
    xs, xs_dot = zero_masked(flags, xs), zero_masked(flags, xs_dot)  # (I)
    h_prevs = apply_resets(flags, reset_state, previous_states(h0, hs, loop.reverse))  # (R)
    g = cell.gates(weights, cell.project(weights, xs), h_prevs)
    k = adjoint.linearize(g, h_prevs)
    state_jvp, state_vjp = partial(tangent.state_jvp, weights), partial(adjoint.state_vjp, transpose_matrices(weights))
    zero = tree_zeros_like(differentiable(h0))

    ws = tangent.input_jvp(weights, weights_dot, xs, xs_dot, h_prevs, g, k)
    if flags.reset_states is not None:
        reset_state, reset_state_dot = flags.reset_states, flags_dot.reset_states
    if reset_state is not None:
        at_resets = tree_where(flags.resets, k, tree_zeros_like(k))
        everywhere = jax.tree.map(lambda dot, w: jnp.broadcast_to(dot, w.shape), reset_state_dot, ws)
        ws = _add(ws, tree_where(flags.resets, state_jvp(at_resets, everywhere), tree_zeros_like(ws)))
    ws = zero_masked(flags, ws)  # (M)

    def step(k_t, flags_t, h_dot):
        with joined_products(join):
            return tree_where(flags_t.mask, state_jvp(k_t, zero_at_resets(flags_t, h_dot)), h_dot)  # (R) (M)

    def step_transposed(k_t, flags_t, h_bar):
        with joined_products(join):
            h_prev_bar = state_vjp(k_t, zero_masked(flags_t, h_bar))  # (M)ᵀ
        return tree_where(flags_t.mask, zero_at_resets(flags_t, h_prev_bar), h_bar)  # (R)ᵀ (M)ᵀ

    def solve(_, ws):
        def forward_step(h_dot, at_t):
            k_t, flags_t, w = at_t
            h_dot = _add(step(k_t, flags_t, h_dot), w)
            return h_dot, h_dot

        return lax.scan(forward_step, zero, (k, flags, ws), reverse=loop.reverse)[1]

    def transpose_solve(_, hs_bar):
        def backward_step(delta, at_t):
            k_t, flags_t, h_bar = at_t
            h_bar = _add(delta, h_bar)
            return step_transposed(k_t, flags_t, h_bar), h_bar

        return lax.scan(backward_step, zero, (k, flags, hs_bar), reverse=not loop.reverse)[1]

    def system(hs_dot):
        return jax.tree.map(jnp.subtract, hs_dot, step(k, flags, previous_states(zero, hs_dot, loop.reverse)))

    if jax.tree.leaves(hs)[0].shape[0]:
        first = -1 if loop.reverse else 0
        at_first = lambda tree: jax.tree.map(lambda leaf: leaf[first], tree)
        from_h0 = step(at_first(k), at_first(flags), h0_dot)
        ws = jax.tree.map(lambda w, p: w.at[first].add(p), ws, from_h0)
    return hs, with_float0(hs, lax.custom_linear_solve(system, ws, solve, transpose_solve))


def recursion_with_jvp(
    cell: Any, loop: Loop, params: Any, xs: Any, h0: Any, reset_state: Any, flags: StepFlags
) -> tuple[Any, Any]:
    """(h_last, outputs), differentiable in both modes."""
    hs = states_with_jvp(cell, loop, params, xs, h0, reset_state, flags)
    last = 0 if loop.reverse else -1
    h_last = jax.tree.map(lambda h: h[last], hs) if jax.tree.leaves(hs)[0].shape[0] else h0
    return h_last, outputs_of(cell, loop, flags, hs)


def _add(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.add, one, other)

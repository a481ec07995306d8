"""The parts of a term: the cotangents of the loss of one step, and what one use step makes of them."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._engine.arguments import describe
from gru_jax._engine.differentiable import transpose_output, where_differentiable
from gru_jax._engine.step_flags import tree_where, zero_at_resets, zero_masked
from gru_jax._engine.weights import transpose_matrices
from gru_jax._jax.partition import differentiable
from gru_jax.flow.linearized import (
    Trajectory,
    outputs_along,
    params_vjp,
    read_out_vjp,
    state_vjp,
    takes_single_examples,
    zero_state,
)

Loss = Callable[[jax.Array, jax.Array], jax.Array]


class LossBars(NamedTuple):
    """∂loss(t, y_t)/∂y_t and the cotangent of what `output` reads, for every t; zero where y_t is."""

    y: Any
    output: Any


class Use(NamedTuple):
    """One use step of a term: the linearised step, and the cotangents of its state and its output."""

    x: Any
    h_prev: Any
    g: Any
    k: Any
    h_bar: Any
    output: Any
    y_bar: Any


def loss_bars(trajectory: Trajectory, loss: Loss) -> LossBars:
    """The cotangents of all losses, each of its own step."""
    read, ys = outputs_along(trajectory)
    _check_loss(loss, ys)
    ys_bar = zero_masked(trajectory.flags, jax.vmap(jax.grad(loss, argnums=1))(jnp.arange(trajectory.steps), ys))
    of_step = lambda x, output, y_bar: read_out_vjp(trajectory.cell, trajectory.params, x, output, y_bar)[1]
    return LossBars(ys_bar, jax.vmap(of_step)(trajectory.xs, read, ys_bar))


def _check_loss(loss: Any, ys: Any) -> None:
    """Checks that `loss(t, y_t)` returns a floating-point scalar.

    Raises:
        TypeError: If it does not.
    """
    if not callable(loss):
        raise TypeError(f"loss: got {describe(loss)}, expected a function loss(t, y_t) that returns a scalar.")
    y = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), ys)
    try:
        found = jax.eval_shape(lambda t, y: jnp.asarray(loss(t, y)), jax.ShapeDtypeStruct((), jnp.int32), y)
    except (TypeError, ValueError) as error:
        raise TypeError(f"loss: calling loss(t, y_t) failed, expected it to return a scalar. ({error})") from error
    if found.shape != () or not jnp.issubdtype(found.dtype, jnp.floating):
        raise TypeError(
            f"loss: got a result of shape {found.shape} and dtype {found.dtype}, expected a floating-point scalar. Reduce it over the "
            "batch and the outputs, for example with sum()."
        )


def uses_of_loss(trajectory: Trajectory, bars: LossBars, t: jax.Array) -> Use:
    """All use steps of the loss of step t."""
    h_bars = state_cotangents(trajectory, bars.output, t)[1]
    read, _ = outputs_along(trajectory)
    own = _only(jnp.arange(trajectory.steps) == t, bars.y)  # the read-out uses params at step t alone
    return Use(trajectory.xs, trajectory.h_prevs, trajectory.g, trajectory.k, h_bars, read, own)


def term_of_use(trajectory: Trajectory, use: Use) -> Any:
    """The term of one loss step and one use step: ∂⁺/∂θ of the step, and of its read-out."""
    cell, params = trajectory.cell, trajectory.params
    bar = params_vjp(cell, params, use.x, use.h_prev, use.g, use.k, use.h_bar)
    of_read_out = read_out_vjp(cell, params, use.x, use.output, use.y_bar)[0]
    return bar if of_read_out is None else jax.tree.map(jnp.add, bar, of_read_out)


def per_example_term(trajectory: Trajectory) -> Callable[[Use], Any]:
    """`term_of_use` of each example of the batch alone, `(*batch, *leaf)`."""
    batch, term = trajectory.batch, partial(term_of_use, trajectory)
    if takes_single_examples(trajectory):
        for _ in batch:
            term = jax.vmap(term)
        return term

    def masked(use: Use) -> Any:
        def of_example(example: jax.Array) -> Any:
            return term(use._replace(h_bar=_only(example, use.h_bar), y_bar=_only(example, use.y_bar)))

        number = math.prod(batch)
        examples = jnp.eye(number, dtype=bool).reshape(number, *batch)
        terms = lax.map(of_example, examples)
        return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), terms)

    return masked


def _only(condition: jax.Array, tree: Any) -> Any:
    """Zeros but for the leading axes where `condition` holds."""
    return tree_where(condition, tree, jax.tree.map(jnp.zeros_like, tree))


def state_cotangents(trajectory: Trajectory, outputs_bar: Any, t: jax.Array) -> tuple[Any, Any]:
    """Computes ∂L_t/∂h_k for every k, and the part of it that step k itself receives: zero on a
    masked step.

    A reverse scan with the loss of step t alone. Its lines are those of `step_flags`.
    """
    cell, params_T = trajectory.cell, transpose_matrices(trajectory.params)
    state = zero_state(trajectory)

    def step_back(delta, step):
        k, flags, j, y_bar = step
        own = jax.tree.map(lambda bar: jnp.where(j == t, bar, 0), transpose_output(cell.output, state, y_bar))
        h_bar = jax.tree.map(jnp.add, delta, own)
        valid_h_bar = zero_masked(flags, h_bar)
        h_prev_bar = where_differentiable(state, state_vjp(cell, params_T, k, valid_h_bar))
        passed_on = tree_where(flags.mask, zero_at_resets(flags, h_prev_bar), h_bar)
        return jax.tree.map(lambda bar: jnp.where(j <= t, bar, 0), passed_on), (h_bar, valid_h_bar)

    zeros = jax.tree.map(jnp.zeros_like, differentiable(state))
    steps = (trajectory.k, trajectory.flags, jnp.arange(trajectory.steps), outputs_bar)
    return lax.scan(step_back, zeros, steps, reverse=True)[1]

"""The loop over the time steps of a block, as the plan wants it: `lax.scan`, after computing what is the
same at every step; or one GPU kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._engine.plan import Plan
from gru_jax._jax.jaxprs import as_function, without_invariants

Step = Callable[..., tuple[Any, Any]]


def scan_steps(
    plan: Plan,
    step: Step,
    per_sequence: Any,
    carry: Any,
    at_all_t: Any,
    *,
    reverse: bool,
    batch_rank: int,
    length: Any = None,
) -> tuple[Any, Any]:
    """`lax.scan(partial(step, per_sequence), carry, at_all_t)`.

    `step(per_sequence, carry, at_t) -> (carry, results)` may close over arrays without batch axes.
    Those with batch axes that all steps share are `per_sequence`.
    """
    leaves = jax.tree.leaves(at_all_t)
    has_steps = bool(leaves) and leaves[0].shape[0] != 0
    if plan.kernel is not None and has_steps and leaves[0].size:
        from gru_jax._engine.fused import fused_steps

        return fused_steps(plan.kernel, step, per_sequence, carry, at_all_t, reverse=reverse, batch_rank=batch_rank)
    of_sequences: Step = partial(step, per_sequence)
    if (plan.few_launches or plan.step_by_step) and has_steps:
        of_sequences = hoisted(of_sequences, carry, jax.tree.map(lambda leaf: leaf[0], at_all_t))
    return lax.scan(of_sequences, carry, at_all_t, reverse=reverse, length=length, unroll=plan.unroll)


def hoisted(step: Step, carry: Any, at_t: Any) -> Step:
    """Returns a step that computes nothing which is the same at every step: that is computed here, once.

    XLA leaves slices and concatenations of weights in a loop. Where JAX differentiates a scan, it moves
    them out of the loop too.
    """
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(carry, at_t)
    run = as_function(without_invariants(closed))

    def rest(carry: Any, at_t: Any) -> tuple[Any, Any]:
        return jax.tree.unflatten(jax.tree.structure(shapes), run(*jax.tree.leaves((carry, at_t))))

    return rest


class Stacking:
    """Stacks arrays of one shape and dtype in a step of a loop, so that storing them is one launch."""

    def __init__(self) -> None:
        self.structure: Any = None

    def stack(self, tree: Any) -> Any:
        """Stacks the leaves of one step if all are alike."""
        leaves, self.structure = jax.tree.flatten(tree)
        alike = len({(leaf.shape, leaf.dtype) for leaf in leaves}) == 1
        return jnp.stack(leaves) if alike else leaves

    def unstack(self, stacked: Any) -> Any:
        """Returns the trees of all steps, from what the loop has put together."""
        leaves = stacked if isinstance(stacked, list) else jnp.unstack(stacked, axis=1)
        return jax.tree.unflatten(self.structure, leaves)

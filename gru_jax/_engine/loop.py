"""The loop over the time steps of a block, as the plan wants it: `lax.scan`, or on a GPU a version of it
that launches fewer kernels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._engine.plan import Plan
from gru_jax._jax.jaxprs import as_function, without_invariants

Step = Callable[[Any, Any], tuple[Any, Any]]


def scan_steps(plan: Plan, step: Step, carry: Any, at_all_t: Any, *, reverse: bool, length: Any = None) -> tuple[Any, Any]:
    """`lax.scan(step, carry, at_all_t)`."""
    leaves = jax.tree.leaves(at_all_t)
    if plan.few_launches and leaves and leaves[0].shape[0]:
        step = hoisted(step, carry, jax.tree.map(lambda leaf: leaf[0], at_all_t))
    return lax.scan(step, carry, at_all_t, reverse=reverse, length=length, unroll=plan.unroll)


def hoisted(step: Step, carry: Any, at_t: Any) -> Step:
    """Returns a step that computes nothing which is the same at every step: that is computed here, once.

    XLA moves most of it out of a loop by itself, but not the concatenation of weights.
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

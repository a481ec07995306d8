"""The loop over time steps as one GPU kernel, instead of some launches per step.

A grid runs over tiles of the batch. Each program of it keeps its tile of the state in registers, runs
all time steps, and reads the step's arrays and writes its results as it goes. The recurrent weights
are loaded once, or at each step where they do not fit into the shared memory.

The step is any function of JAX arrays: the engine's forward step and its transpose, of every cell.
It is traced for a tile; what does not depend on the step is computed before the kernel; and
`fused_values` evaluates the rest inside. Derivatives of the kernel itself are those of the scan.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from gru_jax._engine.fused_kernel import run_kernel
from gru_jax._engine.fused_values import Unsupported
from gru_jax._engine.plan_kernel import FUSED_TILE, Kernel
from gru_jax._jax.jaxprs import as_function, inlined, without_invariants
from gru_jax._jax.sharding import shape_like

Step = Callable[..., tuple[Any, Any]]


def fused_steps(
    kernel: Kernel, step: Step, per_sequence: Any, carry: Any, at_all_t: Any, *, reverse: bool, batch_rank: int
) -> tuple[Any, Any]:
    """`lax.scan(partial(step, per_sequence), carry, at_all_t)` as one kernel.

    Args:
        kernel: How it is run, from the plan.
        step: `step(per_sequence, carry, at_t) -> (carry, results)`. It may close over weights.
        per_sequence: Arrays with the batch axes first.
        carry: The same.
        at_all_t: Arrays with the axes of time and batch first.
        reverse: Whether to run from the last step to the first.
        batch_rank: How many batch axes there are.

    Raises:
        ValueError: If the kernel cannot run this step.
    """
    flat = lambda tree, first: jax.tree.map(lambda leaf: _merge(leaf, first, batch_rank), tree)
    arguments = flat(per_sequence, 0), flat(carry, 0), flat(at_all_t, 1)
    of_tile, results = _traced(step, *arguments, FUSED_TILE)
    whole, _ = _traced(step, *arguments, None)
    num_carry = len(jax.tree.leaves(carry))

    @jax.custom_jvp
    def run(tile_constants: Any, constants: Any, *arguments: Any) -> list[Any]:
        program = without_invariants(inlined(of_tile.replace(consts=tile_constants)))
        return run_kernel(kernel, program, reverse, *arguments)

    def scan(constants: Any, per_sequence: Any, carry: Any, at_all_t: Any) -> list[Any]:
        function = as_function(whole.replace(consts=constants))

        def step(carry: Any, at_t: Any) -> tuple[Any, Any]:
            out = function(*per_sequence, *carry, *at_t)
            return out[:num_carry], out[num_carry:]

        last, stacked = lax.scan(step, carry, at_all_t, reverse=reverse)
        return [*last, *stacked]

    @run.defjvp
    def run_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
        # The values are the kernel's here too: under vmap, JAX takes the batch axes of the results of both
        # functions to be the same.
        return run(*primals), jax.jvp(scan, primals[1:], tangents[1:])[1]

    try:
        found = run(of_tile.consts, whole.consts, *map(jax.tree.leaves, arguments))
    except Unsupported as reason:
        raise ValueError(
            f'derivative: got CustomVJP(loop="fused") for a cell with {reason}, which the kernel lacks. '
            'Use loop="scan", or loop="auto".'
        ) from None
    batch = jax.tree.leaves(carry)[0].shape[:batch_rank]
    split = lambda leaf, first: leaf.reshape(*leaf.shape[:first], *batch, *leaf.shape[first + 1 :])
    found = [split(leaf, int(i >= num_carry)) for i, leaf in enumerate(found)]
    return jax.tree.unflatten(jax.tree.structure(results), found)


def _merge(leaf: jax.Array, first: int, batch_rank: int) -> jax.Array:
    """Makes one axis of the batch axes, which follow `first` others."""
    shape = leaf.shape
    return leaf.reshape(*shape[:first], math.prod(shape[first : first + batch_rank]), *shape[first + batch_rank :])


def _traced(step: Step, per_sequence: Any, carry: Any, at_all_t: Any, sequences: int | None) -> tuple[Any, Any]:
    """The program of one step of so many sequences (None: of all), and the form of its results."""

    def example(leaf: Any, first: int) -> Any:
        batch = leaf.shape[first] if sequences is None else sequences
        return shape_like((batch, *leaf.shape[first + 1 :]), leaf.dtype, leaf)

    first = jax.tree.map(lambda leaf: example(leaf, 0), (per_sequence, carry))
    try:
        return jax.make_jaxpr(step, return_shape=True)(*first, jax.tree.map(lambda leaf: example(leaf, 1), at_all_t))
    except (TypeError, ValueError) as error:
        if sequences is None:
            raise
        raise ValueError(
            f'derivative: got CustomVJP(loop="fused") for a cell whose step does not run on {sequences} sequences alone '
            f'({error}). Params with batch axes need loop="scan".'
        ) from error

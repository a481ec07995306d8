"""The checks, in the order in which they run.

Each check is a function that takes a `Verification` and returns a `Check`. They are in these
modules:

    values          outputs and gradients in float64
    structure       types and shapes, determinism, and runs without jit
    coverage        whether the inputs and the tolerance would reveal a fault
    native          gradients in the dtypes of the arguments
    numerical       finite differences
    higher_order    forward mode and second derivatives
    transforms      gradients under JAX's transformations
    edges           gradients at extreme inputs
"""

from collections.abc import Callable

from gru_jax.verify.checks import coverage, edges, higher_order, native, numerical, structure, transforms, values
from gru_jax.verify.report import Check
from gru_jax.verify.verification import Verification

FAST_CHECKS: dict[str, Callable[[Verification], Check]] = {
    "primal": values.primal,
    "structure": structure.structure,
    "gradient": values.gradient,
    "cotangents": values.cotangents,
    "linearity": values.linearity,
    "inputs": coverage.inputs,
    "guard": coverage.guard,
}
ALL_CHECKS: dict[str, Callable[[Verification], Check]] = FAST_CHECKS | {
    "native": native.native,
    "numerical": numerical.numerical,
    "dot_product": higher_order.dot_product,
    "second_order": higher_order.second_order,
    "determinism": structure.determinism,
    "eager": structure.eager,
    "vmap": transforms.vmap,
    "scan": transforms.scan,
    "checkpoint": transforms.checkpoint,
    "shard_map": transforms.shard_map,
    "flags": transforms.flags,
    "edges": edges.edges,
}

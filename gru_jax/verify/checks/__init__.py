"""The checks, in the order in which they run and are reported.

Each is a function from a `Verification` to a `Check`. `values` compares outputs and gradients,
`structure` types and shapes, `coverage` tells whether the inputs and the tolerance would show a
fault, `native` compares in the dtypes given, `numerical` with finite differences, `higher_order` in
forward mode and to second order, `transforms` under JAX's transformations, and `edges` at extreme
inputs.
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

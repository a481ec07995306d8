"""The reference for an intended gradient, which need not be the derivative of the function.

Examples are straight-through estimators, gradient reversal and gradient clipping. The user passes
`gradient(args, cotangents)`, and the reference is the function with that as its backward rule.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax.verify.function import Arrays, FlatFunction, Outputs, RealFunction, as_real


def with_gradient(function: FlatFunction, primal: RealFunction, gradient: Callable[..., Any]) -> RealFunction:
    """Returns `primal` with `gradient` as its backward rule.

    Args:
        function: The function to verify.
        primal: Computes its values from real leaves.
        gradient: A function (args, cotangents) ↦ gradients, one for each argument. None means
            zeros. The cotangents have the structure of the outputs.

    Raises:
        ValueError: When called, if `gradient` returns another number of gradients or other shapes.
    """

    def call_real(leaves: Sequence[Any], nondiff_args: Sequence[Any]) -> Outputs:
        complex_outputs = jax.eval_shape(function.call, function.as_given(leaves), nondiff_args)

        @jax.custom_vjp
        def values(leaves):
            return primal(leaves, nondiff_args).floating

        def backward(leaves, us):
            args = function.arguments(function.as_given(leaves), nondiff_args)[0]
            returned = gradient(args, _cotangents(complex_outputs, us))
            return (_flat(function, args, returned, leaves),)

        values.defvjp(lambda leaves: (values(leaves), leaves), backward)
        return Outputs(values(tuple(leaves)), primal(leaves, nondiff_args).other)

    return call_real


def _cotangents(outputs: Any, us: Arrays) -> Any:
    """Returns the cotangents in the structure of the outputs, with None for integer outputs."""
    remaining = iter(us)

    def cotangent(y: Any) -> Any:
        if not jnp.issubdtype(y.dtype, jnp.inexact):
            return None
        u = next(remaining)
        return jax.lax.complex(u[..., 0], u[..., 1]) if jnp.issubdtype(y.dtype, jnp.complexfloating) else u

    return jax.tree.map(cotangent, outputs)


def _flat(function: FlatFunction, args: tuple[Any, ...], returned: Any, leaves: Arrays) -> Arrays:
    """Returns the gradient of each differentiable leaf, as real arrays."""
    returned = tuple(returned) if isinstance(returned, tuple | list) else (returned,)
    if len(returned) != len(args):
        raise ValueError(
            f"gradient must return a gradient for each of the {len(args)} arguments, got {len(returned)}; "
            "return a tuple, with None for arguments that have no gradient"
        )
    every: list[Any] = []
    for i, (arg, bar) in enumerate(zip(args, returned, strict=True)):
        count = len(jax.tree.leaves(arg))
        bars = [None] * count if bar is None else jax.tree.leaves(bar, is_leaf=lambda x: x is None)
        if len(bars) != count:
            raise ValueError(f"gradient must return the structure of argument {i}, got {len(bars)} arrays, expected {count}")
        every += bars
    every += [None] * (len(function.kinds) - len(every))  # keyword arguments have a gradient of zero
    chosen = [bar for bar, kind in zip(every, function.kinds, strict=True) if kind == "differentiable"]
    flat = []
    for name, bar, leaf in zip(function.leaf_names, chosen, leaves, strict=True):
        real = jnp.zeros_like(leaf) if bar is None else as_real(jnp.asarray(bar)).astype(leaf.dtype)
        if real.shape != leaf.shape:
            raise ValueError(f"gradient must return the shape of {name}, got {real.shape}, expected {leaf.shape}")
        flat.append(real)
    return tuple(flat)

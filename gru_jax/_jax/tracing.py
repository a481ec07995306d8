"""Inspects tracers, and refuses forward mode with our own message."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# JAX's error when forward mode meets a custom VJP. 0.10 to 0.12 agree on this part of it.
_JAX_FORWARD_MODE_ERROR = "can't apply forward-mode"


_reverse_only_p = Primitive("reverse_only")


@_reverse_only_p.def_impl
def _raise_on_evaluation(tangent, *, message: str):
    raise TypeError(message)


def _raise_on_lowering(context, tangent, *, message: str):
    raise TypeError(message)


_reverse_only_p.def_abstract_eval(lambda tangent, *, message: tangent)
mlir.register_lowering(_reverse_only_p, _raise_on_lowering)
ad.deflinear(_reverse_only_p, lambda cotangent, *, message: [cotangent])
batching.primitive_batchers[_reverse_only_p] = lambda args, dims, *, message: (
    _reverse_only_p.bind(*args, message=message),
    dims[0],
)


def reverse_only(tree: Any, message: str) -> Any:
    """Returns `tree` unchanged. Forward mode through it raises `TypeError(message)`; reverse mode passes.

    Reverse mode never evaluates a tangent, it only transposes the tangent map. So the custom JVP is
    a linear primitive whose transpose is the identity, and whose evaluation raises, at once or when
    it is lowered under `jit`.
    """

    @jax.custom_jvp
    def identity(x):
        return x

    @identity.defjvp
    def identity_jvp(primals, tangents):
        return primals[0], _reverse_only_p.bind(tangents[0], message=message)

    return jax.tree.map(lambda x: identity(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)


def is_forward_mode_error(error: TypeError) -> bool:
    """Whether `error` is JAX's own refusal of forward mode through a custom VJP.

    A `jit` of a batched tangent raises it before `reverse_only` is lowered.
    """
    return _JAX_FORWARD_MODE_ERROR in str(error)


def is_traced(x: Any) -> bool:
    """Whether the values of `x` are unknown, because `jit`, `vmap` or `grad` traces it."""
    return isinstance(x, jax.core.Tracer)


def vmapped(tree: Any) -> int:
    """Returns how many elements `jax.vmap` maps over, of all its axes together.

    Counts the axes that the tracers in `tree` show. A loop, a `jit` or a `checkpoint` in between
    traces on its own and hides them.
    """
    axes = {}
    for x in jax.tree.leaves(tree):
        while is_traced(x):
            if hasattr(x, "batch_dim"):  # a tracer of vmap; those of grad have a `primal`
                if isinstance(x.batch_dim, int):
                    axes[id(x._trace.tag)] = x.val.shape[x.batch_dim]
                x = x.val
            else:
                x = getattr(x, "primal", None)
    return math.prod(axes.values())

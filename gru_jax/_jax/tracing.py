"""What tracers tell, and a refusal of forward mode with a message of our own."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# What JAX says when forward mode meets a custom VJP (0.10 to 0.12 agree on this part of the
# sentence).
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
    """The identity on `tree`; forward mode through it raises `TypeError(message)`, reverse mode
    passes.

    Reverse mode evaluates no tangent, it transposes the tangent map. So the custom JVP is a linear
    primitive whose transpose is the identity and whose evaluation, at once or when lowered under
    `jit`, raises.
    """

    @jax.custom_jvp
    def identity(x):
        return x

    @identity.defjvp
    def identity_jvp(primals, tangents):
        return primals[0], _reverse_only_p.bind(tangents[0], message=message)

    return jax.tree.map(lambda x: identity(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)


def is_forward_mode_error(error: TypeError) -> bool:
    """Whether `error` is JAX's own refusal of forward mode through a custom VJP (`jit` of a batched
    tangent gets there before `reverse_only` is lowered)."""
    return _JAX_FORWARD_MODE_ERROR in str(error)


def is_traced(x: Any) -> bool:
    """Whether the values of `x` are unknown: it is traced by `jit`, `vmap`, `grad`."""
    return isinstance(x, jax.core.Tracer)


def vmapped(tree: Any) -> int:
    """How many elements `jax.vmap` maps over what is computed from `tree`, of all its axes
    together, as far as tracers tell: what is traced on its own in between (a loop, a `jit`, a
    `checkpoint`) hides it."""
    axes = {}
    for x in jax.tree.leaves(tree):
        while is_traced(x):
            if hasattr(x, "batch_dim"):  # vmap's tracer, which holds the whole in `val`; grad's hold a `primal`
                if isinstance(x.batch_dim, int):
                    axes[id(x._trace.tag)] = x.val.shape[x.batch_dim]
                x = x.val
            else:
                x = getattr(x, "primal", None)
    return math.prod(axes.values())

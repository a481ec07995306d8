"""Whatever differs between JAX versions, or rests on a corner of JAX that may change: this module and no other.

Supported: JAX 0.10 to 0.12 (see CHANGELOG.md for the policy).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, PartitionSpec

# The names under which a custom rule shows in a jaxpr: the classic one, and the one of the flag `jax_custom_vjp3`.
CUSTOM_VJP_PRIMITIVES = ("custom_vjp_call", "CustomVJPTraced")

# What JAX says when forward mode meets a custom VJP (0.10 to 0.12 agree on this part of the sentence).
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
    """The identity on `tree`; forward mode through it raises `TypeError(message)`, reverse mode passes.

    Reverse mode evaluates no tangent, it transposes the tangent map. So the custom JVP is a linear primitive whose
    transpose is the identity and whose evaluation, at once or when lowered under `jit`, raises.
    """

    @jax.custom_jvp
    def identity(x):
        return x

    @identity.defjvp
    def identity_jvp(primals, tangents):
        return primals[0], _reverse_only_p.bind(tangents[0], message=message)

    return jax.tree.map(lambda x: identity(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)


def is_forward_mode_error(error: TypeError) -> bool:
    """Whether `error` is JAX's own refusal of forward mode through a custom VJP (`jit` of a batched tangent gets there
    before `reverse_only` is lowered)."""
    return _JAX_FORWARD_MODE_ERROR in str(error)


def is_traced(x: Any) -> bool:
    """Whether the values of `x` are unknown: it is traced by `jit`, `vmap`, `grad`."""
    return isinstance(x, jax.core.Tracer)


def vary_like(tree: Any, *like: Any) -> Any:
    """`tree` varying over every mesh axis that an array in `like` varies over inside `shard_map`; elsewhere `tree` itself.

    The transpose of this cast is the sum over those axes: a parameter that is replicated comes in through it, and its gradient
    goes out all-reduced, once per call.
    """
    axes = frozenset().union(*map(_varying_axes, jax.tree.leaves(like)))

    def cast(leaf):
        missing = tuple(axes - _varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree) if axes else tree


def shard_like(tree: Any, like: jax.Array, batch_rank: int) -> Any:
    """`tree` with its leading `batch_rank` axes sharded, over Explicit mesh axes, as the batch axes of `like`, which are those
    before its last; elsewhere `tree` itself."""
    batch = _explicit_spec(like)[like.ndim - 1 - batch_rank : like.ndim - 1]
    return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, PartitionSpec(*batch)), tree) if any(batch) else tree


def replicated(*summed: jax.Array) -> PartitionSpec | None:
    """The `out_sharding` of a product that sums over the leading axes of `summed`: on a mesh with Explicit axes a sum over a
    sharded axis must say that its result is whole on every device."""
    return PartitionSpec() if any(any(_explicit_spec(x)[:-1]) for x in summed) else None


def _varying_axes(x: Any) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying


def _explicit_spec(x: jax.Array) -> tuple[Any, ...]:
    """How the axes of `x` are sharded over Explicit mesh axes; empty where there are none."""
    sharding = jax.typeof(x).sharding
    return tuple(sharding.spec) if AxisType.Explicit in sharding.mesh.axis_types else ()

"""Whatever differs between JAX versions, or rests on a corner of JAX that may change: this module and no other.

What is written in one way for all versions because of a bug in one says so where it is written.

Supported: JAX 0.10 to 0.12 (see CHANGELOG.md for the policy).
"""

import math
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive, jaxpr_as_fun
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


def vmapped(tree: Any) -> int:
    """How many elements `jax.vmap` maps over what is computed from `tree`, of all its axes together, as far as tracers tell: what is
    traced on its own in between (a loop, a `jit`, a `checkpoint`) hides it."""
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


def vary_like(tree: Any, *like: Any) -> Any:
    """`tree` varying over every mesh axis that an array in `like` varies over inside `shard_map`; elsewhere `tree` itself.

    The transpose of this cast is the sum over those axes: a parameter that is replicated comes in through it, and its gradient
    goes out all-reduced, once per call.
    """
    return varying(tree, *frozenset().union(*map(_varying_axes, jax.tree.leaves(like))))


def varying(tree: Any, *axes: str) -> Any:
    """`tree` varying over these mesh axes, inside `shard_map`."""

    def cast(leaf):
        missing = tuple(axis for axis in axes if axis not in _varying_axes(leaf))
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


def explicitly_sharded(*arrays: jax.Array) -> bool:
    """Whether one of them is sharded over Explicit mesh axes: `concatenate` and others then want the same of all."""
    return any(any(_explicit_spec(x)) for x in arrays)


def _varying_axes(x: Any) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying


def _explicit_spec(x: jax.Array) -> tuple[Any, ...]:
    """How the axes of `x` are sharded over Explicit mesh axes; empty where there are none."""
    sharding = jax.typeof(x).sharding
    return tuple(sharding.spec) if AxisType.Explicit in sharding.mesh.axis_types else ()


def gathered(leaf: Any) -> Any:
    """An array that is spread over processes, whole on the host of each; every process must ask."""
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)


def from_every_process(flag: bool) -> Any:
    """The flags of all processes; every process must ask."""
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(flag))


def wait_for_processes(name: str) -> None:
    """Returns when every process has come here."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def map_jaxprs(transform: Any, value: Any) -> Any:
    """`value`, a parameter of an equation, with `transform` applied to every open jaxpr in it, however it is packed."""
    if isinstance(value, Jaxpr):
        return transform(value)
    if isinstance(value, ClosedJaxpr):  # in JAX 0.12 the two classes are one
        return value.replace(jaxpr=transform(value.jaxpr))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_jaxprs(transform, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_jaxprs(transform, item) for item in value)
    return value


def custom_rule(equation: JaxprEqn) -> tuple[str, Any] | None:
    """(kind, jaxpr of the primal) where `equation` calls a function with a custom rule, by whichever of JAX's primitives."""
    name = equation.primitive.name
    classic, under_vjp3 = CUSTOM_VJP_PRIMITIVES
    if name in (classic, "custom_jvp_call"):
        return name.removesuffix("_call"), equation.params["call_jaxpr"]
    rule: Any = equation.params.get("_prim")  # under the flag `jax_custom_vjp3`
    if type(rule).__name__ == under_vjp3:
        return "custom_vjp", rule.traced.jaxpr
    return None


def source_of(jaxpr: Any) -> tuple[str, bool]:
    """(name of the traced function, whether it is JAX's own)."""
    info = jaxpr.jaxpr.debug_info if hasattr(jaxpr, "jaxpr") else jaxpr.debug_info
    name, _, place = str(info.func_src_info).partition(" at ")
    return name, place.startswith(str(Path(jax.__file__).parent))


def call_instead(equation: JaxprEqn, jaxpr: Any) -> JaxprEqn:
    """An equation that calls `jaxpr` by `jit`, with the operands and the results of `equation`."""
    operands, results = len(equation.invars), len(equation.outvars)
    template = jax.make_jaxpr(jax.jit(lambda *xs: [jnp.zeros(())] * results))(*[jnp.zeros(())] * operands).jaxpr.eqns[-1]
    return equation.replace(primitive=template.primitive, params={**template.params, "jaxpr": jaxpr})


def as_function(jaxpr: Any) -> Any:
    """The function of flat arguments that a closed jaxpr computes."""
    return jaxpr_as_fun(jaxpr)


def x64() -> bool:
    """Whether arrays may be float64 here."""
    return bool(jax.config.read("jax_enable_x64"))


def configured(flag: str, value: bool) -> AbstractContextManager[Any]:
    """A context in which JAX's experimental `flag` is `value`. Raises AttributeError where this JAX has no such flag."""
    import jax._src.config as states

    return getattr(states, flag.removeprefix("jax_"))(value)


def constants_are_arguments() -> bool:
    """Whether lowered programs take their constants as hidden arguments, so that their text does not tell them apart."""
    return bool(getattr(jax.config, "jax_use_simplified_jaxpr_constants", False))


def cores_per_device() -> int | None:
    """How many CPU cores each device has here; None where devices are no CPUs. Many devices on few cores share one."""
    if jax.default_backend() != "cpu":
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // jax.local_device_count(), 1)


def share_of_batch(sequences: int, xs: jax.Array) -> int:
    """How many of these sequences of `xs` a CPU device has. Inside `shard_map` xs are its own. Under `jit` how they are sharded is not
    known: over all devices of the mesh, or else of the machine, is assumed. On other devices all are counted."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.manual_axes or jax.default_backend() != "cpu":
        return sequences
    all_devices = jax.device_count() if mesh.empty else mesh.size
    return -(-sequences // (all_devices if is_traced(xs) else len(xs.sharding.device_set)))


def half_precision_loops_grow() -> bool:
    """Whether a step in half precision takes the longer the longer its loop is: on a CPU with jaxlib 0.10; with 0.12 that is past
    (0.11 was not measured)."""
    return jax.default_backend() == "cpu" and jax.__version_info__ < (0, 12)

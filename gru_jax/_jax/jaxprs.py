"""Reading and rewriting traced programs: custom rules in them, and the functions they compute."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun

# The names under which a custom rule shows in a jaxpr: the classic one, and the one of the flag `jax_custom_vjp3`.
CUSTOM_VJP_PRIMITIVES = ("custom_vjp_call", "CustomVJPTraced")


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

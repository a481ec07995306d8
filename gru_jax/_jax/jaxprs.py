"""Reads and rewrites jaxprs: finds custom rules, replaces calls, and evaluates the result."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from gru_jax._jax.sharding import shape_like

# Names of the primitives that call a custom VJP: the classic one, and that of `jax_custom_vjp3`.
CUSTOM_VJP_PRIMITIVES = ("custom_vjp_call", "CustomVJPTraced")


def map_jaxprs(transform: Any, value: Any) -> Any:
    """Applies `transform` to every open jaxpr in `value`, a parameter of an equation.

    The jaxprs may be closed, and nested in tuples, named tuples and lists.
    """
    if isinstance(value, Jaxpr):
        return transform(value)
    if isinstance(value, ClosedJaxpr):  # one class with Jaxpr in JAX 0.12
        return value.replace(jaxpr=transform(value.jaxpr))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_jaxprs(transform, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_jaxprs(transform, item) for item in value)
    return value


def primitive_names(jaxpr: Any) -> set[str]:
    """Returns the names of the primitives in a closed jaxpr, at any depth."""
    names: set[str] = set()

    def visit(inner: Any) -> Any:
        for equation in inner.eqns:
            names.add(equation.primitive.name)
            for value in equation.params.values():
                map_jaxprs(visit, value)
        return inner

    map_jaxprs(visit, jaxpr)
    return names


def constants_of(jaxpr: Any) -> list[Any]:
    """Returns the arrays and numbers that a closed jaxpr holds, at any depth."""
    constants = list(jaxpr.consts)

    def visit(inner: Any) -> Any:
        if isinstance(inner, ClosedJaxpr):
            constants.extend(inner.consts)
        for equation in inner.eqns:
            constants.extend(variable.val for variable in equation.invars if isinstance(variable, Literal))
            for value in equation.params.values():
                map_jaxprs(visit, value)
        return inner

    map_jaxprs(visit, jaxpr)
    constants.extend(variable.val for variable in jaxpr.jaxpr.outvars if isinstance(variable, Literal))
    return constants


def custom_rule(equation: JaxprEqn) -> tuple[str, Any] | None:
    """Returns the kind of the custom rule that `equation` calls, and the jaxpr of its primal.

    Returns None if `equation` calls no custom rule.
    """
    name = equation.primitive.name
    classic, under_vjp3 = CUSTOM_VJP_PRIMITIVES
    if name in (classic, "custom_jvp_call"):
        return name.removesuffix("_call"), equation.params["call_jaxpr"]
    rule: Any = equation.params.get("_prim")  # set with the flag `jax_custom_vjp3`
    if type(rule).__name__ == under_vjp3:
        return "custom_vjp", rule.traced.jaxpr
    return None


def source_of(jaxpr: Any) -> tuple[str, bool]:
    """Returns the name of the traced function, and whether it belongs to JAX."""
    info = jaxpr.jaxpr.debug_info if hasattr(jaxpr, "jaxpr") else jaxpr.debug_info
    name, _, place = str(info.func_src_info).partition(" at ")
    return name, place.startswith(str(Path(jax.__file__).parent))


def rule_is_jax_own(equation: JaxprEqn) -> bool:
    """Returns whether the rule of a `custom_jvp` call belongs to JAX, not only its primal.

    Rules attached with `defjvps` count as JAX's own, because JAX wraps them in a function of its own.
    """
    info = getattr(equation.params.get("jvp_jaxpr_fun"), "debug_info", None)
    place = str(getattr(info, "func_src_info", "")).partition(" at ")[2]
    return not place or place.startswith(str(Path(jax.__file__).parent))


def call_instead(equation: JaxprEqn, jaxpr: Any) -> JaxprEqn:
    """Returns an equation that calls `jaxpr` with the operands and results of `equation`."""
    operands, results = len(equation.invars), len(equation.outvars)
    template = jax.make_jaxpr(jax.jit(lambda *xs: [jnp.zeros(())] * results))(*[jnp.zeros(())] * operands).jaxpr.eqns[-1]
    return equation.replace(
        primitive=template.primitive, params={**template.params, "jaxpr": map_jaxprs(_without_argument_names, jaxpr)}
    )


def _without_argument_names(jaxpr: Any) -> Any:
    # If a custom_jvp function gets its nondiff_argnums by keyword, the debug information of its
    # jaxpr also names those arguments. JAX raises an AssertionError when it compiles a call of it.
    return jaxpr.replace(debug_info=jaxpr.debug_info._replace(arg_names=None))


def as_function(jaxpr: Any) -> Any:
    """Returns the function of flat arguments that a closed jaxpr computes."""
    return jaxpr_as_fun(jaxpr)


# Primitives that do nothing but call a jaxpr, or whose primal is one.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")


def inlined(closed: Any) -> Any:
    """Returns a closed jaxpr without calls: without `jit`, `checkpoint` and custom rules inside."""

    def run(jaxpr: Any, values: dict[Any, Any], arguments: Any) -> list[Any]:
        values.update(zip(jaxpr.invars, arguments, strict=True))
        read = lambda var: var.val if isinstance(var, Literal) else values[var]
        for equation in jaxpr.eqns:
            operands = [read(var) for var in equation.invars]
            if equation.primitive.name in _CALLS:
                inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
                constants = (
                    dict(zip(inner.jaxpr.constvars, inner.consts, strict=True)) if isinstance(inner, ClosedJaxpr) else {}
                )
                results = run(getattr(inner, "jaxpr", inner), constants, operands)
            else:
                results = equation.primitive.bind(*operands, **equation.params)
                results = results if equation.primitive.multiple_results else [results]
            values.update(zip(equation.outvars, results, strict=True))
        return [read(var) for var in jaxpr.outvars]

    def flat(constants: Any, arguments: Any) -> list[Any]:
        return run(closed.jaxpr, dict(zip(closed.jaxpr.constvars, constants, strict=True)), arguments)

    avals = [shape_like(var.aval.shape, var.aval.dtype, var.aval) for var in closed.jaxpr.invars]
    found = jax.make_jaxpr(flat)(closed.consts, avals)
    jaxpr, count = found.jaxpr, len(closed.consts)
    names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    constvars, invars = [*jaxpr.constvars, *jaxpr.invars[:count]], jaxpr.invars[count:]
    return ClosedJaxpr(jaxpr.replace(constvars=constvars, invars=invars, debug_info=names), [*found.consts, *closed.consts])


def without_invariants(closed: Any) -> Any:
    """Evaluates what a closed jaxpr computes from its constants alone. Returns the rest of it.

    Its constants may be traced. Nothing is evaluated whose result is larger than its operands, such
    as a broadcast, because that would only be more to read, or has a symbolic size.
    """
    jaxpr, known = closed.jaxpr, set(closed.jaxpr.constvars)
    early: list[JaxprEqn] = []
    late: list[JaxprEqn] = []
    for equation in jaxpr.eqns:
        operands = [var for var in equation.invars if not isinstance(var, Literal)]
        is_invariant = not equation.effects and known.issuperset(operands) and not _grows(operands, equation.outvars)
        (early if is_invariant else late).append(equation)
        if is_invariant:
            known.update(equation.outvars)
    if not early:
        return closed
    used = {var for equation in late for var in equation.invars if not isinstance(var, Literal)}
    used |= {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    kept = [var for var in (*jaxpr.constvars, *(var for equation in early for var in equation.outvars)) if var in used]
    no_names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    before = jaxpr.replace(constvars=[], invars=jaxpr.constvars, outvars=kept, eqns=early, debug_info=no_names)
    constants = jaxpr_as_fun(ClosedJaxpr(before, ()))(*closed.consts)
    return ClosedJaxpr(jaxpr.replace(constvars=kept, eqns=late, debug_info=no_names), constants)


def _grows(operands: Any, results: Any) -> bool:
    """Tells whether results are larger than operands, or of a symbolic size."""
    sizes = [var.aval.size for var in results]
    return not all(isinstance(size, int) for size in sizes) or sum(sizes) > sum(var.aval.size for var in operands)

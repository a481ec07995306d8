"""The reference: the same function with every custom rule in it replaced by its primal.

`f.__wrapped__` is not enough: a primal may call another function with a rule, and
`jax.jit(f).__wrapped__` and partials still contain the rule. Instead the function is traced. Each
call of a custom rule in its jaxpr, also inside `jit`, `scan`, `cond`, `while_loop`, `checkpoint` or
`shard_map`, is replaced by a plain call of the primal.

Rules that JAX itself attaches with `custom_jvp`, such as the rule of `jax.nn.relu`, are kept,
because they are a part of autodiff.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_jax._jax import jaxprs
from gru_jax.verify.errors import short_message
from gru_jax.verify.evaluation import evaluate
from gru_jax.verify.function import Arrays, FlatFunction, Outputs, RealFunction
from gru_jax.verify.intended import with_gradient
from gru_jax.verify.precision import Precision


class CustomRules(NamedTuple):
    """Names of the custom rules found in a function.

    Attributes:
        replaced: The rules that were replaced by their primals.
        kept: JAX's own rules, which were kept.
    """

    replaced: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """A function whose autodiff the rule is compared with.

    Attributes:
        call_real: The function of real leaves.
        user_function: What the user passed as `reference=`. None if the reference is the function
            without its custom rules.
        rules: The custom rules found in the function to verify.
        user_gradient: What the user passed as `gradient=`, or None.
        why_no_gradient: Why the reference cannot be differentiated in reverse mode. Empty if it can
            be differentiated.
        stops_gradients: Whether the function without its rules calls `stop_gradient`.
        jaxpr: The jaxpr of its outputs and gradients, or of its outputs alone if it cannot be
            differentiated.
        constants: The arrays that the function closes over.
    """

    call_real: RealFunction
    user_function: Callable[..., Any] | None
    user_gradient: Callable[..., Any] | None
    rules: CustomRules
    why_no_gradient: str
    stops_gradients: bool
    jaxpr: Any
    constants: Arrays

    @property
    def is_independent(self) -> bool:
        """Whether the reference differs from the function: it has a rule, or the user passed one."""
        return bool(self.rules.replaced) or self.is_users

    @property
    def is_users(self) -> bool:
        """Whether the user passed the expected gradient, as `reference` or as `gradient`."""
        return self.user_function is not None or self.user_gradient is not None


def make_reference(
    function: FlatFunction,
    leaves: Arrays,
    precision: Precision,
    user_function: Callable[..., Any] | None = None,
    user_gradient: Callable[..., Any] | None = None,
) -> Reference:
    """Traces the reference in one precision.

    Args:
        function: The function to verify.
        leaves: Its real leaves in float64.
        precision: The precision to trace in.
        user_function: A trusted function of the same arguments. If None, the reference is the
            function without its custom rules.
        user_gradient: The intended gradient, a function of the arguments and the cotangents.

    Raises:
        ValueError: If `user_function` returns other shapes than the function.
    """
    with precision.active():
        leaves = precision.cast(leaves)
        traced, outputs = jax.make_jaxpr(function.call_real, return_shape=True)(leaves, precision.nondiff_args)
        primal, rules = without_rules(traced)
        call_real = _as_real_function(primal, outputs)
        if user_gradient is not None:
            call_real = with_gradient(function, call_real, user_gradient)
        elif user_function is not None:
            call_real = dataclasses.replace(function, fun=user_function).call_real
            returned = jax.eval_shape(call_real, leaves, precision.nondiff_args)
            if jax.tree.map(jnp.shape, returned) != jax.tree.map(jnp.shape, outputs):
                raise ValueError(
                    f"reference must return the shapes that fun returns, got {_shapes(returned)}, expected {_shapes(outputs)}; "
                    "pass a function with the same arguments and outputs as fun"
                )
        cotangents = [jnp.zeros(y.shape, y.dtype) for y in outputs.floating]
        try:
            jaxpr = jax.make_jaxpr(evaluate(call_real))(leaves, precision.nondiff_args, cotangents)
            why_no_gradient = ""
        except Exception as error:
            if user_gradient is not None:
                raise
            jaxpr, why_no_gradient = primal, f"autodiff of the reference raises {short_message(error)}"
    return Reference(
        call_real=call_real,
        user_function=user_function,
        user_gradient=user_gradient,
        rules=rules,
        why_no_gradient=why_no_gradient,
        stops_gradients="stop_gradient" in jaxprs.primitive_names(primal),
        jaxpr=jaxpr,
        constants=tuple(traced.consts),
    )


def traced_where_called(function: FlatFunction) -> RealFunction:
    """Returns the function without its custom rules, traced at each call.

    Inside `shard_map`, the types of arrays contain the axes that they vary over. A jaxpr that was
    traced outside does not have them, and cannot run there.
    """

    def call_real(leaves: Sequence[Any], nondiff_args: Sequence[Any]) -> Outputs:
        traced, outputs = jax.make_jaxpr(function.call_real, return_shape=True)(leaves, nondiff_args)
        return _as_real_function(without_rules(traced)[0], outputs)(leaves, nondiff_args)

    return call_real


def _as_real_function(closed_jaxpr: Any, outputs: Outputs) -> RealFunction:
    structure, run = jax.tree.structure(outputs), jaxprs.as_function(closed_jaxpr)
    return lambda leaves, nondiff_args: jax.tree.unflatten(structure, run(*leaves, *nondiff_args))


def without_rules(closed_jaxpr: Any) -> tuple[Any, CustomRules]:
    """Returns `closed_jaxpr` with primals in place of custom rules, and the names of the rules."""
    replaced: dict[str, None] = {}
    kept: dict[str, None] = {}

    def rewrite(jaxpr):
        return jaxpr.replace(eqns=[rewrite_equation(equation) for equation in jaxpr.eqns])

    def rewrite_equation(equation):
        rule = jaxprs.custom_rule(equation)
        if rule is None:
            params = {name: jaxprs.map_jaxprs(rewrite, value) for name, value in equation.params.items()}
            return equation.replace(params=params)
        kind, primal = rule
        name, is_jax_own = jaxprs.source_of(primal)
        if kind == "custom_jvp" and is_jax_own and jaxprs.rule_is_jax_own(equation):
            kept[f"{name} ({kind})"] = None
            return equation
        replaced[f"{name} ({kind})"] = None
        return jaxprs.call_instead(equation, jaxprs.map_jaxprs(rewrite, primal))

    plain = jaxprs.map_jaxprs(rewrite, closed_jaxpr)
    return plain, CustomRules(tuple(replaced), tuple(kept))


def _shapes(outputs: Any) -> str:
    return ", ".join(f"{y.dtype}{list(y.shape)}" for y in jax.tree.leaves(outputs))

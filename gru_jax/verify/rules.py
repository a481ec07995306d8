"""The reference: the same function with every custom rule in it replaced by its primal, at any depth.

`f.__wrapped__` is not enough: a primal may call another rule, and `jax.jit(f).__wrapped__` or a partial still has the rule.
So the function is traced, and every call of a rule in its jaxpr, inside `jit`, `scan`, `cond`, `while_loop`, `checkpoint` or
`shard_map`, becomes a plain call of the jaxpr of its primal.

Rules that JAX itself attaches with `custom_jvp` (`jax.nn.relu`, `logaddexp`) stay: they are what autodiff means there.
"""

from typing import Any, NamedTuple

from gru_jax._jax import jaxprs


class Rules(NamedTuple):
    """What was found in a function: names of the rules replaced, and of JAX's own that stayed."""

    replaced: tuple[str, ...]
    kept: tuple[str, ...]


def without_rules(closed_jaxpr: Any) -> tuple[Any, Rules]:
    """`closed_jaxpr` with its custom rules replaced by their primals, and the rules' names."""
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
        if kind == "custom_jvp" and is_jax_own:
            kept[f"{name} ({kind})"] = None
            return equation
        replaced[f"{name} ({kind})"] = None
        return jaxprs.call_instead(equation, jaxprs.map_jaxprs(rewrite, primal))

    plain = jaxprs.map_jaxprs(rewrite, closed_jaxpr)
    return plain, Rules(tuple(replaced), tuple(kept))

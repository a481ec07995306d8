"""Gradients that are right only because their author says what is intended.

Each also appears as a wrong rule, without the option that says so.
"""

import jax
import jax.numpy as jnp

from experiments.foreign_rules.case import Case, Function, numbers, rule

X = 2 * numbers(3, 5)
stop = jax.lax.stop_gradient

# name: value, rule, options
_CASES: dict[str, tuple[Function, Function, dict[str, Function]]] = {
    "straight-through rounding": (
        lambda x: jnp.round(x),
        lambda args, y, u: (u,),
        {"gradient": lambda args, u: (u,)},
    ),
    "straight-through rounding by a reference": (
        lambda x: jnp.round(x),
        lambda args, y, u: (u,),
        {"reference": lambda x: x + stop(jnp.round(x) - x)},
    ),
    "binarised weights": (
        lambda x: jnp.where(x >= 0, 1.0, -1.0).astype(x.dtype),
        lambda args, y, u: (u * (jnp.abs(args[0]) <= 1),),
        {"gradient": lambda args, u: (u * (jnp.abs(args[0]) <= 1),)},
    ),
    "fake quantisation": (
        lambda x: jnp.clip(jnp.round(x * 4) / 4, -1, 1),
        lambda args, y, u: (u * (jnp.abs(args[0]) < 1),),
        {"reference": lambda x: jnp.clip(x, -1, 1) + stop(jnp.clip(jnp.round(x * 4) / 4, -1, 1) - jnp.clip(x, -1, 1))},
    ),
    "gradient reversal": (
        lambda x: x * 1,
        lambda args, y, u: (-0.5 * u,),
        {"gradient": lambda args, u: (-0.5 * u,)},
    ),
    "gradient clipping": (
        lambda x: x**2,
        lambda args, y, u: (jnp.clip(2 * args[0] * u, -1, 1),),
        {"gradient": lambda args, u: (jnp.clip(2 * args[0] * u, -1, 1),)},
    ),
    "clipping by norm": (
        lambda x: jnp.sin(x),
        lambda args, y, u: ((g := jnp.cos(args[0]) * u) / jnp.maximum(1, jnp.linalg.norm(g)),),
        {"gradient": lambda args, u: ((g := jnp.cos(args[0]) * u) / jnp.maximum(1, jnp.linalg.norm(g)),)},
    ),
    "surrogate of a spike": (
        lambda x: (x > 0).astype(x.dtype),
        lambda args, y, u: (u / (1 + 5 * jnp.abs(args[0])) ** 2,),
        {"gradient": lambda args, u: (u / (1 + 5 * jnp.abs(args[0])) ** 2,)},
    ),
    "hard sample of a softmax": (
        lambda x: jax.nn.one_hot(x.argmax(-1), 5, dtype=x.dtype),
        lambda args, y, u: jax.vjp(jax.nn.softmax, args[0])[1](u),
        {"reference": lambda x: jax.nn.softmax(x) + stop(jax.nn.one_hot(x.argmax(-1), 5, dtype=x.dtype) - jax.nn.softmax(x))},
    ),
    "perturbed maximum": (
        lambda x: x.max(-1),
        lambda args, y, u: (jax.nn.softmax(args[0]) * u[:, None],),
        {"gradient": lambda args, u: (jax.nn.softmax(args[0]) * u[:, None],)},
    ),
}
CASES: dict[str, Case] = {}
for _name, (_value, _backward, _options) in _CASES.items():
    CASES[_name] = Case(rule(_value, _backward), (X,), "intended", _options)
    CASES[f"{_name}, not said"] = Case(rule(_value, _backward), (X,), "wrong")
    _off = lambda backward: lambda args, y, u: tuple(1.01 * bar for bar in backward(args, y, u))
    CASES[f"{_name}, off by 1 %"] = Case(rule(_value, _off(_backward)), (X,), "wrong", _options)


# Autodiff of a cast is the identity too, so there is no case without the option. Eight bits are too
# coarse to call an error of 1 % wrong: it is not checked.
CASES["float8 with a straight-through gradient"] = Case(
    rule(lambda x: x.astype(jnp.float8_e4m3fn).astype(x.dtype), lambda args, y, u: (u,)),
    (X,),
    "intended",
    {"gradient": lambda args, u: (u,)},
)


def _through_stop(x):
    """Rounds without a rule of its own, by stop_gradient, and then calls a right rule."""
    square = rule(lambda x: x**2, lambda args, y, u: (2 * args[0] * u,))
    return square(x + stop(jnp.round(x) - x))


CASES["a right rule after stop_gradient"] = Case(
    _through_stop, (X,), "intended", {"reference": lambda x: (x + stop(jnp.round(x) - x)) ** 2}
)

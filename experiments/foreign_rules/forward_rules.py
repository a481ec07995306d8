"""Rules by custom_jvp, the patterns of JAX's documentation, and functions without a rule."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import Case, numbers, positive, rule
from experiments.foreign_rules.solvers import bisect

X = numbers(3, 4)


def _jvp(primal, tangent, **options):
    f = jax.custom_jvp(primal, **options)
    f.defjvp(tangent)
    return f


def _both(name, make, args, fault, **options):
    """Returns a right case `make(1)` and a wrong one `make(fault)`."""
    return {
        name: Case(make(1.0), args, "right", options),
        f"{name}, times {fault:g}": Case(make(fault), args, "wrong", options),
    }


def _by_documentation(factor):
    """The pattern of JAX's documentation: the forward rule calls the decorated function."""
    f = jax.custom_vjp(lambda x, y: jnp.sin(x) * y)
    f.defvjp(
        lambda x, y: (f(x, y), (jnp.cos(x), jnp.sin(x), y)),
        lambda saved, u: (factor * saved[0] * u * saved[2], saved[1] * u),
    )
    return f


def _by_keyword(factor):
    f = jax.custom_jvp(lambda x, n: jnp.sin(n * x), nondiff_argnums=(1,))
    f.defjvp(lambda n, primals, tangents: (jnp.sin(n * primals[0]), factor * n * jnp.cos(n * primals[0]) * tangents[0]))
    return lambda x: f(x, n=3)


def _defjvps(factor):
    f = jax.custom_jvp(lambda x, y: x**2 * y)
    f.defjvps(lambda t, y_out, x, y: factor * 2 * x * y * t, lambda t, y_out, x, y: x**2 * t)
    return f


def _static_power(factor):
    f = jax.custom_vjp(lambda x, n: x**n, nondiff_argnums=(1,))
    f.defvjp(lambda x, n: (x**n, x), lambda n, x, u: (factor * n * x ** (n - 1) * u,))
    return f


def _nested(factor):
    inner = rule(lambda x: jnp.tanh(x), lambda args, y, u: (factor * u * (1 - y**2),))
    return rule(lambda x: inner(x) ** 2, lambda args, y, u: jax.vjp(lambda x: inner(x) ** 2, *args)[1](u))


def _in_scan(factor):
    step = rule(lambda c, x: jnp.tanh(c + x), lambda args, y, u: (factor * u * (1 - y**2), u * (1 - y**2)))
    return lambda c, xs: jax.lax.scan(lambda c, x: (step(c, x), c), c, xs)


def _linear_solve(factor):
    """Differentiates a linear solve by jax.lax.custom_linear_solve, and scales by a rule."""
    scale = rule(lambda x: 2 * x, lambda args, y, u: (factor * 2 * u,))
    matrix = jnp.asarray([[2.0, 1, 0, 0], [1, 3, 0, 0], [0, 0, 1, 0.5], [0, 0, 0.5, 2]])
    solve = lambda b: jax.lax.custom_linear_solve(
        lambda v: matrix.astype(b.dtype) @ v, b, lambda _, b: jnp.linalg.solve(matrix.astype(b.dtype), b), symmetric=True
    )
    return lambda b: scale(solve(b))


CASES = (
    _both("the documentation's pattern", _by_documentation, (X, X[::-1].copy()), 1.1)
    | _both("nondiff_argnums by keyword", _by_keyword, (X,), 1.1)
    | _both("defjvps", _defjvps, (X, X[::-1].copy()), 1.01)
    | _both("a static power", _static_power, (X, 3), 0.5)
    | _both("a rule inside a rule", _nested, (X,), -1.0)
    | _both("a step in a scan", _in_scan, (X[0], X), 0.9)
    | _both("a linear solve", _linear_solve, (X[0],), 1.5)
    | _both("a rule for jnp.sin", lambda f: lambda x: _jvp(jnp.sin, lambda p, t: (jnp.sin(p[0]), f * jnp.cos(p[0]) * t[0]))(x), (X,), 1.1)
    | _both("keywords", lambda f: lambda x, *, scale: rule(lambda x: jnp.sin(x), lambda args, y, u: (f * jnp.cos(args[0]) * u,))(x) * scale, (X,), 1.1, kwargs={"scale": 1.5})
)  # fmt: skip


def _root(x):
    return jax.lax.custom_root(
        lambda y: y**3 + y - x, jnp.zeros_like(x), lambda g, y: bisect(x), lambda g, y: y / g(jnp.ones_like(y))
    )


# Functions without a rule of the user: autodiff is compared with differences.
CASES |= {
    "no rule: sine": Case(lambda x: jnp.sin(x), (X,), "no rule"),
    "no rule: jnp.sinc": Case(lambda x: jnp.sinc(x), (X,), "no rule"),
    "no rule: jax.nn.relu": Case(lambda x: jax.nn.relu(x), (X,), "no rule"),
    "no rule: jax.lax.custom_root": Case(_root, (X[0],), "no rule"),
    "no rule: jax.scipy.special.betaln": Case(
        lambda a, b: jax.scipy.special.betaln(a, b), (positive(4), positive(4, seed=1)), "no rule"
    ),
    "no rule: jax.scipy.special.gammainc": Case(
        lambda a, x: jax.scipy.special.gammainc(a, x), (positive(4), positive(4, seed=1)), "no rule", tolerance=1e-4
    ),
    "no rule: NaN by where": Case(
        lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0), (np.array([-1.0, -0.4, 0.3, 1.2], np.float32),), "wrong"
    ),
}

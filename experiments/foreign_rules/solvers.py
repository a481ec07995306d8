"""Implicit derivatives of equations, fixed points and linear systems."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint

from experiments.foreign_rules.case import Case, family, numbers, positive, rule

X, A = numbers(5), numbers(4, 4) / 4
SPD = (lambda a: (a @ a.T + 2 * np.eye(4)).astype(np.float32))(numbers(4, 4, seed=3))
B = numbers(4, seed=4)


def bisect(x):
    """Solves y³ + y = x by bisection. Autodiff of it is zero."""

    def halve(interval, _):
        low, high = interval
        middle = (low + high) / 2
        above = middle**3 + middle > x
        return (jnp.where(above, low, middle), jnp.where(above, middle, high)), None

    return jax.lax.scan(halve, (jnp.full_like(x, -10), jnp.full_like(x, 10)), None, length=60)[0][0]


def newton(x):
    """Solves y³ + y = x by Newton's method with a loop that autodiff cannot reverse."""
    step = lambda y: y - (y**3 + y - x) / (3 * y**2 + 1)
    return jax.lax.while_loop(lambda c: c[0] < 40, lambda c: (c[0] + 1, step(c[1])), (0, jnp.zeros_like(x)))[1]


def square_root_by_iteration(x):
    """Computes √x by a fixed number of Heron's steps, which autodiff can reverse."""
    return jax.lax.fori_loop(0, 30, lambda _, y: (y + x / y) / 2, jnp.ones_like(x))


def fixed_point(a, x):
    """Solves y = tanh(a y + x)."""
    return jax.lax.while_loop(lambda c: c[0] < 200, lambda c: (c[0] + 1, jnp.tanh(a @ c[1] + x)), (0, jnp.zeros_like(x)))[1]


def _fixed_point_bwd(transposed=True, solve=True):
    def backward(args, y, u):
        a, _ = args
        slope = 1 - y**2
        m = jnp.eye(4, dtype=a.dtype) - slope[:, None] * a
        v = jnp.linalg.solve(m.T if transposed else m, u) if solve else u
        return jnp.outer(slope * v, y), slope * v

    return backward


def conjugate_gradients(a, b):
    """Solves (a + aᵀ) y / 2 = b by ten steps of conjugate gradients."""
    a = (a + a.T) / 2

    def step(carry, _):
        y, r, p = carry
        q = a @ p
        alpha = (r @ r) / jnp.where(p @ q == 0, 1, p @ q)
        new = r - alpha * q
        beta = (new @ new) / jnp.where(r @ r == 0, 1, r @ r)
        return (y + alpha * p, new, new + beta * p), None

    return jax.lax.scan(step, (jnp.zeros_like(b), b, b), None, length=6)[0][0]


def _cg_bwd(sign=-1.0):
    def backward(args, y, u):
        v = jnp.linalg.solve((args[0] + args[0].T) / 2, u)
        return sign * (jnp.outer(v, y) + jnp.outer(y, v)) / 2, v

    return backward


def _least_squares_bwd(residual=True):
    def backward(args, y, u):
        a, b = args
        v = jnp.linalg.solve(a.T @ a, u)
        r = b - a @ y
        return residual * jnp.outer(r, v) - jnp.outer(a @ v, y), a @ v

    return backward


_implicit = lambda factor, power: lambda args, y, u: (factor * u / (3 * y**power + 1),)
CASES = (
    family("bisection", bisect, _implicit(1, 2), (X,), {"power": _implicit(1, 3), "off by 1 %": _implicit(1.01, 2)})
    | family("Newton's method in a while_loop", newton, _implicit(1, 2), (X,), {"sign": _implicit(-1, 2)})
    | family(
        "Heron's square root",
        square_root_by_iteration,
        lambda args, y, u: (u / (2 * y),),
        (positive(5),),
        {"factor": lambda args, y, u: (u / y,)},
    )
    | family(
        "fixed point",
        fixed_point,
        _fixed_point_bwd(),
        (A, B),
        {"not transposed": _fixed_point_bwd(transposed=False), "one step": _fixed_point_bwd(solve=False)},
    )
    | family("conjugate gradients", conjugate_gradients, _cg_bwd(), (SPD, B), {"sign": _cg_bwd(1.0)}, rtol=1e-6)
    | family(
        "least squares by the normal equations",
        lambda a, b: jnp.linalg.solve(a.T @ a, a.T @ b),
        _least_squares_bwd(),
        (numbers(6, 3), numbers(6, seed=1)),
        {"residual missing": _least_squares_bwd(residual=False)},
    )
)


def pendulum(y0, times, friction):
    """Solves y″ = −friction · sin y by an adaptive solver."""
    return odeint(lambda y, t, friction: jnp.stack([y[1], -friction * jnp.sin(y[0])]), y0, times, friction)


ODE = (np.array([1.0, 0.3], np.float32), np.linspace(0, 2, 5, dtype=np.float32), np.float32(1.7))
CASES["odeint"] = Case(pendulum, ODE, "right", {"rtol": 1e-4}, tolerance=1e-4)


def _euler(y0, rate):
    return jax.lax.scan(lambda y, _: (y + 0.1 * -rate * y, y), y0, None, length=8)[1]


def _euler_bwd(current=True):
    def backward(args, y, u):
        _, rate = args

        def back(carry, yu):
            y_bar, rate_bar = carry
            y, u = yu
            rate_bar = rate_bar - 0.1 * (y * y_bar).sum()
            return (y_bar * (1 - 0.1 * rate) + u * current, rate_bar), None

        start = (jnp.zeros_like(args[0]), jnp.zeros_like(rate))
        return jax.lax.scan(back, start, (y, u), reverse=True)[0]

    return backward


CASES |= family(
    "Euler's method", _euler, _euler_bwd(), (numbers(3), np.float32(0.7)), {"outputs ignored": _euler_bwd(current=False)}
)


CASES["one Newton step of a root"] = Case(
    rule(lambda x: x - (x**3 - 2) / (3 * x**2), lambda args, y, u: (u * (2 / 3) * (1 - 2 / args[0] ** 3),)),
    (positive(5),),
    "right",
)
CASES["one Newton step of a root, as if converged"] = Case(
    rule(lambda x: x - (x**3 - 2) / (3 * x**2), lambda args, y, u: (jnp.zeros_like(u),)), (positive(5),), "wrong"
)

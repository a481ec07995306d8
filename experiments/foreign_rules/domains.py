"""Functions that are defined for positive, sorted, unit-norm or positive definite arguments only."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import Case, family, numbers, positive, rule

P = positive(3, 4)
PROBABILITIES = positive(7, seed=3) / 2.5


def _sample_positive(key):
    return (jax.random.uniform(key, (3, 4), minval=0.3, maxval=2),)


def _spd(key):
    a = jax.random.normal(key, (4, 4))
    return (a @ a.T + 2 * jnp.eye(4), jax.random.normal(jax.random.fold_in(key, 1), (4,)))


_simple = lambda f: lambda args, y, u: (f(args[0]) * u,)
CASES = (
    family("square root", jnp.sqrt, lambda args, y, u: (u / (2 * y),), (P,), {"factor": lambda args, y, u: (u / y,)})
    | family("log", jnp.log, _simple(lambda x: 1 / x), (P,), {"sign": _simple(lambda x: -1 / x)})
    | family("arccosh", jnp.arccosh, _simple(lambda x: 1 / jnp.sqrt(x**2 - 1)), (P + 1,), {"plus": _simple(lambda x: 1 / jnp.sqrt(x**2 + 1))})
    | family("logit", lambda p: jnp.log(p / (1 - p)), _simple(lambda p: 1 / (p * (1 - p))), (PROBABILITIES,), {"inverted": _simple(lambda p: p * (1 - p))})
    | family("entropy", lambda p: -(p * jnp.log(p)).sum(), _simple(lambda p: -jnp.log(p) - 1), (PROBABILITIES,), {"term missing": _simple(lambda p: -jnp.log(p))})
    | family("log(1 − e⁻ˣ)", lambda x: jnp.log(-jnp.expm1(-x)), _simple(lambda x: 1 / jnp.expm1(x)), (P,), {"exp": _simple(lambda x: 1 / jnp.exp(x))})
    | family(
        "power",
        lambda x, p: x**p,
        lambda args, y, u: (u * args[1] * args[0] ** (args[1] - 1), u * y * jnp.log(args[0])),
        (P, positive(3, 4, seed=1)),
        {"no logarithm": lambda args, y, u: (u * args[1] * args[0] ** (args[1] - 1), u * y)},
        sample=lambda key: (*_sample_positive(key), *_sample_positive(jax.random.fold_in(key, 1))),
    )
    | family(
        "arcsine",
        jnp.arcsin,
        _simple(lambda x: 1 / jnp.sqrt(1 - x**2)),
        (P / 2.1,),
        {"sign inside": _simple(lambda x: 1 / jnp.sqrt(1 + x**2))},
    )
)  # fmt: skip


def _sampled(name, primal, right, wrong, sample):
    """Returns cases whose arguments are drawn by `sample` only."""
    args = sample(jax.random.key(7))
    options = {"sample": sample}
    make = lambda backward, label: Case(rule(primal, backward), args, label, options)
    return {name: make(right, "right")} | {f"{name}, {fault}": make(f, "wrong") for fault, f in wrong.items()}


CASES |= _sampled(
    "square root of samples",
    jnp.sqrt,
    lambda args, y, u: (u / (2 * y),),
    {"sign": lambda args, y, u: (-u / (2 * y),)},
    _sample_positive,
)
CASES |= _sampled(
    "positive definite solve by Cholesky",
    lambda a, b: jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor((a + a.T) / 2), b),
    lambda args, y, u: (lambda v: (-(jnp.outer(v, y) + jnp.outer(y, v)) / 2, v))(
        jnp.linalg.solve((args[0] + args[0].T) / 2, u)
    ),
    {
        "sign": lambda args, y, u: (lambda v: (jnp.outer(v, y), v))(jnp.linalg.solve(args[0], u)),
        "inverse missing": lambda args, y, u: (-(jnp.outer(u, y) + jnp.outer(y, u)) / 2, u),
    },
    _spd,
)
CASES |= _sampled(
    "log determinant of a positive definite matrix",
    lambda a, b: 2 * jnp.log(jnp.diagonal(jnp.linalg.cholesky((a + a.T) / 2))).sum() + b.sum(),
    lambda args, y, u: (u * jnp.linalg.inv((args[0] + args[0].T) / 2), jnp.full(4, u)),
    {"inverse missing": lambda args, y, u: (u * args[0], jnp.full(4, u))},
    _spd,
)


def _sample_unit(key):
    x = jax.random.normal(key, (5, 3))
    return (x / jnp.linalg.norm(x, axis=-1, keepdims=True), jax.random.normal(jax.random.fold_in(key, 1), (5, 3)))


CASES |= _sampled(
    "angle of a unit vector",
    lambda x, w: jnp.arccos(0.9 * (x * jnp.tanh(w)).sum(-1) / 2),
    lambda args, y, u: (lambda s: (s * 0.45 * jnp.tanh(args[1]), s * 0.45 * args[0] * (1 - jnp.tanh(args[1]) ** 2)))(
        (-u / jnp.sin(y))[:, None]
    ),
    {"sine missing": lambda args, y, u: (-u[:, None] * 0.45 * jnp.tanh(args[1]), -u[:, None] * 0.45 * args[0])},
    _sample_unit,
)


W = np.where(positive(6) < 0.8, 0, positive(6)).astype(np.float32)
CASES |= family(
    "weighted log-softmax at w = 0",
    lambda x, w: x - jax.scipy.special.logsumexp(x, b=w),
    lambda args, y, u: (u - jnp.exp(y) * args[1] * u.sum(), -jnp.exp(y) * u.sum()),
    (numbers(6), W),
    {"weights missing": lambda args, y, u: (u - jnp.exp(y) * u.sum(), -jnp.exp(y) * u.sum())},
)
CASES |= family(
    "safe norm",
    lambda x: jnp.sqrt((x**2).sum(-1) + 1e-12),
    lambda args, y, u: (u[:, None] * args[0] / y[:, None],),
    (numbers(4, 3),),
    {
        "norm missing": lambda args, y, u: (u[:, None] * args[0],),
        "squared": lambda args, y, u: (u[:, None] * args[0] / y[:, None] ** 2,),
    },
)
CASES |= family(
    "normalised rows",
    lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    lambda args, y, u: ((u - y * (u * y).sum(-1, keepdims=True)) / jnp.linalg.norm(args[0], axis=-1, keepdims=True),),
    (2 * numbers(4, 3),),
    {"no projection": lambda args, y, u: (u / jnp.linalg.norm(args[0], axis=-1, keepdims=True),)},
)

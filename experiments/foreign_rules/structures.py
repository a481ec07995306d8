"""Arguments of every structure: pytrees with None, integers, complex numbers, keys, empty arrays."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import Case, Function, family, numbers, rule

X, W, B = numbers(4, 3), numbers(3, 5, seed=1), numbers(5, seed=2)
Z = (numbers(3, 4) + 1j * numbers(3, 4, seed=1)).astype(np.complex64)


class Layer(NamedTuple):
    """The parameters of a layer."""

    w: np.ndarray
    b: np.ndarray | None


def _dense(layer, x):
    a = x @ layer.w
    return {"y": jnp.tanh(a if layer.b is None else a + layer.b), "square": (a**2).sum()}


def _dense_bwd(square=True, batch=jnp.sum):
    def backward(args, y, u):
        layer, x = args
        a_bar = u["y"] * (1 - y["y"] ** 2)
        total = a_bar + square * 2 * u["square"] * (x @ layer.w)
        return Layer(x.T @ total, None if layer.b is None else batch(a_bar, axis=0)), total @ layer.w.T

    return backward


CASES = family(
    "named tuples and dicts",
    _dense,
    _dense_bwd(),
    (Layer(W, B), X),
    {"one output ignored": _dense_bwd(square=False), "bias averaged": _dense_bwd(batch=jnp.mean)},
) | family(
    "None in place of a bias", _dense, _dense_bwd(), (Layer(W, None), X), {"one output ignored": _dense_bwd(square=False)}
)


def _nothing(like):
    """Returns the cotangent of an integer array."""
    return np.zeros(like.shape, jax.dtypes.float0)


PIXELS = np.random.default_rng(0).integers(0, 255, (4, 3)).astype(np.uint8)
CASES |= family(
    "cotangents of float0",
    lambda image, w, i: (image.astype(w.dtype) / 255 @ w)[i],
    lambda args, y, u: (
        _nothing(args[0]),
        (args[0].astype(u.dtype) / 255)[args[2]].T @ u,
        _nothing(args[2]),
    ),
    (PIXELS, W, np.array([1, 3, 1], np.int32)),
    {"not scaled": lambda args, y, u: (_nothing(args[0]), args[0].astype(u.dtype)[args[2]].T @ u, _nothing(args[2]))},
)
CASES |= family(
    "square of a complex number",
    lambda z: z**2,
    lambda args, y, u: (2 * args[0] * u,),
    (Z,),
    {"conjugated": lambda args, y, u: (2 * args[0].conj() * u,)},
)
CASES |= family(
    "squared modulus",
    lambda z: (z * z.conj()).real,
    lambda args, y, u: (2 * args[0].conj() * u,),
    (Z,),
    {"not conjugated": lambda args, y, u: (2 * args[0] * u,), "real part only": lambda args, y, u: ((2 * args[0].real * u).astype(args[0].dtype),)},
)  # fmt: skip
CASES |= family(
    "Fourier transform of real numbers",
    lambda x: jnp.fft.fft(x),
    lambda args, y, u: (jnp.fft.fft(u).real,),
    (numbers(2, 6),),
    {"inverse": lambda args, y, u: (jnp.fft.ifft(u).real,), "conjugated": lambda args, y, u: (jnp.fft.fft(u.conj()).real,)},
)
CASES |= family(
    "polar form",
    lambda z: (jnp.abs(z), jnp.angle(z)),
    lambda args, y, u: (((u[0] - 1j * u[1] / y[0]) * jnp.exp(-1j * y[1])).astype(args[0].dtype),),
    (Z,),
    {"angle reversed": lambda args, y, u: (((u[0] + 1j * u[1] / y[0]) * jnp.exp(-1j * y[1])).astype(args[0].dtype),)},
)


def _dropout(x, key):
    return jnp.where(jax.random.bernoulli(key, np.float32(0.7), x.shape), x / 0.7, 0)


def _dropout_bwd(keep=lambda key: key):
    def backward(args, y, u):
        _, key = args
        none = None if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else _nothing(key)
        return _dropout(u, keep(key)), none

    return backward


_ANOTHER = {"another mask": _dropout_bwd(lambda key: jax.random.fold_in(key, 1))}
CASES |= family("dropout by a key", _dropout, _dropout_bwd(), (numbers(4, 6), jax.random.key(0)), _ANOTHER)
CASES |= family("dropout by a key of two integers", _dropout, _dropout_bwd(), (numbers(4, 6), jax.random.PRNGKey(0)), _ANOTHER)
CASES |= family(
    "an empty batch",
    lambda x, w: (x @ w).sum() + (w**2).sum(),
    lambda args, y, u: (jnp.zeros_like(args[0]), 2 * args[1] * u),
    (np.zeros((0, 3), np.float32), W),
    {"factor": lambda args, y, u: (jnp.zeros_like(args[0]), args[1] * u)},
)
CASES |= family(
    "an empty output",
    lambda x: (jnp.sin(x), x[:0]),
    lambda args, y, u: (u[0] * jnp.cos(args[0]),),
    (X,),
    {"sign": lambda args, y, u: (-u[0] * jnp.cos(args[0]),)},
)
CASES |= family(
    "scalars",
    lambda a, b: a * jnp.exp(b),
    lambda args, y, u: (u * jnp.exp(args[1]), (u * y).astype(jnp.result_type(args[1]))),
    (np.float32(1.3), 0.7),  # with x64 on, 0.7 has float64
    {"swapped": lambda args, y, u: (u * y, (u * jnp.exp(args[1])).astype(jnp.result_type(args[1])))},
)
CASES |= family(
    "an integer output",
    lambda x: (jnp.sort(x), jnp.argmax(x), x > 0),
    lambda args, y, u: (u[0][jnp.argsort(jnp.argsort(args[0]))],),
    (numbers(7),),
    {"not inverted": lambda args, y, u: (u[0][jnp.argsort(args[0])],)},
)
CASES |= family(
    "two dtypes",
    lambda x, w: x @ w.astype(x.dtype),
    lambda args, y, u: (u @ args[1].astype(u.dtype).T, (args[0].T @ u).astype(args[1].dtype)),
    (X, jnp.asarray(W, jnp.bfloat16)),
    {
        "x̄ times 1.1": lambda args, y, u: (1.1 * u @ args[1].astype(u.dtype).T, (args[0].T @ u).astype(args[1].dtype)),
        "w̄ in float32": lambda args, y, u: (u @ args[1].astype(u.dtype).T, (args[0].T @ u).astype(jnp.float32)),
    },
    tolerance=1e-3,
)


# Ways to attach a rule ----------------------------------------------------------------------------


def _both(name: str, make: Function, args: tuple, fault: float, **options) -> dict[str, Case]:
    """Returns a right case `make(1)` and a wrong one `make(fault)`."""
    return {
        name: Case(make(1.0), args, "right", options),
        f"{name}, times {fault:g}": Case(make(fault), args, "wrong", options),
    }


def _symbolic_zeros(factor):
    f = jax.custom_vjp(lambda x, y: (x * jnp.sin(y), x + y))

    def forward(x, y):
        return (x.value * jnp.sin(y.value), x.value + y.value), (x.value, y.value)

    def backward(saved, us):
        x, y = saved
        u, v = (0 if isinstance(u, jax.custom_derivatives.SymbolicZero) else u for u in us)
        return factor * u * jnp.sin(y) + v, u * x * jnp.cos(y) + v

    f.defvjp(forward, backward, symbolic_zeros=True)
    return f


def _optimize_remat(factor):
    f = jax.custom_vjp(lambda x: jnp.exp(jnp.sin(x)))
    f.defvjp(
        lambda x: ((y := jnp.exp(jnp.sin(x))), (x, y)), lambda s, u: (factor * u * s[1] * jnp.cos(s[0]),), optimize_remat=True
    )
    return f  # fmt: skip


def _custom_gradient(factor):
    @jax.custom_gradient
    def f(x, y):
        return x * jnp.sin(y), lambda u: (factor * u * jnp.sin(y), u * x * jnp.cos(y))

    return f


def _apply(factor):
    f = jax.custom_vjp(lambda g, x: g(x) ** 2, nondiff_argnums=(0,))

    def backward(g, x, u):
        y, pullback = jax.vjp(g, x)
        return pullback(factor * 2 * y * u)

    f.defvjp(lambda g, x: (g(x) ** 2, x), backward)
    return partial(f, jnp.tanh)


def _argnames(factor):
    f = jax.custom_vjp(lambda x, power: x**power, nondiff_argnames=("power",))
    f.defvjp(lambda x, power: (x**power, x), lambda power, x, u: (factor * power * x ** (power - 1) * u,))
    return lambda x, power: f(x, power)


def _static_under_jit(factor):
    @partial(jax.jit, static_argnames="times")
    def f(x, times):
        step = rule(lambda x: jnp.tanh(2 * x), lambda args, y, u: (factor * 2 * u * (1 - y**2),))
        for _ in range(times):
            x = step(x)
        return x

    return f


def _closure(factor):
    def f(x, w):
        f = jax.custom_vjp(lambda x: jnp.sin(x @ w))
        f.defvjp(lambda x: (jnp.sin(x @ w), jnp.cos(x @ w)), lambda cosine, u: (factor * (u * cosine) @ w.T,))
        return f(x)

    return f


def _converted(factor):
    def f(x, w):
        inner, hoisted = jax.closure_convert(lambda x: jnp.sin(x @ w), x)
        g = jax.custom_vjp(lambda x, *consts: inner(x, *consts))
        g.defvjp(
            lambda x, *consts: (inner(x, *consts), (x, consts)),
            lambda saved, u: (lambda bars: (factor * bars[0], *bars[1:]))(jax.vjp(inner, saved[0], *saved[1])[1](u)),
        )
        return g(x, *hoisted)

    return f


CASES |= (
    _both("symbolic zeros", _symbolic_zeros, (X, numbers(4, 3, seed=1)), 1.1)
    | _both("optimize_remat", _optimize_remat, (X,), 0.9)
    | _both("custom_gradient", _custom_gradient, (X, numbers(4, 3, seed=1)), -1.0)
    | _both("a function as an argument", _apply, (X,), 0.5)
    | _both("nondiff_argnames", _argnames, (X, 3), 1.01)
    | _both("a rule under jit with a static argument", _static_under_jit, (X,), 1.001, kwargs={"times": 3})
    | _both("a closure over an argument", _closure, (X, W), 1.1, wrt="x")
    | _both("closure_convert", _converted, (X, W), 1.1)
)

"""Losses, normalisations and activations, with the usual mistakes."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import family, numbers

X, W = numbers(5, 7), numbers(7, seed=1)
LABELS = np.array([3, 0, 3, 6, 1], np.int32)
TARGETS = np.abs(numbers(5, 7, seed=2))
mean = lambda v: v.mean(-1, keepdims=True)
total = lambda v: v.sum(-1, keepdims=True)
_of = lambda f: lambda args, y, u: (f(args[0]) * u,)
sigmoid = jax.nn.sigmoid


def _gelu(x):
    return 0.5 * x * (1 + jnp.tanh(0.79788456 * (x + 0.044715 * x**3)))


def _gelu_slope(x):
    t = jnp.tanh(0.79788456 * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * 0.79788456 * (1 + 3 * 0.044715 * x**2)


CASES = (
    family("softplus", lambda x: jnp.logaddexp(x, 0), _of(sigmoid), (X,), {"tanh": _of(jnp.tanh)})
    | family("sigmoid", sigmoid, lambda args, y, u: (u * y * (1 - y),), (X,), {"of the input": lambda args, y, u: (u * args[0] * (1 - args[0]),)})
    | family("tanh", jnp.tanh, lambda args, y, u: (u * (1 - y**2),), (X,), {"1 − y": lambda args, y, u: (u * (1 - y),)})
    | family("gelu", _gelu, _of(_gelu_slope), (X,), {"cube missing": _of(lambda x: 0.5 * (1 + jnp.tanh(0.79788456 * (x + 0.044715 * x**3))))})
    | family("swish", lambda x: x * sigmoid(x), _of(lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x)))), (X,), {"product rule": _of(sigmoid)})
    | family("mish", lambda x: x * jnp.tanh(jax.nn.softplus(x)), _of(lambda x: jnp.tanh(jax.nn.softplus(x)) + x * (1 - jnp.tanh(jax.nn.softplus(x)) ** 2) * sigmoid(x)), (X,), {"chain rule": _of(lambda x: jnp.tanh(jax.nn.softplus(x)) + x * (1 - jnp.tanh(jax.nn.softplus(x)) ** 2))})
    | family("log-cosh", lambda x: jnp.logaddexp(x, -x) - jnp.log(2), _of(jnp.tanh), (X,), {"sign function": _of(jnp.sign)})
    | family("softmax", lambda x: jax.nn.softmax(x), lambda args, y, u: (y * (u - total(u * y)),), (X,), {"no sum": lambda args, y, u: (y * (1 - y) * u,), "mean for sum": lambda args, y, u: (y * (u - mean(u * y)),)})
    | family("log-softmax", lambda x: jax.nn.log_softmax(x), lambda args, y, u: (u - jnp.exp(y) * total(u),), (X,), {"sum missing": lambda args, y, u: (u - jnp.exp(y) * u,)})
    | family("logsumexp", lambda x: jax.nn.logsumexp(x, -1), lambda args, y, u: (u[:, None] * jnp.exp(args[0] - y[:, None]),), (X,), {"no cotangent": lambda args, y, u: (jnp.exp(args[0] - y[:, None]),)})
    | family(
        "cross-entropy",
        lambda x, labels: -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], 1)[:, 0].sum(),
        lambda args, y, u: (u * (jax.nn.softmax(args[0]) - jax.nn.one_hot(args[1], 7)).astype(args[0].dtype), None),
        (X, LABELS),
        {
            "mean over the batch": lambda args, y, u: (u * (jax.nn.softmax(args[0]) - jax.nn.one_hot(args[1], 7)) / 5, None),
            "labels off by one": lambda args, y, u: (u * (jax.nn.softmax(args[0]) - jax.nn.one_hot(args[1] + 1, 7)), None),
            "one-hot missing": lambda args, y, u: (u * jax.nn.softmax(args[0]), None),
        },
    )
    | family(
        "binary cross-entropy",
        lambda x, t: (jnp.logaddexp(0, x) - x * t).sum(),
        lambda args, y, u: (u * (sigmoid(args[0]) - args[1]), -u * args[0]),
        (X, TARGETS),
        {"targets without gradient": lambda args, y, u: (u * (sigmoid(args[0]) - args[1]), jnp.zeros_like(args[1]))},
    )
)  # fmt: skip


def _layer_norm(x, w):
    centred = x - mean(x)
    return w * centred / jnp.sqrt(mean(centred**2) + 1e-5)


def _layer_norm_bwd(means=True, projection=True, average=False, eps=1e-5):
    def backward(args, y, u):
        x, w = args
        centred = x - mean(x)
        inverse = 1 / jnp.sqrt(mean(centred**2) + eps)
        n, a = centred * inverse, u * w
        x_bar = inverse * (a - means * mean(a) - projection * n * mean(a * n))
        return x_bar, (u * n).mean(0) if average else (u * n).sum(0)

    return backward


CASES |= family(
    "layer normalisation",
    _layer_norm,
    _layer_norm_bwd(),
    (X, W),
    {
        "no mean": _layer_norm_bwd(means=False),
        "no projection": _layer_norm_bwd(projection=False),
        "averaged weight": _layer_norm_bwd(average=True),
        "another ε": _layer_norm_bwd(eps=1e-3),
    },
)
CASES |= family(
    "RMS normalisation",
    lambda x, w: w * x / jnp.sqrt(mean(x**2) + 1e-6),
    lambda args, y, u: (lambda r: (r * (u * args[1] - args[0] * r**2 * mean(u * args[1] * args[0])), (u * args[0] * r).sum(0)))(
        1 / jnp.sqrt(mean(args[0] ** 2) + 1e-6)
    ),
    (X, W),
    {
        "power of the root": lambda args, y, u: (
            lambda r: (r * (u * args[1] - args[0] * r * mean(u * args[1] * args[0])), (u * args[0] * r).sum(0))
        )(1 / jnp.sqrt(mean(args[0] ** 2) + 1e-6))
    },
)
CASES |= family(
    "batch statistics",
    lambda x: (x - x.mean(0)) / x.std(0),
    lambda args, y, u: ((u - u.mean(0) - y * (u * y).mean(0)) / args[0].std(0),),
    (X,),
    {"statistics constant": lambda args, y, u: (u / args[0].std(0),)},
)
CASES |= family(
    "squared error",
    lambda x, t: ((x - t) ** 2).mean(),
    lambda args, y, u: (2 * u * (args[0] - args[1]) / args[0].size, -2 * u * (args[0] - args[1]) / args[0].size),
    (X, TARGETS),
    {"sum for mean": lambda args, y, u: (2 * u * (args[0] - args[1]), -2 * u * (args[0] - args[1]))},
)

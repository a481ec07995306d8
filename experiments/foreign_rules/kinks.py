"""Functions with kinks and ties. The data lie at them."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import Case, Function, family, numbers

_RNG = np.random.default_rng(0)
AT_ZERO = np.where(_RNG.random((3, 5)) < 0.3, 0, numbers(3, 5)).astype(np.float32)
AT_HALF = np.where(AT_ZERO == 0, 0.5, AT_ZERO).astype(np.float32)
TIES = np.array([[2, 2, 1, 0], [0.5, 3, 3, 3], [-1, 0, 1, 2]], np.float32)
X, Y = numbers(4, 6), numbers(4, 6, seed=1)

# elementwise functions, by name: value, right derivative, data, wrong derivatives
_ELEMENTWISE: dict[str, tuple[Function, Function, np.ndarray, dict[str, Function]]] = {
    "relu by maximum": (
        lambda x: jnp.maximum(x, 0),
        lambda x: x > 0,
        AT_ZERO,
        {"mask inverted": lambda x: x < 0, "mask missing": lambda x: 1.0},
    ),
    "relu with x >= 0": (lambda x: jnp.maximum(x, 0), lambda x: x >= 0, AT_ZERO, {}),
    "leaky relu": (
        lambda x: jnp.where(x > 0, x, 0.1 * x),
        lambda x: jnp.where(x > 0, 1, 0.1),
        AT_ZERO,
        {"slopes swapped": lambda x: jnp.where(x > 0, 0.1, 1)},
    ),
    "abs by sign": (
        jnp.abs,
        jnp.sign,
        AT_ZERO,
        {"sign missing": lambda x: 1.0, "1.5 at zero": lambda x: jnp.where(x == 0, 1.5, jnp.sign(x))},
    ),
    "maximum with one half": (
        lambda x: jnp.maximum(x, 0.5),
        lambda x: x > 0.5,
        AT_HALF,
        {"times −1.5": lambda x: -1.5 * (x > 0.5), "mask missing": lambda x: 1.0},
    ),
    "relu6": (
        lambda x: jnp.clip(x, 0, 6),
        lambda x: (x > 0) & (x < 6),
        6 * AT_ZERO,
        {"no upper bound": lambda x: x > 0},
    ),
    "hard sigmoid": (
        lambda x: jnp.clip(x / 6 + 0.5, 0, 1),
        lambda x: jnp.where(jnp.abs(x) < 3, 1 / 6, 0),
        3 * X,
        {"slope of another definition": lambda x: jnp.where(jnp.abs(x) < 2.5, 0.2, 0)},
    ),
    "soft threshold": (
        lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0),
        lambda x: jnp.abs(x) > 0.5,
        AT_HALF,
        {"mask missing": lambda x: 1.0},
    ),
    "huber": (
        lambda x: jnp.where(jnp.abs(x) < 1, x**2 / 2, jnp.abs(x) - 0.5),
        lambda x: jnp.clip(x, -1, 1),
        2 * X,
        {"not clipped": lambda x: x, "factor of two": lambda x: 2 * jnp.clip(x, -1, 1)},
    ),
    "hinge": (
        lambda x: jnp.maximum(0, 1 - x),
        lambda x: -1.0 * (x < 1),
        np.where(AT_ZERO == 0, 1, AT_ZERO).astype(np.float32),
        {"sign": lambda x: 1.0 * (x < 1)},
    ),
    "pinball": (
        lambda x: jnp.maximum(0.2 * x, -0.8 * x),
        lambda x: jnp.where(x >= 0, 0.2, -0.8),
        AT_ZERO,
        {"quantile swapped": lambda x: jnp.where(x >= 0, 0.8, -0.2)},
    ),
}
CASES: dict[str, Case] = {}
for _name, (_value, _derivative, _x, _wrong) in _ELEMENTWISE.items():
    _bwd = lambda derivative: lambda args, y, u: (derivative(args[0]) * u,)
    CASES |= family(_name, _value, _bwd(_derivative), (_x,), {fault: _bwd(d) for fault, d in _wrong.items()})


def _one_hot_argmax(x):
    return jax.nn.one_hot(x.argmax(-1), x.shape[-1], dtype=x.dtype)


CASES |= family(
    "max by argmax",
    lambda x: x.max(-1),
    lambda args, y, u: (_one_hot_argmax(args[0]) * u[:, None],),
    (TIES,),
    {
        "ties counted twice": lambda args, y, u: ((args[0] == y[:, None]) * u[:, None],),
        "the first entry": lambda args, y, u: (jnp.zeros_like(args[0]).at[:, 0].set(u),),
        "argmin": lambda args, y, u: (jax.nn.one_hot(args[0].argmin(-1), 4, dtype=u.dtype) * u[:, None],),
    },
)
CASES |= family(
    "L1 norm",
    lambda x: jnp.abs(x).sum(),
    lambda args, y, u: (u * jnp.sign(args[0]),),
    (AT_ZERO,),
    {"of the square": lambda args, y, u: (u * args[0],)},
)
CASES |= family(
    "max pooling",
    lambda x: x.reshape(4, 3, 2).max(-1),
    lambda args, y, u: ((_one_hot_argmax(args[0].reshape(4, 3, 2)) * u[..., None]).reshape(4, 6),),
    (X,),
    {"mean instead": lambda args, y, u: (jnp.repeat(u, 2, -1) / 2,)},
)
CASES |= family(
    "maximum of two arrays",
    jnp.fmax,
    lambda args, y, u: (u * (args[0] >= args[1]), u * (args[0] < args[1])),
    (X, np.where(Y > 0.5, X, Y).astype(np.float32)),
    {
        "ties counted twice": lambda args, y, u: (u * (args[0] >= args[1]), u * (args[0] <= args[1])),
        "swapped": lambda args, y, u: (u * (args[0] < args[1]), u * (args[0] >= args[1])),
    },
)
CASES |= family(
    "sort",
    lambda x: jnp.sort(x, -1),
    lambda args, y, u: (jnp.take_along_axis(u, jnp.argsort(jnp.argsort(args[0], -1), -1), -1),),
    (X,),
    {"not inverted": lambda args, y, u: (jnp.take_along_axis(u, jnp.argsort(args[0], -1), -1),)},
)
CASES |= family(
    "median",
    lambda x: jnp.sort(x, -1)[:, 2],
    lambda args, y, u: (jax.nn.one_hot(jnp.argsort(args[0], -1)[:, 2], 5, dtype=u.dtype) * u[:, None],),
    (numbers(4, 5),),
    {"mean of all": lambda args, y, u: (jnp.broadcast_to(u[:, None], (4, 5)) / 5,)},
)
CASES |= family(
    "PReLU",
    lambda x, a: jnp.where(x > 0, x, a * x),
    lambda args, y, u: (u * jnp.where(args[0] > 0, 1, args[1]), (u * jnp.where(args[0] > 0, 0, args[0])).sum()),
    (AT_ZERO, np.float32(0.25)),
    {"a from all entries": lambda args, y, u: (u * jnp.where(args[0] > 0, 1, args[1]), (u * args[0]).sum())},
)

"""Rules with loops, branches and transformations inside, and functions of extreme size."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import Case, Function, family, numbers, positive, rule

X, H = numbers(5, 4), numbers(4, seed=1)
A = numbers(4, 4, seed=2)


def _branches(x):
    return jax.lax.cond(x.sum() > 0, lambda x: x**2, lambda x: jnp.sin(3 * x), x)


def _branches_bwd(square=1.0, sine=1.0):
    def backward(args, y, u):
        return (jax.lax.cond(args[0].sum() > 0, lambda x: square * 2 * x * u, lambda x: sine * 3 * jnp.cos(3 * x) * u, *args),)

    return backward


POSITIVE_SUM = np.abs(H) * np.array([1, 1, -1, 1], np.float32) + np.array([2, 0, 0, 0], np.float32)
CASES = family(
    "cond",
    _branches,
    _branches_bwd(),
    (POSITIVE_SUM,),
    {"wrong in the branch taken": _branches_bwd(square=0.5)},
    {"wrong in the other branch": (_branches_bwd(sine=0.5), (-POSITIVE_SUM,))},
)


def _until_converged(x):
    """Solves y = x/2 + sin(y)/2 until it stops changing."""
    step = lambda y: x / 2 + jnp.sin(y) / 2
    tolerance = 4 * jnp.finfo(x.dtype).eps
    go_on = lambda c: (jnp.abs(c[1] - c[0]).max() > tolerance) & (c[2] < 500)
    return jax.lax.while_loop(go_on, lambda c: (c[1], step(c[1]), c[2] + 1), (x - 1, x, 0))[1]


CASES |= family(
    "while_loop until convergence",
    _until_converged,
    lambda args, y, u: (u / (2 - jnp.cos(y)),),
    (H,),
    {"one step": lambda args, y, u: (u / 2,), "plus": lambda args, y, u: (u / (2 + jnp.cos(y)),)},
    rtol=1e-6,
)


def _rows(f):
    """Returns a rule that treats each row by vmap."""
    return lambda args, y, u: (jax.vmap(f)(args[0], y, u),)


CASES |= family(
    "vmap in a rule",
    lambda x: jax.nn.softmax(x),
    _rows(lambda x, y, u: (jnp.diag(y) - jnp.outer(y, y)) @ u),
    (A,),
    {
        "over columns": lambda args, y, u: (jax.vmap(lambda y, u: (jnp.diag(y) - jnp.outer(y, y)) @ u, 1, 1)(y, u),),
        "no outer product": _rows(lambda x, y, u: y * u),
    },
)


def _deep(x):
    for _ in range(3):
        x = jnp.tanh(A.astype(x.dtype) @ x)
    return x


CASES |= family(
    "checkpoint in a rule",
    _deep,
    lambda args, y, u: jax.vjp(jax.checkpoint(_deep), *args)[1](u),
    (H,),
    {"applied twice": lambda args, y, u: jax.vjp(jax.checkpoint(lambda x: _deep(_deep(x))), *args)[1](u)},
)


def _recurrence(a, x):
    """Computes h_t = a_t h_{t−1} + x_t by an associative scan."""
    join = lambda left, right: (left[0] * right[0], left[1] * right[0] + right[1])
    return jax.lax.associative_scan(join, (a, x))[1]


def _recurrence_bwd(shifted=True):
    def backward(args, h, u):
        a, _ = args
        after = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])]) if shifted else a
        x_bar = _recurrence(after[::-1], u[::-1])[::-1]
        before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
        return x_bar * before, x_bar

    return backward


CASES |= family(
    "linear recurrence by an associative scan",
    _recurrence,
    _recurrence_bwd(),
    (positive(6, 2) / 2, numbers(6, 2)),
    {"not shifted": _recurrence_bwd(shifted=False)},
)


def _reversible(x):
    """Two reversible layers: y₁ = x₁ + f(x₂), y₂ = x₂ + g(y₁)."""
    one, two = x
    for _ in range(2):
        one = one + jnp.tanh(two @ A.astype(two.dtype))
        two = two + jnp.sin(one)
    return one, two


def _reversible_bwd(undone=True):
    """Returns the rule that computes the inputs of each layer from its outputs."""

    def backward(args, y, u):
        (one, two), (u, v) = y, u
        for _ in range(2):
            before = two - jnp.sin(one)
            u = u + v * jnp.cos(one)
            two = before if undone else two
            a = jnp.tanh(two @ A.astype(two.dtype))
            v = v + (u * (1 - a**2)) @ A.astype(u.dtype).T
            one = one - a
        return ((u, v),)

    return backward


CASES |= family(
    "reversible layers",
    _reversible,
    _reversible_bwd(),
    ((X, numbers(5, 4, seed=3)),),
    {"outputs in place of inputs": _reversible_bwd(undone=False)},
)


def _slope_of_logistic_map(x: np.ndarray) -> tuple[np.ndarray]:
    """Returns the slope by the chain rule. The map is chaotic, so differences need steps too small for their rounding."""
    slope = np.ones_like(x)
    for _ in range(12):
        x, slope = 4 * x * (1 - x), slope * 4 * (1 - 2 * x)
    return (slope,)


CASES |= family(
    "logistic map of 12 steps",
    lambda x: jax.lax.fori_loop(0, 12, lambda _, x: 4 * x * (1 - x), x),
    lambda args, y, u: (
        jax.lax.fori_loop(0, 12, lambda _, c: (4 * c[0] * (1 - c[0]), c[1] * 4 * (1 - 2 * c[0])), (args[0], u))[1],
    ),
    (positive(4) / 2.2,),
    {
        "11 factors": lambda args, y, u: (
            jax.lax.fori_loop(0, 11, lambda _, c: (4 * c[0] * (1 - c[0]), c[1] * 4 * (1 - 2 * c[0])), (args[0], u))[1],
        )
    },
    tolerance=1e-2,
    exact=_slope_of_logistic_map,
)
CASES |= family(
    "top k",
    lambda x: jax.lax.top_k(x, 3)[0],
    lambda args, y, u: (
        jax.vmap(lambda x, u: jnp.zeros_like(x).at[jax.lax.top_k(x, 3)[1]].set(u))(args[0], u),
    ),
    (numbers(4, 7),),
    {
        "of the smallest": lambda args, y, u: (
            jax.vmap(lambda x, u: jnp.zeros_like(x).at[jax.lax.top_k(-x, 3)[1]].set(u))(args[0], u),
        )
    },
)  # fmt: skip


def _strided(x, k):
    return jax.lax.conv_general_dilated(x, k, (2,), ((1, 2),))


def _strided_bwd(flipped=True):
    def backward(args, y, u):
        x, k = args
        turned = jnp.swapaxes(k[..., ::-1] if flipped else k, 0, 1)
        x_bar = jax.lax.conv_general_dilated(u, turned, (1,), ((1, 1),), lhs_dilation=(2,))
        # The batch is the contracted axis of k̄.
        k_bar = jax.lax.conv_general_dilated(jnp.swapaxes(x, 0, 1), jnp.swapaxes(u, 0, 1), (1,), ((1, 2),), rhs_dilation=(2,))
        return x_bar, jnp.swapaxes(k_bar, 0, 1)[..., :3]

    return backward


CASES |= family(
    "strided convolution",
    _strided,
    _strided_bwd(),
    (numbers(2, 3, 7), numbers(4, 3, 3, seed=1)),
    {"kernel not flipped": _strided_bwd(flipped=False)},
)


# Sizes --------------------------------------------------------------------------------------------


def _times(size: float, factor: float = 1.0) -> Function:
    """Returns the rule of size · sin(x), times a factor."""
    return lambda args, y, u: (factor * u * size * jnp.cos(args[0]),)


def _sine(size: float) -> Function:
    return lambda x: size * jnp.sin(x)


for _size in (1e20, 1e-20):
    CASES |= family(
        f"times {_size:g}",
        _sine(_size),
        _times(_size),
        (X,),
        {"off by 1 %": _times(_size, 1.01)},
        exact=lambda x, size=_size: (size * np.cos(x),),
    )
TINY = np.float32(10.0) ** -np.arange(0, 8, 2, dtype=np.float32)
CASES |= family(
    "weights from 1 to 1e-6",
    lambda x: TINY * jnp.sin(x),
    lambda args, y, u: (u * TINY * jnp.cos(args[0]),),
    (X,),
    {"the smallest ignored": lambda args, y, u: ((u * TINY * jnp.cos(args[0])).at[:, -1].set(0),)},
    exact=lambda x: [TINY * np.cos(x)],
)
CASES |= family(
    "a large and a small argument",
    lambda a, b: 1e6 * jnp.sin(a) + 1e-6 * jnp.cos(b),
    lambda args, y, u: (1e6 * u * jnp.cos(args[0]), -1e-6 * u * jnp.sin(args[1])),
    (X, numbers(5, 4, seed=1)),
    {"sign of the small one": lambda args, y, u: (1e6 * u * jnp.cos(args[0]), 1e-6 * u * jnp.sin(args[1]))},
    exact=lambda a, b: [1e6 * np.cos(a), -1e-6 * np.sin(b)],
)
CASES |= family(
    "softmax of large logits",
    lambda x: jax.nn.softmax(x),
    lambda args, y, u: (y * (u - (u * y).sum(-1, keepdims=True)),),
    (100 * X,),
    {"no sum": lambda args, y, u: (y * (1 - y) * u + 1e-3 * u,)},
)
CASES |= family(
    "solve of an ill-conditioned system",
    jnp.linalg.solve,
    lambda args, y, u: (lambda v: (-jnp.outer(v, y), v))(jnp.linalg.solve(args[0].T, u)),
    (np.vander(np.linspace(0.5, 2, 5)).astype(np.float32), numbers(5)),
    {"not transposed": lambda args, y, u: (lambda v: (-jnp.outer(v, y), v))(jnp.linalg.solve(args[0], u))},
)
CASES |= family(
    "mean that ignores NaN",
    lambda x, t: jnp.nanmean(x - t),
    lambda args, y, u: (
        jnp.where(jnp.isnan(args[1]), 0, u / (~jnp.isnan(args[1])).sum()).astype(args[0].dtype),
        jnp.where(jnp.isnan(args[1]), 0, -u / (~jnp.isnan(args[1])).sum()).astype(args[0].dtype),
    ),
    (X, np.where(X > 1, np.nan, X[::-1]).astype(np.float32)),
    {
        "NaN counted": lambda args, y, u: (
            jnp.where(jnp.isnan(args[1]), 0, u / args[1].size),
            jnp.where(jnp.isnan(args[1]), 0, -u / args[1].size),
        )
    },
    wrt="x",
)
CASES |= family(
    "floor",
    lambda x: jnp.floor(3 * x) * 1.0,
    lambda args, y, u: (jnp.zeros_like(u),),
    (X,),
    {"straight through": lambda args, y, u: (3 * u,)},
)
CASES["a rule by NumPy, which runs without jit only"] = Case(
    rule(jnp.sin, lambda args, y, u: (jnp.asarray(np.cos(np.asarray(args[0]))) * u,)), (X,), "right"
)

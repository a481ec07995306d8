"""Half precision, callbacks, small constants, and rules that lose digits."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import Case, family, numbers, rule

X, W = numbers(4, 5), numbers(5, 3, seed=1)
HALF = jnp.asarray(X, jnp.bfloat16), jnp.asarray(W, jnp.bfloat16)


def _dense(x, w):
    return jnp.tanh(x @ w)


def _dense_bwd(cast, factor=1.0):
    """Returns the rule of a layer, computed in a dtype and returned in that of the arguments."""

    def backward(args, y, u):
        x, w, y, u = (cast(v) for v in (*args, y, u))
        a = u * (1 - jnp.tanh(x @ w) ** 2)
        return factor * (a @ w.T).astype(args[0].dtype), (x.T @ a).astype(args[1].dtype)

    return backward


_same, _single, _half = lambda v: v, lambda v: v.astype(jnp.float32), lambda v: v.astype(jnp.bfloat16)
CASES = (
    family("a layer in bfloat16", _dense, _dense_bwd(_same), HALF, {"off by 5 %": _dense_bwd(_same, 1.05)}, tolerance=1e-4)
    | family("a layer in bfloat16 with a backward pass in float32", _dense, _dense_bwd(_single), HALF, tolerance=1e-4)
    | family("a layer in float32 with a backward pass in bfloat16", _dense, _dense_bwd(_half), (X, W), {"sign": lambda args, y, u: tuple(-bar for bar in _dense_bwd(_half)(args, y, u))}, tolerance=3e-2)
    | family("a layer in float16", _dense, _dense_bwd(_same), (jnp.asarray(X, jnp.float16), jnp.asarray(W, jnp.float16)), tolerance=1e-4)
)  # fmt: skip


def _norm_bwd(eps):
    return lambda args, y, u: (u * args[0] / jnp.sqrt((args[0] ** 2).sum() + eps),)


CASES |= family(
    "norm with ε = 1e-10 inside its rule",
    lambda x: jnp.sqrt((x**2).sum()),
    _norm_bwd(1e-10),
    (X,),
    {"ε = 1e-2": _norm_bwd(1e-2)},
)
CASES |= family(
    "a sum in bfloat16",
    lambda x: jnp.sin(x).astype(jnp.bfloat16).astype(x.dtype).sum(-1),
    lambda args, y, u: (jnp.broadcast_to(u[:, None], (4, 5)) * jnp.cos(args[0]),),
    (X,),
    {"cosine missing": lambda args, y, u: (jnp.broadcast_to(u[:, None], (4, 5)),)},
    tolerance=3e-2,
)


def _callback(function, x):
    return jax.pure_callback(function, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")


def _root(x):
    def numpy_root(x):
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.asarray(x))

    return _callback(numpy_root, x)


CASES |= family(
    "square root by a callback",
    lambda x: _root(x),
    lambda args, y, u: (u / (2 * y),),
    (np.array([900, 0.05, 400, 650], np.float32),),
    {"sign": lambda args, y, u: (-u / (2 * y),)},
)
CASES |= family(
    "sine by a callback that cannot be batched",
    lambda x: jax.pure_callback(lambda x: np.sin(np.asarray(x)), jax.ShapeDtypeStruct(x.shape, x.dtype), x),
    lambda args, y, u: (u * jnp.cos(args[0]),),
    (X,),
    {"sine": lambda args, y, u: (u * jnp.sin(args[0]),)},
)
CASES["a saturated gate"] = Case(
    rule(jnp.tanh, lambda args, y, u: (u * (1 - y**2),)), (np.linspace(8, 20, 7, dtype=np.float32),), "right"
)
CASES["a cotangent of another dtype"] = Case(
    rule(lambda x: 2 * x, lambda args, y, u: ((2 * u).astype(jnp.float32),)), (jnp.asarray(X, jnp.bfloat16),), "wrong"
)
CASES["cancellation in float32"] = Case(
    rule(lambda x: x**2, lambda args, y, u: (u * ((1e6 + args[0]) - (1e6 - args[0])),)), (X,), "wrong"
)
CASES["a loss that is zero up to rounding in one argument"] = Case(
    lambda x, shift: rule(lambda x: jax.nn.log_softmax(x), lambda args, y, u: (u - jnp.exp(y) * u.sum(-1, keepdims=True),))(
        x + shift
    ),
    (X, np.float32(0.3)),
    "right",
)

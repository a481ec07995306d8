"""Attention with a derived backward pass, and masks of −inf."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import Case, family, numbers, rule

Q, K, V = numbers(5, 4), numbers(6, 4, seed=1), numbers(6, 3, seed=2)
BIAS = np.where(np.random.default_rng(0).random((5, 6)) < 0.3, -np.inf, 0).astype(np.float32)
BIAS[:, 0] = 0
SCALE = 0.5  # 1/√4


def _attend(q, k, v, bias):
    return jax.nn.softmax(SCALE * q @ k.T + bias) @ v


def _backward(scale=SCALE, row_sum=True, transposed=True, factor=1.0, masked=True):
    def backward(args, y, u):
        q, k, v, bias = args
        p = jax.nn.softmax(SCALE * q @ k.T + (bias if masked else 0))
        p_bar = u @ v.T
        s_bar = p * (p_bar - row_sum * (u * y).sum(-1, keepdims=True))
        return factor * scale * s_bar @ k, scale * s_bar.T @ q, (p.T if transposed else p.T[::-1]) @ u, s_bar

    return backward


CASES = family(
    "attention with a bias of −inf",
    _attend,
    _backward(),
    (Q, K, V, BIAS),
    {
        "scale missing": _backward(scale=1.0),
        "row sum missing": _backward(row_sum=False),
        "order of the keys": _backward(transposed=False),
        "q̄ times 1.1": _backward(factor=1.1),
        "q̄ times 1.001": _backward(factor=1.001),
        "mask forgotten": _backward(masked=False),
    },
)


def _flash(q, k, v):
    """Computes attention key by key with a running maximum, as flash attention does."""

    def add(carry, kv):
        top, norm, out = carry
        s = SCALE * q @ kv[0]
        new = jnp.maximum(top, s)
        decay, p = jnp.exp(top - new), jnp.exp(s - new)
        return (new, norm * decay + p, out * decay[:, None] + p[:, None] * kv[1]), None

    start = (jnp.full(q.shape[0], -1e30, q.dtype), jnp.zeros(q.shape[0], q.dtype), jnp.zeros((q.shape[0], v.shape[1]), q.dtype))
    (_, norm, out), _ = jax.lax.scan(add, start, (k, v))
    return out / norm[:, None]


def _flash_bwd(**faults):
    whole = _backward(**faults)
    return lambda args, y, u: whole((*args, 0.0), y, u)[:3]


CASES |= family(
    "flash attention",
    _flash,
    _flash_bwd(),
    (Q, K, V),
    {"scale missing": _flash_bwd(scale=1.0), "row sum missing": _flash_bwd(row_sum=False)},
)


def _causal(q, k, v):
    s = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), q @ k.T, -jnp.inf)
    return jax.nn.softmax(s) @ v


def _causal_bwd(lower=True):
    def backward(args, y, u):
        q, k, v = args
        mask = jnp.tril(jnp.ones((5, 5), bool))
        p = jax.nn.softmax(jnp.where(mask, q @ k.T, -jnp.inf))
        s_bar = p * (u @ v.T - (u * y).sum(-1, keepdims=True))
        s_bar = s_bar if lower else s_bar + (~mask) * 1e-2
        return s_bar @ k, s_bar.T @ q, p.T @ u

    return backward


CASES |= family(
    "causal attention", _causal, _causal_bwd(), (Q, K[:5], V[:5]), {"gradient of masked scores": _causal_bwd(lower=False)}
)
CASES["multi-head attention of JAX"] = Case(
    lambda q, k, v: jax.nn.dot_product_attention(q, k, v),
    (numbers(2, 5, 3, 4), numbers(2, 6, 3, 4, seed=1), numbers(2, 6, 3, 4, seed=2)),
    "no rule",
    tolerance=3e-3,  # computes in float32
)
CASES["linear attention"] = Case(
    rule(
        lambda q, k, v: jax.nn.elu(q) @ (k.T @ v),
        lambda args, y, u: (
            jax.vjp(jax.nn.elu, args[0])[1](u @ (args[1].T @ args[2]).T)[0],
            args[2] @ (jax.nn.elu(args[0]).T @ u).T,
            args[1] @ (jax.nn.elu(args[0]).T @ u),
        ),
    ),
    (Q, K, V),
    "right",
)

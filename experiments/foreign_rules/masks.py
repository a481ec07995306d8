"""Masks and lengths, and faults that the inputs hide."""

import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import family, numbers

X = numbers(4, 5)
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
FULL = np.ones((4, 5), bool)
LENGTHS, ALL_FULL = np.array([3, 5, 1, 4], np.int32), np.array([5, 5, 5, 5], np.int32)


def _masked_mean(x, m):
    return jnp.where(m, x, 0).sum(-1) / m.sum(-1)


_mean_bwd = lambda args, y, u: (jnp.where(args[1], (u / args[1].sum(-1))[:, None], 0).astype(args[0].dtype), None)
_mean_no_mask = lambda args, y, u: (jnp.broadcast_to((u / 5)[:, None], (4, 5)).astype(args[0].dtype), None)


def _up_to(x, n):
    return jnp.where(jnp.arange(5) < n[:, None], jnp.sin(x), 0)


_up_to_bwd = lambda args, y, u: (jnp.where(jnp.arange(5) < args[1][:, None], u * jnp.cos(args[0]), 0), None)
_up_to_all = lambda args, y, u: (u * jnp.cos(args[0]), None)
_scaled_bwd = lambda args, y, u: (args[1] * u * jnp.cos(args[0]), (u * jnp.sin(args[0])).sum())
_scale_missing = lambda args, y, u: (u * jnp.cos(args[0]), (u * jnp.sin(args[0])).sum())
_bias_bwd = lambda args, y, u: (u, u.sum(0, keepdims=True))
_bias_mean = lambda args, y, u: (u, u.mean(0, keepdims=True))
_scaled = lambda x, s: s * jnp.sin(x)
_add = lambda x, b: x + b
SYMMETRIC = (X[:4, :4] + X[:4, :4].T) / 2
_product = lambda a, x: a @ x
_product_bwd = lambda args, y, u: (u @ args[1].T, args[0].T @ u)
_product_no_transpose = lambda args, y, u: (u @ args[1].T, args[0] @ u)
ONE_HOT = np.eye(5, dtype=np.float32)[[3, 1, 0, 2]]


def _entropy_with_targets(x, t):
    z = jnp.log(jnp.exp(x).sum(-1))
    return (z * t.sum(-1) - (t * x).sum(-1)).sum()


def _entropy_bwd(total):
    def backward(args, y, u):
        x, t = args
        p = jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)
        z = jnp.log(jnp.exp(x).sum(-1, keepdims=True))
        return u * (p * (t.sum(-1, keepdims=True) if total else 1) - t), u * (z - x)

    return backward


def _unit_bwd(norm):
    return lambda args, y, u: (u * args[0] * (1 / jnp.linalg.norm(args[0], axis=-1, keepdims=True) if norm else 1),)


UNIT = X / np.linalg.norm(X, axis=-1, keepdims=True)

CASES = (
    family("masked mean", _masked_mean, _mean_bwd, (X, MASK), {"mask missing": _mean_no_mask})
    | family("masked mean, all True", _masked_mean, _mean_bwd, (X, FULL), invisible={"mask missing": (_mean_no_mask, (X, MASK))})
    | family("lengths", _up_to, _up_to_bwd, (X, LENGTHS), {"lengths ignored": _up_to_all})
    | family("full lengths", _up_to, _up_to_bwd, (X, ALL_FULL), invisible={"lengths ignored": (_up_to_all, (X, LENGTHS))})
    | family("scale", _scaled, _scaled_bwd, (X, np.float32(1.7)), {"scale missing": _scale_missing})
    | family("scale of 1", _scaled, _scaled_bwd, (X, np.float32(1)), invisible={"scale missing": (_scale_missing, (X, np.float32(1.7)))})
    | family("bias", _add, _bias_bwd, (X, X[:1]), {"averaged": _bias_mean})
    | family("bias, batch of one", _add, _bias_bwd, (X[:1], X[1:2]), invisible={"averaged": (_bias_mean, (X, X[:1]))})
    | family("product", _product, _product_bwd, (X[:, :4], numbers(4, 3)), {"not transposed": _product_no_transpose})
    | family("product, symmetric", _product, _product_bwd, (SYMMETRIC, numbers(4, 3)), invisible={"not transposed": (_product_no_transpose, (X[:, :4], numbers(4, 3)))})
    | family("targets", _entropy_with_targets, _entropy_bwd(True), (X, np.abs(X)), {"sum of targets missing": _entropy_bwd(False)})
    | family("one-hot targets", _entropy_with_targets, _entropy_bwd(True), (X, ONE_HOT), invisible={"sum of targets missing": (_entropy_bwd(False), (X, np.abs(X)))})
    | family("norm", lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True), _unit_bwd(True), (X,), {"norm missing": _unit_bwd(False)})
    | family("norm of unit vectors", lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True), _unit_bwd(True), (UNIT,), invisible={"norm missing": (_unit_bwd(False), (X,))})
    | family("zero state", lambda x, h: jnp.tanh(x * h + x), lambda args, y, u: (u * (1 - y**2) * (args[1] + 1), u * (1 - y**2) * args[0]), (X, 0 * X), invisible={"state missing": (lambda args, y, u: (u * (1 - y**2), u * (1 - y**2) * args[0]), (X, X[::-1]))})
    | family("constant weights", lambda x, w: x * w, lambda args, y, u: (u * args[1], (u * args[0]).sum(0)), (X, np.full(5, 0.3, np.float32)), invisible={"weights reversed": (lambda args, y, u: (u * args[1][::-1], (u * args[0]).sum(0)), (X, X[0]))})
)  # fmt: skip

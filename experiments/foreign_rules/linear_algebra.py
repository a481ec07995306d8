"""Products, inverses, decompositions and transforms."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.foreign_rules.case import family, numbers

A, B = numbers(4, 4) + 3 * np.eye(4, dtype=np.float32), numbers(4, 4, seed=1)
X, K = numbers(2, 9), numbers(3, seed=1)


def _eigh_bwd(sign=1.0, half=True):
    """Returns the derivative of eigenvalues and of squared eigenvectors of the symmetric part."""

    def backward(args, y, u):
        w = y[0]
        v = jnp.linalg.eigh((args[0] + args[0].T) / 2)[1]
        gap = w[None, :] - w[:, None]
        f = jnp.where(gap == 0, 0.0, 1 / jnp.where(gap == 0, 1.0, gap))
        inner = v.T @ (2 * v * u[1])
        a_bar = v @ (jnp.diag(u[0]) + sign * f * inner) @ v.T
        return ((a_bar + a_bar.T) / 2 if half else a_bar,)

    return backward


def _convolve(x, k):
    return jax.vmap(lambda row: jnp.convolve(row, k, mode="full"))(x)


def _convolve_bwd(flip=True):
    def backward(args, y, u):
        x, k = args
        x_bar = jax.vmap(lambda row: jnp.correlate(row, k if flip else k[::-1], mode="valid"))(u)
        k_bar = jax.vmap(lambda row, x: jnp.correlate(row, x, mode="valid"))(u, x).sum(0)
        return x_bar, k_bar

    return backward


CASES = (
    family("matrix product", jnp.dot, lambda args, y, u: (u @ args[1].T, args[0].T @ u), (A, B), {"b not transposed": lambda args, y, u: (u @ args[1], args[0].T @ u), "swapped": lambda args, y, u: (args[0].T @ u, u @ args[1].T), "off by 1e-4": lambda args, y, u: (u @ args[1].T * 1.0001, args[0].T @ u)})
    | family("inverse", jnp.linalg.inv, lambda args, y, u: (-y.T @ u @ y.T,), (A,), {"sign": lambda args, y, u: (y.T @ u @ y.T,), "not transposed": lambda args, y, u: (-y @ u @ y,)})
    | family("linear solve", lambda a, b: jnp.linalg.solve(a, b), lambda args, y, u: (lambda v: (-v @ y.T, v))(jnp.linalg.solve(args[0].T, u)), (A, B), {"not transposed": lambda args, y, u: (lambda v: (-v @ y.T, v))(jnp.linalg.solve(args[0], u))})
    | family("determinant", jnp.linalg.det, lambda args, y, u: (u * y * jnp.linalg.inv(args[0]).T,), (A,), {"not transposed": lambda args, y, u: (u * y * jnp.linalg.inv(args[0]),)})
    | family("trace of a product", lambda a, b: jnp.trace(a @ b), lambda args, y, u: (u * args[1].T, u * args[0].T), (A, B), {"not transposed": lambda args, y, u: (u * args[1], u * args[0])})
    | family("eigenvalues and squared eigenvectors", lambda a: (lambda w, v: (w, v**2))(*jnp.linalg.eigh((a + a.T) / 2)), _eigh_bwd(), (numbers(4, 4, seed=5),), {"sign of F": _eigh_bwd(sign=-1.0)})
    | family("nuclear norm", lambda a: jnp.linalg.svd(a, compute_uv=False).sum(), lambda args, y, u: (lambda U, s, Vt: (u * U @ Vt,))(*jnp.linalg.svd(args[0], full_matrices=False)), (numbers(4, 3),), {"no right factor": lambda args, y, u: (lambda U, s, Vt: (u * U @ jnp.eye(3),))(*jnp.linalg.svd(args[0], full_matrices=False))})
    | family("Frobenius norm", lambda a: jnp.sqrt((a**2).sum()), lambda args, y, u: (u * args[0] / y,), (B,), {"squared": lambda args, y, u: (2 * u * args[0],)})
    | family("convolution", _convolve, _convolve_bwd(), (X, K), {"kernel flipped": _convolve_bwd(flip=False)})
    | family("quadratic form", lambda x, a: x @ a @ x, lambda args, y, u: (u * (args[1] + args[1].T) @ args[0], u * jnp.outer(args[0], args[0])), (numbers(4), B), {"half of it": lambda args, y, u: (u * args[1] @ args[0], u * jnp.outer(args[0], args[0]))})
    | family("real Fourier power", lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2, lambda args, y, u: (lambda weight: (2 * 9 * jnp.fft.irfft(weight * u * jnp.fft.rfft(args[0]), 9),))(jnp.where(jnp.arange(5) == 0, 1.0, 0.5)), (numbers(2, 9),), {"double-counted": lambda args, y, u: (2 * 9 * jnp.fft.irfft(u * jnp.fft.rfft(args[0]), 9),)})
    | family("cumulative sum", lambda x: jnp.cumsum(x, -1), lambda args, y, u: (jnp.cumsum(u[:, ::-1], -1)[:, ::-1],), (X,), {"not reversed": lambda args, y, u: (jnp.cumsum(u, -1),)})
    | family("outer product", jnp.outer, lambda args, y, u: (u @ args[1], u.T @ args[0]), (numbers(5), numbers(3, seed=1)), {"no sum": lambda args, y, u: (u[:, 0] * args[1][0], u.T @ args[0])})
    | family("bilinear layer", lambda x, w, b: x @ w + b, lambda args, y, u: (u @ args[1].T, args[0].T @ u, u.sum(0)), (numbers(5, 4), numbers(4, 3, seed=1), numbers(3, seed=2)), {"bias averaged": lambda args, y, u: (u @ args[1].T, args[0].T @ u, u.mean(0))})
    | family("complex product", lambda a, b: jnp.abs(jax.lax.complex(a, b) * jax.lax.complex(b, a)) ** 2, lambda args, y, u: (lambda s: (4 * u * args[0] * s, 4 * u * args[1] * s))(args[0] ** 2 + args[1] ** 2), (B[0], B[1]), {"conjugate": lambda args, y, u: (lambda s: (4 * u * args[0] * s, -4 * u * args[1] * s))(args[0] ** 2 + args[1] ** 2)})
)  # fmt: skip

"""Functions with custom rules that are not recurrent. Each can be made right or with a fault."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax as gj


def custom_vjp(primal, forward, backward):
    """Returns a `custom_vjp` function with this primal, forward rule and backward rule."""
    f = jax.custom_vjp(primal)
    f.defvjp(forward, backward)
    return f


# Softmax cross-entropy of a batch, in nats, with integer labels -----------------------------------


def _softmax_loss(logits, labels):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return (jnp.log(jnp.exp(shifted).sum(axis=-1)) - jnp.take_along_axis(shifted, labels[:, None], axis=-1)[:, 0]).sum()


def cross_entropy(fault=""):
    @jax.custom_vjp
    def loss(logits, labels):
        return _softmax_loss(logits, labels)

    def loss_fwd(logits, labels):
        return _softmax_loss(logits, labels), (jax.nn.softmax(logits), labels)

    def loss_bwd(saved, u):
        p, labels = saved
        one_hot = jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
        a = {
            "": p - one_hot,
            "no one-hot": p,
            "the sign": one_hot - p,
            "averaged over the batch": (p - one_hot) / len(labels),
            "the softmax's derivative once more": p * (1 - p) - one_hot,
            "labels off by one": p - jnp.roll(one_hot, 1, axis=-1),
        }[fault]
        return (a if fault == "no cotangent in it" else u * a), None

    loss.defvjp(loss_fwd, loss_bwd)
    return loss


CROSS_ENTROPY_FAULTS = (
    "no one-hot",
    "the sign",
    "averaged over the batch",
    "the softmax's derivative once more",
    "labels off by one",
)


# Layer normalisation ------------------------------------------------------------------------------


def layer_norm(fault=""):
    def normal(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return centred * inverse, inverse

    @jax.custom_vjp
    def norm(x, scale, shift):
        return normal(x)[0] * scale + shift

    def norm_fwd(x, scale, shift):
        n, inverse = normal(x)
        return n * scale + shift, (n, inverse, scale)

    def norm_bwd(saved, u):
        n, inverse, scale = saved
        a = u * scale
        mean = lambda v: v.mean(axis=-1, keepdims=True)
        x_bar = {
            "no mean of the cotangent": inverse * (a - n * mean(a * n)),
            "no projection on n": inverse * (a - mean(a)),
            "scale forgotten": inverse * (u - mean(u) - n * mean(u * n)),
        }.get(fault, inverse * (a - mean(a) - n * mean(a * n)))
        over_batch = jnp.mean if fault == "scale averaged over the batch" else jnp.sum
        scale_bar, shift_bar = over_batch(u * n, axis=0), u.sum(axis=0)
        return (x_bar, shift_bar, scale_bar) if fault == "scale and shift swapped" else (x_bar, scale_bar, shift_bar)

    norm.defvjp(norm_fwd, norm_bwd)
    return norm


LAYER_NORM_FAULTS = {
    "no mean of the cotangent": {"x"},
    "no projection on n": {"x"},
    "scale forgotten": {"x"},
    "scale averaged over the batch": {"scale"},
    "scale and shift swapped": {"scale", "shift"},
}


# A scaled product of square matrices, where shapes do not reveal a forgotten transpose ------------


def scaled_product(fault=""):
    @jax.custom_vjp
    def product(scale, a, b):
        return scale * (a @ b)

    def product_fwd(scale, a, b):
        return scale * (a @ b), (scale, a, b)

    def product_bwd(saved, u):
        scale, a, b = saved
        return (
            jnp.sum(u * (a @ b)) * (scale if fault == "scale in its own gradient" else 1),
            scale * (u @ (b if fault == "b not transposed" else b.T)),
            (1 if fault == "scale forgotten in b" else scale) * ((a if fault == "a not transposed" else a.T) @ u),
        )

    product.defvjp(product_fwd, product_bwd)
    return product


PRODUCT_FAULTS = {
    "scale in its own gradient": {"scale"},
    "b not transposed": {"a"},
    "scale forgotten in b": {"b"},
    "a not transposed": {"b"},
}


def arguments(name, seed=0, dtype=np.float32, scale=1.0):
    """Returns random arguments of a function above. A large `scale` saturates the softmax."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: (scale * rng.standard_normal(shape)).astype(dtype)
    return {
        "cross_entropy": lambda: (normal(5, 7), rng.integers(0, 7, 5).astype(np.int32)),
        "layer_norm": lambda: (normal(3, 6), normal(6), normal(6)),
        "scaled_product": lambda: (dtype(1.7), normal(4, 4), normal(4, 4)),
    }[name]()


MAKE = {"cross_entropy": cross_entropy, "layer_norm": layer_norm, "scaled_product": scaled_product}
fast = partial(gj.verify_vjp, checks="fast")

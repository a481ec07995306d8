"""How `unroll` takes derivatives: the three values of its argument `derivative`.

    CustomVJP   reverse mode by the derived backward pass; the default
    CustomJVP   forward and reverse mode, both from the derivation
    Autodiff    JAX's own derivatives of the plain scan; the reference that the others are tested against

All three compute the same values and the same gradients, up to rounding.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax

from gru_jax._engine.arguments import check_option, check_positive_int

Residuals = Literal["auto", "states", "gates"]
TimeLoop = Literal["auto", "scan", "fused"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class CustomVJP:
    """Differentiates `unroll` by the derived backward pass, a `jax.custom_vjp`.

    Saves the hidden states, recomputes the gates one block of time steps at a time, carries only
    state cotangents backwards, and forms each weight gradient in one matmul per block. Supports
    `jax.grad`, `jax.vjp`, `jax.jacrev` and `jax.hessian`. Forward mode over `unroll` itself
    raises a TypeError that names `CustomJVP`.

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.gru()
        >>> params, xs = cell.init(jax.random.key(0), 3, 4), jax.numpy.ones((20, 2, 3))
        >>> lean = gj.CustomVJP(residuals="states", block_size=5)
        >>> loss = lambda params: gj.unroll(cell, params, xs, derivative=lean)[1].sum()
        >>> jax.grad(loss)(params).W_z.shape
        (3, 4)

    Args:
        residuals: What the forward pass saves. `"states"` saves the hidden states, most of which
            are the outputs, and recomputes the gates: little memory. `"gates"` saves the gates too:
            faster where matmuls dominate, for a multiple of the memory. Defaults to `"auto"`, which
            chooses by the shapes and the device. With `outputs="last"`, `"auto"` may save only each
            block's initial state and recompute the rest, as `jax.checkpoint` does.
        block_size: The number of time steps per block. Temporary arrays span at most one
            block, so small blocks need less memory, and large blocks have less overhead. A
            divisor of T is best: a shorter last block copies inputs and states. Defaults to None,
            which chooses by the shapes and the device.
        loop: How the loop over time steps runs. `"scan"` is a `jax.lax.scan`, a few kernel launches
            per step on a GPU. `"fused"` is one GPU kernel for all steps. It needs an NVIDIA GPU,
            float32 or half precision, and a cell whose step consists of elementwise operations, sums
            over the units, and products of the state with weights. Its gradients are the same up to
            rounding. Defaults to `"auto"`, which is the scan: no time of the kernel was taken yet.

    Raises:
        TypeError: If `block_size` is not an int.
        ValueError: If `residuals` or `loop` is not one of its three strings, or `block_size` is below 1.
            In `unroll`, if `loop="fused"` and the device or the cell does not allow it. The message says
            why.
    """

    residuals: Residuals = "auto"
    block_size: int | None = None
    loop: TimeLoop = "auto"

    def __post_init__(self) -> None:
        check_option("residuals", self.residuals, get_args(Residuals))
        check_option("loop", self.loop, get_args(TimeLoop))
        if self.block_size is not None:
            # a Python int, so that equal values hash equal
            object.__setattr__(
                self, "block_size", check_positive_int("block_size", self.block_size, "or None to have it chosen")
            )


@jax.tree_util.register_static
@dataclass(frozen=True)
class CustomJVP:
    """Differentiates `unroll` in forward and reverse mode, with the cell's derived tangent and adjoint.

    Use it where you need `jax.jvp`, `jax.jacfwd` or `jax.linearize`. It needs more memory than
    `CustomVJP`, because it saves the linearised steps of the whole sequence. A cell without a
    `Tangent` is differentiated by autodiff.

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.gru()
        >>> params, xs = cell.init(jax.random.key(0), 3, 4), jax.numpy.ones((20, 2, 3))
        >>> last = lambda xs: gj.unroll(cell, params, xs, derivative=gj.CustomJVP())[0]
        >>> jax.jvp(last, (xs,), (xs,))[1].shape
        (2, 4)
    """


@jax.tree_util.register_static
@dataclass(frozen=True)
class Autodiff:
    """Leaves the derivatives of `unroll` to JAX: the plain scan without any custom rule.

    This is the reference that the other two are tested against. It supports both modes, and saves
    every intermediate value of every step.

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.gru()
        >>> params, xs = cell.init(jax.random.key(0), 3, 4), jax.numpy.ones((20, 2, 3))
        >>> loss = lambda params, how: gj.unroll(cell, params, xs, derivative=how)[1].sum()
        >>> one, other = jax.grad(loss)(params, gj.CustomVJP()), jax.grad(loss)(params, gj.Autodiff())
        >>> bool(jax.numpy.allclose(one.U_z, other.U_z, rtol=1e-4))
        True
    """


Derivative = CustomVJP | CustomJVP | Autodiff

"""Splits pytrees into what is differentiated and what is not.

Params, inputs and states may hold integers, booleans and random keys beside floating-point and
complex arrays. JAX gives such a leaf a cotangent of dtype float0, which no loop can carry. So
inside the engine a tree of cotangents has None in the place of every leaf that is not inexact.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax.partition import differentiable, fill, is_inexact


def is_number(leaf: Any) -> bool:
    """Whether a leaf holds numbers or booleans, rather than random keys."""
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)


def where_differentiable(reference: Any, bars: Any) -> Any:
    """Returns `bars` with None wherever the leaf of `reference` is not inexact.

    None in `bars` may stand for a whole subtree.
    """
    keep = lambda bar, leaf: bar if bar is not None and is_inexact(leaf) else None
    return jax.tree.map(keep, bars, reference, is_leaf=lambda bar: bar is None)


def without_float0(tree: Any) -> Any:
    """Returns a tree of JAX's cotangents or tangents with None in the place of float0 leaves."""
    return jax.tree.map(lambda leaf: None if leaf.dtype == jax.dtypes.float0 else leaf, tree)


def with_float0(reference: Any, tree: Any) -> Any:
    """The inverse of `without_float0`, for leaves of the shapes of `reference`."""
    zeros = lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0)
    return jax.tree.map(lambda leaf, own: own if is_inexact(leaf) else zeros(leaf), reference, tree)


def partial_vjp(function: Callable[..., Any], primals: tuple[Any, ...], bar: Any) -> tuple[Any, ...]:
    """The cotangents of all primals, None for leaves that are not inexact.

    `bar` is the cotangent of the result, with None in the same manner.
    """

    def of_parts(*parts: Any) -> Any:
        return differentiable(function(*fill(primals, parts)))

    return jax.vjp(of_parts, *differentiable(primals))[1](bar)


def transpose_output(output: Callable[[Any], Any], state: Any, bar: Any) -> Any:
    """The cotangent of a state from that of an output that is linear in it.

    Of `state` only shapes and dtypes count.
    """

    def of_part(part: Any) -> Any:
        return differentiable(output(fill(state, part)))

    (state_bar,) = jax.linear_transpose(of_part, differentiable(state))(bar)
    return state_bar

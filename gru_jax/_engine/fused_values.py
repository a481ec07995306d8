"""Evaluates the program of one time step on tiles, inside a kernel.

A kernel's arrays have sizes that are powers of two, and a matmul's at least 16. So the last axis of
each array, its units, is cut into chunks of one width, and the last chunk is padded. A value is the
tuple of its chunks. Whatever combines units, a product or a sum, leaves the padding out, whose
values may be anything.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jax import lax

from gru_jax._engine.plan_kernel import LEAST_UNITS
from gru_jax._jax.jaxprs import Literal

Value = tuple[Any, ...]

ELEMENTWISE = """
    abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos cosh div eq exp exp2 expm1
    floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow rem rsqrt select_n sin sinh sqrt
    square sub tan tanh xor
"""
ELEMENTWISE_NAMES = frozenset(ELEMENTWISE.split())
SAME_VALUE = frozenset(("pvary", "pcast", "reshard", "stop_gradient", "optimization_barrier"))
REDUCTIONS: dict[str, tuple[Callable[[Any, Any], Any], Callable[..., Any], float]] = {
    "reduce_sum": (lax.add, jnp.sum, 0.0),
    "reduce_max": (lax.max, jnp.max, -math.inf),
    "reduce_min": (lax.min, jnp.min, math.inf),
}


class Unsupported(Exception):
    """The step needs something that the kernel lacks. The message says what."""


@dataclass(frozen=True)
class Chunks:
    """How the units of arrays are cut into chunks.

    Attributes:
        common: The width of all chunks, if it divides the units of every array. Then slices of
            units at its multiples are possible. Otherwise None: each array is padded on its own.
    """

    common: int | None
    most: int

    @classmethod
    def of(cls, jaxpr: Any, most: int) -> "Chunks":
        """Chooses the chunks for the arrays of a program."""
        sizes = {size for shape in all_shapes(jaxpr) if len(shape) > 1 and (size := shape[-1]) > 1}
        divisor = math.gcd(*sizes, most)
        return cls(divisor if divisor >= LEAST_UNITS else None, most)

    def width(self, size: int) -> int:
        """The units in a chunk of an array with `size` of them."""
        if size == 1:
            return 1
        if self.common and size % self.common == 0:
            return self.common
        return max(min(_power_of_two(size), self.most), LEAST_UNITS)

    def count(self, size: int) -> int:
        """The number of chunks."""
        return -(-size // self.width(size))

    def padded(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of a whole array with its padding."""
        *leading, last = shape
        return (*map(_power_of_two, leading), self.count(last) * self.width(last))

    def chunk_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one chunk of an array."""
        return (*self.padded(shape)[:-1], self.width(shape[-1])) if shape else ()


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def all_shapes(jaxpr: Any) -> list[tuple[int, ...]]:
    """The shapes of all arrays of a program."""
    found = [var.aval.shape for var in (*jaxpr.invars, *jaxpr.constvars)]
    for equation in jaxpr.eqns:
        found += [var.aval.shape for var in (*equation.invars, *equation.outvars)]
    return found


@dataclass(frozen=True)
class Weight:
    """A matrix that states are multiplied with. `block(i, j)` is its block in row i, column j of chunks."""

    block: Callable[[int, int], Any]


def evaluate(chunks: Chunks, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a program. Constants may be a `Weight`.

    Raises:
        Unsupported: If it has an operation that the kernel lacks.
    """
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))
    read = lambda var: (var.val,) if isinstance(var, Literal) else values[var]
    for equation in jaxpr.eqns:
        name, operands = equation.primitive.name, [read(var) for var in equation.invars]
        if any(isinstance(value, Weight) for value in operands) and name != "dot_general":
            raise Unsupported(f"a matrix of weights in the operation {name}")
        if name in ELEMENTWISE_NAMES:
            results = [_elementwise(equation, operands)]
        elif name == "add_any":  # the sum of cotangents
            results = [tuple(map(lax.add, *operands))]
        elif name == "one_minus_square":  # JAX 0.12 has it in the derivative of tanh, and kernels lack it
            results = [tuple(map(_one_minus_square, *operands))]
        elif name in SAME_VALUE:
            results = operands
        elif name in RULES:
            results = RULES[name](chunks, equation, operands)
        else:
            raise Unsupported(f"the operation {name}")
        values.update(zip(equation.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _elementwise(equation: Any, operands: list[Value]) -> Value:
    """One operation, chunk by chunk; in half precision computed in float32 and rounded."""
    out = equation.outvars[0].aval.dtype
    narrow = [_is_half(var.aval.dtype) for var in (*equation.invars, *equation.outvars)]

    def one(*parts: Any) -> Any:
        if any(narrow) and equation.primitive.name != "convert_element_type":
            wide = [
                lax.convert_element_type(part, jnp.float32) if half else part for part, half in zip(parts, narrow, strict=False)
            ]
            result = equation.primitive.bind(*wide, **equation.params)
            return lax.convert_element_type(result, out) if result.dtype != out else result
        return equation.primitive.bind(*parts, **equation.params)

    count = max(map(len, operands))
    return tuple(one(*(value[min(i, len(value) - 1)] for value in operands)) for i in range(count))


def _one_minus_square(x: Any) -> Any:
    wide = lax.convert_element_type(x, jnp.float32) if _is_half(x.dtype) else x
    return lax.convert_element_type((1 - wide) * (1 + wide), x.dtype)


def _is_half(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating)) and jnp.finfo(dtype).bits < 32


def _dot_general(chunks: Chunks, equation: Any, operands: list[Any]) -> list[Value]:
    (lhs_contracts, rhs_contracts), (lhs_batch, _) = equation.params["dimension_numbers"]
    x, W = operands
    lhs, rhs = (var.aval for var in equation.invars)
    if not isinstance(W, Weight) or lhs.ndim != 2 or lhs_batch or tuple(lhs_contracts) != (1,):
        raise Unsupported(f"a product of arrays of shapes {lhs.shape} and {rhs.shape} that is not state times weights")
    (contracted,) = rhs_contracts
    units_in, units_out = rhs.shape[contracted], rhs.shape[1 - contracted]
    dimension_numbers = (((1,), (contracted,)), ((), ()))
    params = {**equation.params, "dimension_numbers": dimension_numbers}
    x = [_without_padding(chunks, part, units_in, i, 0) for i, part in enumerate(x)]

    def column(j: int) -> Any:
        blocks = [W.block(i, j) if contracted == 0 else W.block(j, i) for i in range(len(x))]
        return reduce(jnp.add, [equation.primitive.bind(part, block, **params) for part, block in zip(x, blocks, strict=True)])

    return [tuple(column(j) for j in range(chunks.count(units_out)))]


def _without_padding(chunks: Chunks, part: Any, units: int, i: int, fill: float) -> Any:
    """A chunk with `fill` in the place of its padding."""
    valid = units - i * chunks.width(units)
    if units == 1 or valid >= part.shape[-1]:
        return part
    unit = lax.broadcasted_iota(jnp.int32, part.shape, part.ndim - 1)
    return jnp.where(unit < valid, part, jnp.full(part.shape, fill, part.dtype))


def _broadcast_in_dim(chunks: Chunks, equation: Any, operands: list[Value]) -> list[Value]:
    (x,), out = operands[:1], equation.outvars[0].aval
    operand, dimensions = equation.invars[0].aval, equation.params["broadcast_dimensions"]
    shape = chunks.chunk_shape(out.shape)
    if not out.shape:
        return [x]
    along_units = bool(operand.shape) and dimensions[-1] == out.ndim - 1 and operand.shape[-1] > 1
    if not along_units and len(x) > 1:
        raise Unsupported(f"a broadcast of {operand.shape} to {out.shape}")
    parts = [lax.broadcast_in_dim(part, shape, dimensions) for part in x]
    return [tuple(parts) if along_units else tuple(parts) * chunks.count(out.shape[-1])]


def _reshape(chunks: Chunks, equation: Any, operands: list[Value]) -> list[Value]:
    old, new = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    without_ones = lambda shape: [size for size in shape if size != 1]
    same_units = bool(old) and bool(new) and old[-1] == new[-1]
    if without_ones(old) != without_ones(new) or (len(operands[0]) > 1 and not same_units):
        raise Unsupported(f"a reshape of {old} to {new}")
    return [tuple(lax.reshape(part, chunks.chunk_shape(new)) for part in operands[0])]


def _reduction(chunks: Chunks, equation: Any, operands: list[Value]) -> list[Value]:
    combine, over, fill = REDUCTIONS[equation.primitive.name]
    aval, axes = equation.invars[0].aval, tuple(equation.params["axes"])
    if not jnp.issubdtype(aval.dtype, jnp.floating) or axes != (aval.ndim - 1,):
        raise Unsupported(f"a {equation.primitive.name} over other axes than the units")
    half = _is_half(aval.dtype)
    parts = [_without_padding(chunks, part, aval.shape[-1], i, fill) for i, part in enumerate(operands[0])]
    parts = [over(part.astype(jnp.float32) if half else part, axis=-1) for part in parts]
    total = reduce(combine, parts)
    return [(total.astype(aval.dtype),)]


def _slice(chunks: Chunks, equation: Any, operands: list[Value]) -> list[Value]:
    old, new = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    start, strides = equation.params["start_indices"][-1], equation.params["strides"]
    return [_units(chunks, operands[0], old, new, start, strides is None or set(strides) == {1})]


def _units(chunks: Chunks, x: Value, old: Any, new: Any, start: int, is_plain: bool = True) -> Value:
    width = chunks.width(old[-1])
    if not is_plain or old[:-1] != new[:-1] or start % width or width != chunks.width(new[-1]):
        raise Unsupported(f"a slice of {new} from {old}, whose units are not a multiple of {LEAST_UNITS}")
    return x[start // width : start // width + chunks.count(new[-1])]


def _split(chunks: Chunks, equation: Any, operands: list[Value]) -> list[Value]:
    old, start, found = equation.invars[0].aval.shape, 0, []
    if equation.params["axis"] != len(old) - 1:
        raise Unsupported("a split of another axis than the units")
    for var in equation.outvars:
        found.append(_units(chunks, operands[0], old, var.aval.shape, start))
        start += var.aval.shape[-1]
    return found


def _concatenate(chunks: Chunks, equation: Any, operands: list[Value]) -> list[Value]:
    sizes = [var.aval.shape[-1] for var in equation.invars]
    if equation.params["dimension"] != equation.outvars[0].aval.ndim - 1 or not chunks.common or 1 in sizes:
        raise Unsupported(f"a concatenation of {sizes} units, which are not multiples of {LEAST_UNITS}, or of another axis")
    return [tuple(part for value in operands for part in value)]


RULES: dict[str, Callable[[Chunks, Any, list[Any]], list[Value]]] = {
    "dot_general": _dot_general,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "slice": _slice,
    "split": _split,
    "concatenate": _concatenate,
    **dict.fromkeys(REDUCTIONS, _reduction),
}

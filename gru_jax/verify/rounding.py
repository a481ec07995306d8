"""How far rounding alone may take a right rule from its reference.

    tolerance = C·√n·eps·S     C = 8, eps of the arithmetic, n the longest sum that feeds a gradient, S = max |reference leaf|

after Higham (2002, ch. 3: n·eps) and, for √n, Ipsen and Zhou (2019, arXiv 1906.10465). n is read from the reference's own jaxpr:
contracted axes, reduced axes, steps of a scan. What n does not know, the conditioning of the function, is measured where the
tolerance was exceeded: Monte Carlo arithmetic (Parker 1997) runs the reference with every rounded result moved by one unit in the
last place, up or down; a difference of at most 8 times what that changes proves nothing.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax import jaxprs

SAFETY = 8.0
VARIANTS = 3  # programs, each with its own hash
SAMPLES = 6  # runs of each, at inputs that differ in the last place

# Results of these are exact, or not numbers that were rounded.
_EXACT_NAMES = """
neg copy copy_p reshape broadcast_in_dim transpose squeeze expand_dims slice dynamic_slice dynamic_update_slice concatenate pad rev
gather select_n select_and_scatter_add max min abs sign stop_gradient reduce_max reduce_min sort split real imag complex
convert_element_type scatter clamp floor ceil round nextafter iota reduce_precision pvary pcast optimization_barrier while cond scan
"""
_EXACT = frozenset(_EXACT_NAMES.split())
_CALLS = frozenset(["jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"])


def tolerance(longest_sum: int, eps: float) -> float:
    """C·√n·eps, relative to a leaf's scale."""
    return SAFETY * longest_sum**0.5 * eps


def longest_sum(jaxpr: Any) -> int:
    """n: the most terms that one sum in `jaxpr` adds up, steps of the loops around it included."""
    longest = 1

    def visit(jaxpr, repeated):
        nonlocal longest
        for equation in jaxpr.eqns:
            times = repeated * (equation.params["length"] if equation.primitive.name == "scan" else 1)
            longest = max(longest, times * _terms(equation))
            for value in equation.params.values():
                jaxprs.map_jaxprs(lambda inner, times=times: visit(inner, times) or inner, value)

    jaxprs.map_jaxprs(lambda inner: visit(inner, 1) or inner, jaxpr)
    return longest


def coarsest_eps(jaxpr: Any) -> float:
    """The rounding unit of the least precise floating result in `jaxpr`: a function may compute in less than it was given."""
    eps = float(jnp.finfo(jnp.float64).eps)

    def visit(jaxpr):
        nonlocal eps
        for equation in jaxpr.eqns:
            for out in equation.outvars:
                dtype = getattr(out.aval, "dtype", None)
                if dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
                    eps = max(eps, float(jnp.finfo(dtype).eps))
            for value in equation.params.values():
                jaxprs.map_jaxprs(lambda inner: visit(inner) or inner, value)

    jaxprs.map_jaxprs(lambda inner: visit(inner) or inner, jaxpr)
    return eps


def noisy(jaxpr: Any, variant: int = 0) -> Any:
    """The function of flat arguments that a closed `jaxpr` computes, every rounded result moved by one unit in its last place.

    Up or down by a hash of the result's own bits, so that it needs no key in loops. Other inputs give other noise, and so does another
    `variant` of the hash, even where saturated values are the same at all inputs.
    """

    def run(open_jaxpr, consts, args):
        values: dict[Any, Any] = {}
        read = lambda atom: atom.val if hasattr(atom, "val") else values[atom]
        values.update(zip((*open_jaxpr.constvars, *open_jaxpr.invars), (*consts, *args), strict=True))
        for equation in open_jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            name = equation.primitive.name
            if name in _CALLS:
                inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
                results = run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
            else:
                params = {key: jaxprs.map_jaxprs(retraced, value) for key, value in equation.params.items()}
                results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(params))
                results = results if equation.primitive.multiple_results else [results]
                if name not in _EXACT:
                    results = [_moved(result, variant) for result in results]
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in open_jaxpr.outvars]

    def retraced(open_jaxpr):
        count = len(open_jaxpr.constvars)
        avals = [
            jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, weak_type=v.aval.weak_type)
            for v in (*open_jaxpr.constvars, *open_jaxpr.invars)
        ]
        traced = jax.make_jaxpr(lambda *args: run(open_jaxpr, args[:count], args[count:]))(*avals)
        if traced.consts:
            return open_jaxpr  # its noise is left out
        plain = getattr(traced, "jaxpr", traced)
        return open_jaxpr.replace(
            eqns=plain.eqns, constvars=plain.invars[:count], invars=plain.invars[count:], outvars=plain.outvars
        )

    return lambda *args: run(getattr(jaxpr, "jaxpr", jaxpr), jaxpr.consts, args)


def nudged(leaves: Any, rng: np.random.Generator, eps: float) -> tuple[np.ndarray, ...]:
    """`leaves` with every entry moved by one unit in its last place, `eps` of it, up or down."""
    return tuple(leaf * (1 + eps * rng.choice([-1.0, 1.0], leaf.shape)) for leaf in leaves)


def _moved(x: Any, variant: int) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    width = 8 * x.dtype.itemsize
    bits: Any = {16: np.uint16, 32: np.uint32, 64: np.uint64}[width]
    odd = bits((0x9E3779B97F4A7C15 * (2 * variant + 1)) % 2**width | 1)  # scalars: an array would be a constant of the jaxpr
    hashed = jax.lax.bitcast_convert_type(x, bits) * odd
    hashed = (hashed ^ (hashed >> bits(width // 2))) * odd >> bits(width - 1)
    eps = float(jnp.finfo(x.dtype).eps)
    return x * (1 + eps * (1 - 2 * hashed.astype(x.dtype)))


def _terms(equation: Any) -> int:
    """How many terms each entry of the result of `equation` sums."""
    name, params = equation.primitive.name, equation.params
    shape = getattr(equation.invars[0].aval, "shape", ()) if equation.invars else ()
    if name == "dot_general":
        return math.prod(shape[axis] for axis in params["dimension_numbers"][0][0])
    if name in ("reduce_sum", "reduce_prod"):
        return math.prod(shape[axis] for axis in params["axes"])
    if name.startswith("cum"):
        return shape[params["axis"]] if shape else 1
    if name == "conv_general_dilated":
        return math.prod(equation.invars[1].aval.shape)
    if name.startswith("scatter") and len(equation.invars) > 2:
        return max(math.prod(equation.invars[2].aval.shape), 1)
    return 1

"""The tolerance of a comparison, read from the computation that is compared.

    tolerance = C·√n·eps·S

with C = 8, eps of the arithmetic, n the length of the longest sum that feeds a gradient, and
S = max |reference leaf|, after Higham (2002, ch. 3: n·eps) and, for √n, Ipsen and Zhou (2019, arXiv
1906.10465). n is read from the jaxpr of the reference: contracted axes, reduced axes, steps of a
scan. The tolerance does not know how well conditioned the function is. If a comparison exceeds it,
`gru_jax.verify.rounding_noise` measures what rounding can do there.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from gru_jax._jax import jaxprs

SAFETY = 8.0


@dataclass(frozen=True)
class Tolerances:
    """The errors that a comparison allows.

    Attributes:
        longest_sum: The most terms that one sum of the reference adds up.
        eps: The rounding unit of the coarsest arithmetic in the reference.
        rtol: The relative error that the caller allows. Zero if none.
    """

    longest_sum: int
    eps: float
    rtol: float

    @property
    def relative(self) -> float:
        """The largest error allowed, relative to a leaf's scale."""
        return max(rounding_tolerance(self.longest_sum, self.eps), self.rtol)


def rounding_tolerance(longest_sum: int, eps: float) -> float:
    """Returns C·√n·eps, relative to a leaf's scale."""
    return SAFETY * longest_sum**0.5 * eps


def longest_sum(jaxpr: Any) -> int:
    """Returns n, the most terms that one sum in `jaxpr` adds up.

    A sum in a loop counts once for each step.
    """
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
    """Returns the rounding unit of the least precise floating result in `jaxpr`.

    It may be coarser than that of the arguments, because a function may cast them down.
    """
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


def _terms(equation: Any) -> int:
    """Returns how many terms each entry of the result of `equation` adds up."""
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

"""The tolerance of a comparison, derived from the jaxpr of the reference.

    tolerance = C·√n·eps·S

    C      8, a safety factor
    n      the number of terms in the longest sum: sizes of contracted and reduced axes, times the
           number of steps of the scans around them
    eps    the rounding unit of the least precise arithmetic
    S      the largest magnitude in the leaf of the reference

Sources: Higham (2002, ch. 3) bounds the error of a sum by n·eps. Ipsen and Zhou (2019, arXiv
1906.10465) give √n·eps for random rounding errors.

The tolerance does not include the condition of the function, which may amplify rounding errors. If
an error exceeds the tolerance, `gru_jax.verify.rounding_noise` measures the effect of rounding.
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
        longest_sum: The number of terms in the longest sum of the reference.
        eps: The rounding unit of the least precise arithmetic in the function and the reference.
        rtols: For each leaf, the relative error that the caller allows. 0 by default.
        unit: The relative error of a rule that is only a note, not a fault, because it is below the
            rounding unit of the arguments. 0 if the arguments are float64.
    """

    longest_sum: int
    eps: float
    rtols: tuple[float, ...]
    unit: float = 0.0

    @property
    def rounding(self) -> float:
        """The largest error allowed without any `rtol`, relative to a scale."""
        return rounding_tolerance(self.longest_sum, self.eps)

    @property
    def rtol(self) -> float:
        """The largest relative error that the caller allows in any leaf."""
        return max(self.rtols, default=0.0)

    @property
    def relative(self) -> float:
        """The largest error allowed in any leaf, relative to its scale."""
        return max(self.rounding, self.rtol)

    @property
    def of_leaves(self) -> tuple[float, ...]:
        """The largest error allowed in each leaf, relative to its scale."""
        return tuple(max(self.rounding, rtol) for rtol in self.rtols)


def rounding_tolerance(longest_sum: int, eps: float) -> float:
    """Returns C·√n·eps, relative to a leaf's scale."""
    return SAFETY * longest_sum**0.5 * eps


def longest_sum(jaxpr: Any) -> int:
    """Returns n, the number of terms in the longest sum in `jaxpr`.

    The terms of a sum in a scan count once for each step.
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

    It may be larger than that of the arguments, because a function may cast them down.
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
    """Returns how many terms are added up in each entry of the result of `equation`."""
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

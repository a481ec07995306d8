"""Prepares a verification: traces the function and its reference, and chooses the tolerances."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gru_jax._jax import jaxprs
from gru_jax.verify.evaluation import evaluate
from gru_jax.verify.function import Arrays, FlatFunction, in_float64
from gru_jax.verify.precision import Precision, choose_precisions
from gru_jax.verify.random_values import RandomValues
from gru_jax.verify.reference import make_reference
from gru_jax.verify.rounding_noise import RoundingNoise
from gru_jax.verify.tolerances import Tolerances, coarsest_eps, longest_sum
from gru_jax.verify.verification import Verification


def prepare_verification(
    function: FlatFunction,
    *,
    user_function: Callable[..., Any] | None,
    user_gradient: Callable[..., Any] | None,
    rtols: tuple[float, ...],
    seed: Sequence[int],
    thorough: bool,
    samples: Sequence[FlatFunction] | None = None,
) -> Verification:
    """Traces the function and its reference, and derives the tolerances from them.

    `samples` are the function at other samples of its arguments, if the user passed `sample`.
    """
    leaves = in_float64(function.leaves)
    precisions = choose_precisions(function, leaves)
    precision = precisions.comparison
    reference = make_reference(function, leaves, precision, user_function, user_gradient)
    rule = _jaxpr_of_rule(function, leaves, precision)
    jaxprs_of_both = [reference.jaxpr] + ([] if rule is None else [rule])
    is_wider = precisions.given.eps > precision.eps
    tolerances = Tolerances(
        longest_sum=longest_sum(reference.jaxpr),
        eps=max(*map(coarsest_eps, jaxprs_of_both), precision.eps),
        rtols=rtols,
        # Half precision is so coarse that its rounding unit would allow real faults.
        unit=min(precisions.given.eps, float(np.finfo(np.float32).eps)) if is_wider else 0.0,
    )
    return Verification(
        function=function,
        leaves=leaves,
        precisions=precisions,
        reference=reference,
        tolerances=tolerances,
        rounding_noise=RoundingNoise(reference.call_real, precision, leaves),
        random=RandomValues(seed),
        primitives=frozenset().union(*map(jaxprs.primitive_names, jaxprs_of_both)),
        thorough=thorough,
        has_sample=samples is not None,
        samples=tuple(in_float64(other.leaves) for other in samples or () if _differ_in_leaves(function, other)),
    )


def _differ_in_leaves(function: FlatFunction, other: FlatFunction) -> bool:
    """Returns whether two calls of a function differ at most in the values of their leaves."""
    as_data = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    equal = lambda a, b: np.array_equal(np.asarray(as_data(a)), np.asarray(as_data(b)))
    return (
        function.kinds == other.kinds
        and [leaf.shape for leaf in function.leaves] == [leaf.shape for leaf in other.leaves]
        and all(map(equal, function.nondiff_args, other.nondiff_args))
        and all(a is b or bool(np.all(a == b)) for a, b in zip(function.static_args, other.static_args, strict=True))
    )


def _jaxpr_of_rule(function: FlatFunction, leaves: Arrays, precision: Precision) -> Any:
    """Returns the jaxpr of the function and its rules, which may compute in a lower precision.

    Returns None if the rule cannot be traced, which `structure` reports.
    """
    with precision.active():
        try:
            args = (precision.cast(leaves), precision.nondiff_args)
            outputs = jax.eval_shape(function.call_real, *args).floating
            cotangents = [np.zeros(y.shape, y.dtype) for y in outputs]
            return jax.make_jaxpr(evaluate(function.call_real))(*args, cotangents)
        except Exception:
            return None

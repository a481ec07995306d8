"""Everything that the checks of one verification share.

`Verification` holds what is verified (`function`), what it is compared with (`reference`), the
precisions to run in (`precisions`), the errors to allow (`tolerances`, `rounding_noise`) and the
random numbers (`random`). It evaluates the rule and the reference, and caches the results that
several checks need.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from gru_jax.verify.comparison import Difference, compare_leaves, leaf_scales
from gru_jax.verify.eager_run import EagerRun, run_eagerly
from gru_jax.verify.evaluation import CachedEvaluation, evaluate
from gru_jax.verify.finite_differences import DirectionalDerivative, directional_derivative
from gru_jax.verify.function import Arrays, FlatFunction, flatten_function, in_float64
from gru_jax.verify.likely_causes import CauseFinder
from gru_jax.verify.precision import Precision, Precisions, choose_precisions
from gru_jax.verify.programs import Runner
from gru_jax.verify.random_values import RandomValues
from gru_jax.verify.reference import Reference, make_reference
from gru_jax.verify.rounding_noise import VARIANTS, RoundingNoise
from gru_jax.verify.tolerances import Tolerances, coarsest_eps, longest_sum


@dataclass(frozen=True)
class Verification:
    """The state of one verification. Build it with `prepare_verification`.

    Attributes:
        function: The function to verify, at its arguments.
        leaves: Its differentiable leaves in float64, complex ones as pairs of real numbers.
        precisions: The precisions to run in.
        reference: The function whose autodiff gives the expected gradient.
        tolerances: The errors that a comparison allows.
        rounding_noise: Measures the effect of rounding where a tolerance is exceeded.
        random: The random numbers.
        thorough: Whether a check that is not fast was requested. Some checks then test more cases.
    """

    function: FlatFunction
    leaves: Arrays
    precisions: Precisions
    reference: Reference
    tolerances: Tolerances
    rounding_noise: RoundingNoise
    random: RandomValues
    thorough: bool

    # Evaluation -----------------------------------------------------------------------------------

    def runner(self, function: Callable[..., Any], precision: Precision | None = None) -> Runner:
        """Returns a runner of `function(leaves, nondiff_args, …)`.

        `precision` defaults to that of the comparison.
        """
        return Runner(function, precision or self.precisions.comparison, self.function.nondiff_args)

    @cached_property
    def rule(self) -> CachedEvaluation:
        """Evaluates the function and the gradients by its rule."""
        return CachedEvaluation(self.runner(evaluate(self.function.call_real)), self.leaves)

    @cached_property
    def autodiff(self) -> CachedEvaluation:
        """Evaluates the reference and its gradients by autodiff."""
        return CachedEvaluation(self.runner(evaluate(self.reference.call_real)), self.leaves)

    @cached_property
    def values(self) -> Runner:
        """Computes the floating outputs of the function from its leaves."""
        return self.runner(lambda leaves, nondiff_args: self.function.call_real(leaves, nondiff_args).floating)

    # Random cotangents ----------------------------------------------------------------------------

    @cached_property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the floating outputs. Those of complex outputs have an extra last axis of 2."""
        precision = self.precisions.comparison
        with precision.active():
            outputs = jax.eval_shape(self.function.call_real, precision.cast(self.leaves), self.function.nondiff_args)
        return [y.shape for y in outputs.floating]

    @cached_property
    def random_cotangents(self) -> dict[str, Arrays]:
        """Two or three sets of random cotangents for all outputs, by their names in a report."""
        return {f"random cotangents {k}": self.random.normal(self.output_shapes) for k in range(3 if self.thorough else 2)}

    @property
    def cotangents(self) -> Arrays:
        """The first set of random cotangents."""
        return next(iter(self.random_cotangents.values()))

    # Comparison -----------------------------------------------------------------------------------

    def compare_with_reference(
        self, gradients: Arrays, cotangents: Arrays, condition: str, leaves: Arrays | None = None
    ) -> list[Difference]:
        """Returns the leaves that differ from the reference by more than rounding explains.

        Measures the effect of rounding in steps of increasing cost, and stops when the leaves
        agree. The first step moves the inputs by one unit in the last place. The later steps use
        Monte Carlo arithmetic. They are left out if all errors are far larger than any rounding.
        """
        leaves = self.leaves if leaves is None else leaves
        expected = self.autodiff(cotangents, leaves).gradients
        found = self._compare(gradients, expected, condition)
        if found:
            noise = self.rounding_noise.of_gradients(cotangents, leaves, variants=0)
            found = self._compare(gradients, expected, condition, noise)
            # Rounding errors reach this size only in a chaotic function.
            beyond_rounding = self.tolerances.eps**0.25 * max(leaf_scales(expected))
            for variants in (1, VARIANTS):
                if any(d.error * d.scale < beyond_rounding for d in found):
                    noise = self.rounding_noise.of_gradients(cotangents, leaves, variants)
                    found = self._compare(gradients, expected, condition, noise)
        return found

    def compare_runs(self, got: Arrays, expected: Arrays, condition: str, factor: float = 1.0) -> list[Difference]:
        """Returns the leaves in which two gradients of the rule differ.

        They may differ by `factor` times the error that rounding explains.
        """
        found = self._compare(got, expected, condition, factor=factor)
        if found and not self.reference.why_no_gradient:
            noise = [factor * n for n in self.rounding_noise.of_gradients(self.cotangents)]
            found = self._compare(got, expected, condition, noise, factor)
        return found

    def _compare(
        self,
        got: Arrays,
        expected: Arrays,
        condition: str,
        noise: Sequence[float] | None = None,
        factor: float = 1.0,
    ) -> list[Difference]:
        return compare_leaves(
            self.function.leaf_names,
            got,
            expected,
            condition=condition,
            relative_tolerance=factor * self.tolerances.relative,
            absolute_tolerances=noise,
        )

    @cached_property
    def leaves_lost_in_rounding(self) -> tuple[str, ...]:
        """Names of the leaves whose reference gradient is zero except for rounding errors.

        For example, a shift of all logits has a gradient of zero, which is computed as 1e-17.
        """
        gradients = [self.autodiff(us).gradients for us in self.random_cotangents.values()]
        largest = max(scale for leaves in gradients for scale in leaf_scales(leaves))
        scales = [max(float(np.abs(leaf).max(initial=0)) for leaf in runs) for runs in zip(*gradients, strict=True)]
        if not any(0 < scale < self.tolerances.eps**0.5 * largest for scale in scales):
            return ()
        noises = [self.rounding_noise.of_gradients(us) for us in self.random_cotangents.values()]
        noise = [max(runs) for runs in zip(*noises, strict=True)]
        return tuple(
            name for name, scale, limit in zip(self.function.leaf_names, scales, noise, strict=True) if 0 < scale <= limit
        )

    # Results that several checks use --------------------------------------------------------------

    @cached_property
    def eager_run(self) -> EagerRun:
        """What the rule returns without `jit`, at the arguments as given."""
        return run_eagerly(self.function, self.precisions.given, self.cotangents)

    @cached_property
    def directional_derivatives(self) -> dict[str, DirectionalDerivative]:
        """The derivative along a random direction in each leaf that is not empty."""
        return {
            name: directional_derivative(
                self.values,
                self.leaves,
                k,
                gradient=self.rule(self.cotangents).gradients[k],
                cotangents=self.cotangents,
                direction=self.random.normal([self.leaves[k].shape])[0],
                eps=self.tolerances.eps,
            )
            for k, name in enumerate(self.function.leaf_names)
            if self.leaves[k].size
        }

    @cached_property
    def causes(self) -> CauseFinder:
        """Finds the likely causes of wrong gradients."""
        return CauseFinder(
            rule=self.rule,
            autodiff=self.autodiff,
            cotangents=list(self.random_cotangents.values()),
            leaf_names=self.function.leaf_names,
            output_names=self.function.output_names,
        )


def prepare_verification(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    user_function: Callable[..., Any] | None,
    rtol: float | None,
    seed: Sequence[int],
    thorough: bool,
) -> Verification:
    """Traces the function and its reference, and derives the tolerances from the reference."""
    function = flatten_function(fun, args)
    leaves = in_float64(function.leaves)
    precisions = choose_precisions(function, leaves)
    precision = precisions.comparison
    reference = make_reference(function, leaves, precision, user_function)
    tolerances = Tolerances(
        longest_sum=longest_sum(reference.jaxpr),
        eps=max(coarsest_eps(reference.jaxpr), precision.eps),
        rtol=rtol or 0.0,
    )
    return Verification(
        function=function,
        leaves=leaves,
        precisions=precisions,
        reference=reference,
        tolerances=tolerances,
        rounding_noise=RoundingNoise(reference.call_real, precision, function.nondiff_args, leaves),
        random=RandomValues(seed),
        thorough=thorough,
    )

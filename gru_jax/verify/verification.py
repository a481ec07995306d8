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

from gru_jax.verify.comparison import Difference, compare_leaves, leaf_scales, root_mean_square
from gru_jax.verify.directions import NEARBY, DirectionalDerivative, directional_derivative
from gru_jax.verify.eager_run import EagerRun, run_eagerly
from gru_jax.verify.evaluation import CachedEvaluation, evaluate
from gru_jax.verify.finite_differences import Derivative, derivative_along
from gru_jax.verify.function import Arrays, FlatFunction
from gru_jax.verify.judgement import Judgement, judge
from gru_jax.verify.likely_causes import CauseFinder
from gru_jax.verify.precision import Precision, Precisions
from gru_jax.verify.programs import Runner
from gru_jax.verify.random_values import RandomValues
from gru_jax.verify.reference import Reference
from gru_jax.verify.rounding_noise import RoundingNoise
from gru_jax.verify.tolerances import Tolerances


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
        primitives: Names of the primitives in the reference, the function and its rules.
        thorough: Whether a check that is not fast was requested. Some checks then test more cases.
        has_sample: Whether the user passed `sample`, which restricts the domain.
        samples: Leaves of other samples.
    """

    function: FlatFunction
    leaves: Arrays
    precisions: Precisions
    reference: Reference
    tolerances: Tolerances
    rounding_noise: RoundingNoise
    random: RandomValues
    primitives: frozenset[str]
    thorough: bool
    has_sample: bool = False
    samples: tuple[Arrays, ...] = ()

    # Evaluation -----------------------------------------------------------------------------------

    def runner(self, function: Callable[..., Any], precision: Precision | None = None) -> Runner:
        """Returns a runner of `function(leaves, nondiff_args, …)`.

        `precision` defaults to that of the comparison.
        """
        return Runner(function, precision or self.precisions.comparison)

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

    def derivative(self, direction: Arrays, cotangents: Arrays, leaves: Arrays) -> Derivative:
        """Returns the derivative along a direction in the leaves, by differences of values."""
        return derivative_along(self.values, leaves, direction, cotangents=cotangents, eps=self.tolerances.eps)

    @cached_property
    def noise_of_rule(self) -> RoundingNoise:
        """Measures the effect of rounding in the rule itself."""
        return RoundingNoise(self.function.call_real, self.precisions.comparison, self.leaves)

    # Random cotangents ----------------------------------------------------------------------------

    @cached_property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the floating outputs. Those of complex outputs have an extra last axis of 2."""
        precision = self.precisions.comparison
        with precision.active():
            outputs = jax.eval_shape(self.function.call_real, precision.cast(self.leaves), precision.nondiff_args)
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

    def judge(
        self, gradients: Arrays, cotangents: Arrays, condition: str, leaves: Arrays | None = None, *, at_edge: bool = False
    ) -> Judgement:
        """Decides whether gradients by the rule that differ from the reference are wrong.

        At an edge, the reference may be wrong, so it decides only if differences do not apply.
        """
        leaves = self.leaves if leaves is None else leaves
        return judge(self, gradients, cotangents, condition, leaves, reference_decides=not (at_edge and self.differences_apply))

    @cached_property
    def judgements(self) -> dict[str, Judgement]:
        """What is decided about the gradients for each set of random cotangents."""
        return {name: self.judge(self.rule(us).gradients, us, name) for name, us in self.random_cotangents.items()}

    @property
    def unreliable_leaves(self) -> tuple[str, ...]:
        """Names of the leaves where differences of values contradict the reference."""
        return tuple(dict.fromkeys(name for judgement in self.judgements.values() for name in judgement.unreliable))

    @property
    def why_unreliable(self) -> str:
        """Why the reference cannot decide. Empty if it can."""
        if self.reference.why_no_gradient or not self.unreliable_leaves:
            return self.reference.why_no_gradient
        return f"differences of values contradict autodiff of the reference in {', '.join(self.unreliable_leaves)}"

    @cached_property
    def differences_apply(self) -> bool:
        """Whether the right gradient is the derivative of the values, so that differences decide.

        It is not if the user passed another gradient, if the user's reference has another, or if the
        function stops gradients and neither autodiff nor the rule returns the derivative.
        """
        reference = self.reference
        if reference.user_gradient is not None:
            return False
        if reference.why_no_gradient or not (reference.is_users or reference.stops_gradients):
            return True
        runs = [self.autodiff] if reference.is_users else [self.autodiff, self.rule]
        contradicted = lambda d: all(d.contradicts(run, self.tolerances.rtols[d.k]) for run in runs)
        return not any(map(contradicted, self.directional_derivatives.values()))

    @cached_property
    def nearby_leaves(self) -> Arrays:
        """The leaves moved a little, away from kinks and ties."""
        moved = []
        for leaf, v in zip(self.leaves, self.random.normal([leaf.shape for leaf in self.leaves]), strict=True):
            size = root_mean_square(leaf) or 1.0
            moved.append(leaf + NEARBY * size * np.where(np.isfinite(leaf), v, 0.0))
        return tuple(moved)

    @property
    def generic_leaves(self) -> Arrays:
        """The leaves, or `nearby_leaves` if the rule chooses another subgradient at the leaves."""
        at_kink = any(mask.any() for judgement in self.judgements.values() for mask in judgement.exempt)
        return self.nearby_leaves if at_kink else self.leaves

    def compare_runs(self, got: Arrays, expected: Arrays, condition: str, factor: float = 1.0) -> list[Difference]:
        """Returns the leaves in which two gradients of the rule differ.

        They may differ by `factor` times the error that rounding explains.
        """
        found = self._compare(got, expected, condition, factor=factor)
        if any(map(self.may_be_rounding, found)) and not self.reference.why_no_gradient:
            noise = [factor * float(n.max(initial=0)) for n in self.rounding_noise.of_gradients(self.cotangents)]
            found = self._compare(got, expected, condition, noise, factor)
        return found

    def may_be_rounding(self, difference: Difference) -> bool:
        """Returns whether an error is so small that measuring the effect of rounding is worth its time."""
        return difference.error < max(self.tolerances.eps, self.precisions.given.eps) ** 0.25 or difference.scale < 1e-6

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
            relative_tolerance=[factor * tolerance for tolerance in self.tolerances.of_leaves],
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
        noise = [max(float(leaf.max(initial=0)) for leaf in runs) for runs in zip(*noises, strict=True)]
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
        """The derivative along a random direction in each leaf that has a finite entry."""
        return {
            name: directional_derivative(
                self.values,
                self.leaves,
                self.nearby_leaves,
                k,
                self._direction(k),
                cotangents=self.cotangents,
                eps=self.tolerances.eps,
            )
            for k, name in enumerate(self.function.leaf_names)
            if np.isfinite(self.leaves[k]).any()
        }

    def _direction(self, k: int) -> np.ndarray:
        """Returns a random direction in leaf `k` that is not almost orthogonal to the rule's gradient."""
        gradient = np.nan_to_num(self.rule(self.cotangents).gradients[k], posinf=0.0, neginf=0.0)
        directions = self.random.normal([self.leaves[k].shape] * 4)
        return max(directions, key=lambda v: abs(float((gradient * v).sum())) if gradient.shape == v.shape else 0.0)

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

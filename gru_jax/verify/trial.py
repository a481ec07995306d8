"""A verification in progress: the function, its reference, the precisions they run in, and the random numbers."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax import config, jaxprs
from gru_jax.verify import rounding
from gru_jax.verify.compare import Difference, differences, scales
from gru_jax.verify.evaluate import Evaluated, Flat, Precision, Program, Runner, compiled, derived, gradient, gradient_alone
from gru_jax.verify.rules import Rules, without_rules
from gru_jax.verify.subject import Arrays, describe, subject, widened

FLOAT64 = Precision("float64", True, float(jnp.finfo(jnp.float64).eps))


class Trial:
    """What the checks share. Runs are memoised: many checks look at the same cotangents."""

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        reference: Callable[..., Any] | None,
        rtol: float | None,
        seed: Sequence[int],
        thorough: bool,
    ) -> None:
        self.subject = subject(fun, args)
        self.given_reference = reference
        self.rtol = rtol or 0.0
        self.rng = np.random.default_rng(list(seed))
        self.thorough = thorough
        self.names, self.output_names = self.subject.names, self.subject.output_names
        self.native = Precision(
            "/".join(sorted({str(leaf.dtype) for leaf in self.subject.leaves})),
            config.x64(),
            max(float(jnp.finfo(leaf.dtype).eps) for leaf in self.subject.leaves),
        )
        self.why_not_wide = ""
        self.truth = FLOAT64
        self.leaves = widened(self.subject.leaves)
        self._settle_precision()
        self.rules, self.why_no_reference, self.reference = self.find_reference(self.truth)
        self.output_shapes = self._output_shapes()
        self._memo: dict[Any, Evaluated] = {}
        self.shared: dict[Any, Any] = {}  # results that several checks look at

    # The function and its reference ---------------------------------------------------------------------------------------

    def _settle_precision(self) -> None:
        try:
            with FLOAT64():
                jax.eval_shape(self.subject.flat, self.dtyped(FLOAT64), self.subject.passengers)
        except Exception as error:
            self.why_not_wide = f"in float64 {describe(self.subject.fun)} raises {brief(error)}"
            self.truth = self.native

    def find_reference(self, precision: Precision) -> tuple[Rules, str, Flat]:
        """(the rules found, why the reference has no reverse mode, the reference)."""
        with precision():
            leaves = self.dtyped(precision)
            traced, outputs = jax.make_jaxpr(self.subject.flat, return_shape=True)(leaves, self.subject.passengers)
            plain, rules = without_rules(traced)
            if self.given_reference is None:
                structure = jax.tree.structure(outputs)
                run = jaxprs.as_function(plain)
                flat: Flat = lambda leaves, passengers: jax.tree.unflatten(structure, run(*leaves, *passengers))
            else:
                given = self.subject._replace(fun=self.given_reference)
                got = jax.eval_shape(given.flat, leaves, self.subject.passengers)
                if jax.tree.map(jnp.shape, got) != jax.tree.map(jnp.shape, outputs):
                    raise ValueError(f"reference must return what fun returns, {outputs}; it returned {got}")
                flat = given.flat
            try:
                cotangents = [jnp.zeros(y.shape, y.dtype) for y in outputs[0]]
                jaxpr = jax.make_jaxpr(gradient(flat))(leaves, self.subject.passengers, cotangents)
                why_not = ""
            except Exception as error:
                jaxpr, why_not = plain, f"autodiff of the reference raises {brief(error)}"
        if precision == self.truth:
            self.longest_sum = rounding.longest_sum(jaxpr)
            self.eps = max(rounding.coarsest_eps(jaxpr), precision.eps)
        return rules, why_not, flat

    def dtyped(self, precision: Precision) -> Arrays:
        """The leaves in the dtypes of a precision; complex ones as pairs."""
        return tuple(jnp.asarray(x, dtype) for x, dtype in zip(self.leaves, self.dtypes(precision), strict=True))

    def dtypes(self, precision: Precision) -> list[Any]:
        """The real dtype of each leaf in a precision."""
        if precision is FLOAT64:
            return [np.float64] * len(self.leaves)
        return [jnp.finfo(leaf.dtype).dtype for leaf in self.subject.leaves]

    def runner(self, function: Callable[..., Any], precision: Precision | None = None) -> Runner:
        """`function(leaves, passengers, …)` in a precision, by default that of the truth."""
        precision = precision or self.truth
        return Runner(function, precision, self.dtypes(precision), self.subject.passengers)

    @cached_property
    def _rule_runner(self) -> Runner:
        return self.runner(gradient(self.subject.flat))

    @cached_property
    def _reference_runner(self) -> Runner:
        return self.runner(gradient(self.reference))

    def rule(self, cotangents: Arrays, leaves: Arrays | None = None) -> Evaluated:
        """The function and its rule."""
        return self._run("rule", self._rule_runner, cotangents, leaves)

    def expected(self, cotangents: Arrays, leaves: Arrays | None = None) -> Evaluated:
        """The reference and its autodiff."""
        return self._run("reference", self._reference_runner, cotangents, leaves)

    def _run(self, side: str, runner: Runner, cotangents: Arrays, leaves: Arrays | None) -> Evaluated:
        leaves = self.leaves if leaves is None else leaves
        key = (side, *(id(x) for x in (*leaves, *cotangents)))
        if key not in self._memo:
            self._kept.append((leaves, cotangents))  # their ids stay theirs
            self._memo[key] = Evaluated(*runner(leaves, cotangents))
        return self._memo[key]

    @cached_property
    def _kept(self) -> list[Any]:
        return []

    # Random numbers ---------------------------------------------------------------------------------------------------------

    def _output_shapes(self) -> list[tuple[int, ...]]:
        with self.truth():
            outputs, _ = jax.eval_shape(self.subject.flat, self.dtyped(self.truth), self.subject.passengers)
        return [y.shape for y in outputs]

    def normal(self, shapes: Sequence[tuple[int, ...]]) -> Arrays:
        """Standard normal numbers that every precision in play can hold."""
        return tuple(
            self.rng.standard_normal(shape).astype(np.float32).astype(jnp.bfloat16).astype(np.float64) for shape in shapes
        )

    @cached_property
    def random_cotangents(self) -> dict[str, Arrays]:
        """Random cotangents on every output."""
        return {f"random cotangents {k}": self.normal(self.output_shapes) for k in range(3 if self.thorough else 2)}

    @property
    def cotangents(self) -> Arrays:
        """The first of them."""
        return next(iter(self.random_cotangents.values()))

    # Judging ----------------------------------------------------------------------------------------------------------------

    @property
    def allowed(self) -> list[float]:
        """C·√n·eps relative to each leaf's scale, or the caller's `rtol` where that is more."""
        return [max(rounding.tolerance(self.longest_sum, self.eps), self.rtol)] * len(self.names)

    def judged(self, got: Arrays, cotangents: Arrays, where: str, leaves: Arrays | None = None) -> list[Difference]:
        """The leaves of a gradient that differ from the reference by more than rounding explains.

        What rounding can do is measured as far as it takes to decide: by inputs moved by one unit in the last place, then by Monte
        Carlo arithmetic, unless the error is out of all proportion.
        """
        leaves = self.leaves if leaves is None else leaves
        expected = self.expected(cotangents, leaves).bars
        compared = lambda room=None: differences(self.names, got, expected, self.allowed, where, room)
        found = compared()
        if found:
            found = compared(self.noise(cotangents, leaves, 0))
            large = self.eps**0.25 * max(
                scales(expected)
            )  # no rounding is so large, but that of a function which chaos amplifies
            for variants in (1, rounding.VARIANTS):
                if any(d.error * d.scale < large for d in found):
                    found = compared(self.noise(cotangents, leaves, variants))
        return found

    def alike(self, got: Arrays, expected: Arrays, where: str, times: float = 1.0) -> list[Difference]:
        """The leaves in which two results of the rule itself, such as eager and jitted, differ by more than `times` what rounding
        explains."""
        compared = lambda room=None: differences(self.names, got, expected, [times * a for a in self.allowed], where, room)
        found = compared()
        if found and not self.why_no_reference:
            found = compared([times * n for n in self.noise(self.cotangents)])
        return found

    def noise(self, cotangents: Arrays, leaves: Arrays | None = None, variants: int = rounding.VARIANTS) -> list[float]:
        """How far rounding may move each leaf of the reference's gradient; memoised."""
        leaves = self.leaves if leaves is None else leaves
        key = (variants, *(id(x) for x in (*leaves, *cotangents)))
        if key not in self.shared:
            self.expected(cotangents, leaves)  # keeps them, and so their ids
            self.shared[key] = self.noise_of(gradient_alone(self.reference), leaves, cotangents, variants=variants)
        return self.shared[key]

    def noise_of(
        self, function: Callable[..., Any], leaves: Arrays, *rest: Any, variants: int = rounding.VARIANTS
    ) -> list[float]:
        """8 times how far rounding moves each result of `function(leaves, passengers, *rest)`: by Monte Carlo arithmetic, or, with no
        variant of it, by one unit in the last place of the inputs only."""
        plain = self.runner(function)

        def noisy_program(variant: int) -> Program:
            with self.truth():
                like = tuple(jnp.asarray(x, dtype) for x, dtype in zip(leaves, self.dtypes(self.truth), strict=True))
                arguments = (like, self.subject.passengers, *jax.tree.map(jnp.asarray, rest))
                run = rounding.noisy(jax.make_jaxpr(function)(*arguments), variant)
                return compiled(lambda *arguments: tuple(run(*jax.tree.leaves(arguments))), *arguments)

        exact, known = plain(leaves, *rest), plain.program(leaves, *rest)
        programs = [derived(known, f"noise {k}", partial(noisy_program, k)) for k in range(variants)] or [known]
        rng = np.random.default_rng(0)
        nudged = lambda part: rounding.nudged(part, rng, self.truth.eps)
        samples = [plain.run(p, nudged(leaves), *map(nudged, rest)) for p in programs for _ in range(rounding.SAMPLES)]
        far = lambda one, other: float(np.nan_to_num(np.abs(one - other), nan=0.0, posinf=0.0).max(initial=0))
        return [rounding.SAFETY * max(far(sample[k], result) for sample in samples) for k, result in enumerate(exact)]

    @cached_property
    def drowned(self) -> list[str]:
        """Leaves whose reference gradient is nothing but rounding, as that of a shift of all logits: zero but for 1e-17."""
        runs = {where: self.expected(us).bars for where, us in self.random_cotangents.items()}
        largest = max(scale for bars in runs.values() for scale in scales(bars))
        most = [max(float(np.abs(bars[k]).max(initial=0)) for bars in runs.values()) for k in range(len(self.names))]
        if not any(0 < scale < self.eps**0.5 * largest for scale in most):
            return []
        noise = [max(pair) for pair in zip(*(self.noise(us) for us in self.random_cotangents.values()), strict=True)]
        return [name for name, scale, rounding in zip(self.names, most, noise, strict=True) if 0 < scale <= rounding]


def brief(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"

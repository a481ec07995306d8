"""Measures how far rounding alone can move a result, by Monte Carlo arithmetic (Parker 1997).

The reference runs several times. In each run, every rounded intermediate result is moved up or down
by one unit in its last place. If an entry of a rule's gradient differs from the reference by at
most 8 times the largest change of that entry, rounding alone can explain the difference.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax import jaxprs
from gru_jax.verify.evaluation import gradients, identity
from gru_jax.verify.function import Arrays, RealFunction
from gru_jax.verify.precision import Precision
from gru_jax.verify.programs import Program, Runner, compile_program, derive_program
from gru_jax.verify.tolerances import SAFETY

VARIANTS = 3  # number of perturbed programs, each with its own hash
SAMPLES = 6  # number of runs of each program, at inputs that differ in the last place

# Primitives with exact results, or whose inner jaxpr is perturbed instead.
_EXACT_NAMES = """
neg copy copy_p reshape broadcast_in_dim transpose squeeze expand_dims slice dynamic_slice
dynamic_update_slice concatenate pad rev gather select_n select_and_scatter_add max min abs sign
stop_gradient reduce_max reduce_min sort split real imag complex convert_element_type scatter clamp
floor ceil round nextafter iota reduce_precision pvary pcast optimization_barrier while cond scan
"""
_EXACT = frozenset(_EXACT_NAMES.split())
_CALLS = frozenset(["jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"])


class RoundingNoise:
    """Measures how far rounding moves the results of a function. Caches that of gradients.

    Args:
        reference: The function of real leaves whose gradients are measured.
        precision: The precision of the comparison.
        leaves: Leaves of the arguments in float64.
    """

    def __init__(self, reference: RealFunction, precision: Precision, leaves: Arrays) -> None:
        self._gradients = gradients(reference)
        self._precision, self._leaves = precision, leaves
        # The arrays are stored with the result, so that their ids are not reused.
        self._of_gradients: dict[tuple[int, ...], tuple[Arrays, Arrays, Arrays]] = {}
        self._gradient_runner = Runner(self._gradients, precision)
        self._perturbed: dict[tuple[Program, int], Program] = {}

    def of_gradients(self, cotangents: Arrays, leaves: Arrays | None = None, variants: int = VARIANTS) -> Arrays:
        """Returns how far rounding may move each entry of the reference's gradient.

        This is the result of `of_results` for the gradients.
        """
        leaves = self._leaves if leaves is None else leaves
        key = (variants, *identity(leaves, cotangents))
        if key not in self._of_gradients:
            noise = self.of_results(self._gradients, leaves, cotangents, variants=variants)
            self._of_gradients[key] = (noise, leaves, cotangents)
        return self._of_gradients[key][0]

    def of_results(self, function: Callable[..., Arrays], leaves: Arrays, *rest: Any, variants: int = VARIANTS) -> Arrays:
        """Returns, for each entry of each result, 8 times the largest change by rounding.

        Calls `function(leaves, nondiff_args, *rest)`. With `variants=0`, only the inputs are moved
        by one unit in the last place. That is cheaper, because no perturbed program is compiled.
        """
        precision, nondiff_args = self._precision, self._precision.nondiff_args
        runner = self._gradient_runner if function is self._gradients else Runner(function, precision)

        def perturbed_program(variant: int) -> Program:
            with precision.active():
                arguments = (precision.cast(leaves), nondiff_args, *jax.tree.map(jnp.asarray, rest))
                run = perturbed(jax.make_jaxpr(function)(*arguments), variant)
                return compile_program(lambda *arguments: tuple(run(*jax.tree.leaves(arguments))), *arguments)

        exact, program = runner(leaves, *rest), runner.program(leaves, *rest)
        for variant in range(variants):
            if (program, variant) not in self._perturbed:
                make = partial(perturbed_program, variant)
                self._perturbed[program, variant] = derive_program(program, f"noise {variant}", make)
        programs = [self._perturbed[program, variant] for variant in range(variants)] or [program]
        rng = np.random.default_rng(0)
        move = lambda arrays: moved_by_one_ulp(arrays, rng, precision.eps)
        samples = [runner.run(p, move(leaves), *map(move, rest)) for p in programs for _ in range(SAMPLES)]
        distance = lambda a, b: np.nan_to_num(np.abs(a - b), nan=0.0, posinf=0.0)
        with np.errstate(invalid="ignore"):  # of infinities
            changes = [np.max([distance(sample[k], result) for sample in samples], axis=0) for k, result in enumerate(exact)]
        return tuple(SAFETY * change for change in changes)


def perturbed(jaxpr: Any, variant: int = 0) -> Callable[..., Any]:
    """Returns a closed `jaxpr` as a function that moves every rounded result.

    Each result moves up or down by one unit in its last place. The direction is a hash of the
    result's own bits, so that no PRNG key has to be passed through loops. Different inputs give
    different noise. Each `variant` of the hash also gives different noise, which matters where
    saturated values are the same for all inputs.
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
                if name not in _EXACT or _narrows(equation):
                    results = [_moved_by_hash(result, variant) for result in results]
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
            return open_jaxpr  # without noise, because an open jaxpr cannot hold the new constants
        plain = getattr(traced, "jaxpr", traced)
        return open_jaxpr.replace(
            eqns=plain.eqns, constvars=plain.invars[:count], invars=plain.invars[count:], outvars=plain.outvars
        )

    return lambda *args: run(getattr(jaxpr, "jaxpr", jaxpr), jaxpr.consts, args)


def _narrows(equation: Any) -> bool:
    """Returns whether an equation casts to a lower precision, which rounds."""
    if equation.primitive.name != "convert_element_type":
        return False
    before, after = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
    are_floating = jnp.issubdtype(before, jnp.floating) and jnp.issubdtype(after, jnp.floating)
    return bool(are_floating and jnp.finfo(after).eps > jnp.finfo(before).eps)


def moved_by_one_ulp(arrays: Sequence[Any], rng: np.random.Generator, eps: float) -> Arrays:
    """Moves every entry up or down by one unit in its last place, which is `eps` of it."""
    return tuple(array * (1 + eps * rng.choice([-1.0, 1.0], array.shape)) for array in arrays)


def _moved_by_hash(x: Any, variant: int) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    width = 8 * x.dtype.itemsize
    bits: Any = {16: np.uint16, 32: np.uint32, 64: np.uint64}[width]
    # This is a scalar, because an array would become a constant of the jaxpr.
    odd = bits((0x9E3779B97F4A7C15 * (2 * variant + 1)) % 2**width | 1)
    hashed = jax.lax.bitcast_convert_type(x, bits) * odd
    hashed = (hashed ^ (hashed >> bits(width // 2))) * odd >> bits(width - 1)
    eps = float(jnp.finfo(x.dtype).eps)
    return x * (1 + eps * (1 - 2 * hashed.astype(x.dtype)))

"""The checks of types and shapes, and of what the rule returns without `jit`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.verify import budget
from gru_jax.verify.comparison import compare_leaves
from gru_jax.verify.eager_run import floating_outputs, run_eagerly
from gru_jax.verify.errors import VALUE_NEEDED, short_message
from gru_jax.verify.report import FAIL, NOT_CHECKED, PASS, Check, pass_or_fail
from gru_jax.verify.tolerances import rounding_tolerance
from gru_jax.verify.verification import Verification


def structure(verification: Verification) -> Check:
    """Checks types, shapes, dtypes and devices. Mentions weak types.

    The cotangent of a leaf must be like the leaf. The outputs of the forward rule must be like
    those of the function. JAX does not check this: for example, it returns a cotangent of the wrong
    dtype as it is.

    The rule is traced. A thorough verification also runs it without `jit`, which reveals NumPy
    arrays and arrays on other devices.
    """
    wrong: dict[str, None] = {}
    weak: dict[str, None] = {}
    try:
        forward_outputs, gradients = _traced(verification)
    except VALUE_NEEDED as error:
        weak[f"with jit, the rule raises {short_message(error, 80)}"] = None
    else:
        wrong |= dict.fromkeys(_mismatches(verification, forward_outputs, gradients))
        weak |= dict.fromkeys(_weak_types(verification, gradients))
    if verification.thorough or weak:
        try:
            run = verification.eager_run
        except Exception as error:
            weak[f"without jit, the rule raises {short_message(error, 80)}"] = None
        else:
            wrong |= dict.fromkeys(_mismatches(verification, run.forward_outputs, run.gradients))
    text = "; ".join((*wrong, *weak)) or "every cotangent and output has the right type, shape and dtype"
    return Check("structure", pass_or_fail(wrong), text, notes=tuple(weak))


def determinism(verification: Verification) -> Check:
    """Checks that a second run returns the same bits.

    Calls the pullback twice with the same residuals, and then computes the whole gradient again.
    """
    try:
        run = verification.eager_run
    except Exception as error:
        return Check("determinism", NOT_CHECKED, f"without jit, {verification.function.name} raises {short_message(error)}")
    budget.check()
    rerun = run_eagerly(verification.function, verification.precisions.given, verification.cotangents)
    names = verification.function.leaf_names
    differ = [
        name
        for name, first, again, fresh in zip(names, run.gradients, run.gradients_again, rerun.gradients, strict=True)
        if not (np.array_equal(first, again, equal_nan=True) and np.array_equal(first, fresh, equal_nan=True))
    ]
    if not differ:
        return Check("determinism", PASS, "three runs return the same bits")
    if jax.default_backend() != "cpu":
        first, second = (tuple(np.asarray(leaf, np.float64) for leaf in r.gradients) for r in (run, rerun))
        allowed = rounding_tolerance(verification.tolerances.longest_sum, verification.precisions.given.eps)
        if not compare_leaves(names, second, first, condition="second run", relative_tolerance=allowed):
            text = f"runs on {jax.default_backend()} agree up to rounding, but not bit for bit, in {', '.join(differ)}"
            return Check("determinism", PASS, text)
    return Check("determinism", FAIL, f"runs with the same inputs return different gradients of {', '.join(differ)}")


def eager(verification: Verification) -> Check:
    """Checks that the gradient is the same with and without `jit`."""
    budget.check()
    try:
        _traced(verification)
    except VALUE_NEEDED as error:
        return Check("eager", NOT_CHECKED, f"with jit, the rule raises {short_message(error)}")
    us, function, precision = verification.cotangents, verification.function, verification.precisions.comparison
    with precision.active():
        leaves = precision.cast(verification.leaves)
        outputs, pullback = jax.vjp(lambda *leaves: function.call_real(leaves, precision.nondiff_args).floating, *leaves)
        gradients = pullback(tuple(jnp.asarray(u, y.dtype) for u, y in zip(us, outputs, strict=True)))
    on_host = tuple(np.asarray(leaf, np.float64) for leaf in gradients)
    found = verification.compare_runs(on_host, verification.rule(us).gradients, "without jit compared with jit")
    text = f"the gradients with and without jit {'differ' if found else 'agree'}"
    return Check("eager", pass_or_fail(found), text, tuple(found))


def _traced(verification: Verification) -> tuple[Any, Any]:
    """Returns the shapes and dtypes of the forward rule's outputs and of the pullback's results."""
    function = verification.function

    def run(*leaves):
        forward, pullback = jax.vjp(lambda *leaves: floating_outputs(function, leaves), *leaves)
        return forward, pullback([jnp.zeros_like(y) for y in forward])

    with verification.precisions.given.active():
        return jax.eval_shape(run, *function.leaves)


def _mismatches(verification: Verification, forward_outputs: Any, gradients: Any) -> list[str]:
    """Describes the outputs and gradients that have a wrong type, shape, dtype or device."""
    function = verification.function
    with verification.precisions.given.active():
        outputs = jax.eval_shape(lambda *leaves: floating_outputs(function, leaves), *function.leaves)
    wrong: list[str] = []
    for name, y, own in zip(function.output_names, forward_outputs, outputs, strict=True):
        wrong += _mismatch(f"the forward rule's {name}", y, own, "that of the function")
    for name, cotangent, leaf in zip(function.leaf_names, gradients, function.leaves, strict=True):
        wrong += _mismatch(f"the cotangent of {name}", cotangent, leaf, "its leaf")
    return wrong


def _mismatch(name: str, got: Any, like: Any, owner: str) -> list[str]:
    if not isinstance(got, jax.Array | jax.ShapeDtypeStruct):
        return [f"{name} must be a jax.Array, got {type(got).__module__}.{type(got).__name__}; wrap it in jnp.asarray"]
    wrong = []
    if got.shape != jnp.shape(like):
        wrong.append(f"{name} has shape {got.shape}, but {owner} has {jnp.shape(like)}")
    if got.dtype != like.dtype:
        wrong.append(f"{name} has dtype {got.dtype}, but {owner} has {like.dtype}; cast it in the rule")
    if isinstance(like, jax.Array) and isinstance(got, jax.Array) and got.devices() != like.devices():
        wrong.append(f"{name} is on {got.devices()}, but {owner} is on {like.devices()}")
    return wrong


def _weak_types(verification: Verification, gradients: Any) -> list[str]:
    """Describes the cotangents that are weakly typed, although their leaves are not."""
    function = verification.function
    return [
        f"the cotangent of {name} is weakly typed: the next operation may change its dtype; cast it to {leaf.dtype} in the rule"
        for name, cotangent, leaf in zip(function.leaf_names, gradients, function.leaves, strict=True)
        if cotangent.weak_type and not leaf.weak_type
    ]

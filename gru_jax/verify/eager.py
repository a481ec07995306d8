"""What the rule returns when it is run without `jit`, in the dtypes it was given: its structure, and twice the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.verify import rounding
from gru_jax.verify.compare import differences
from gru_jax.verify.report import FAIL, PASS, Check
from gru_jax.verify.subject import Arrays
from gru_jax.verify.trial import Trial


def structure(trial: Trial) -> Check:
    """Cotangents have the type, shape, dtype and device of their leaves; the forward rule's outputs those of the function's.

    JAX accepts a wrong dtype and returns it, drops a weak type, and returns the forward rule's outputs whatever they are. Traced; and,
    if thorough, run without `jit`, where a NumPy array and a device show.
    """
    wrong = dict.fromkeys(_wrong(trial, *_traced(trial)))
    if trial.thorough:
        wrong |= dict.fromkeys(_wrong(trial, *_pulls(trial)[:2]))
    return Check(
        "structure",
        FAIL if wrong else PASS,
        "; ".join(wrong) or "type, shape, dtype and weak type of every cotangent and output",
    )


def determinism(trial: Trial) -> Check:
    """The pullback run twice on the same residuals, and the whole gradient again: equal bit for bit."""
    _, first, again = _pulls(trial)
    _, fresh, _ = _pulls(trial, anew=True)
    differ = [
        name
        for name, a, b, c in zip(trial.names, first, again, fresh, strict=True)
        if not (np.array_equal(a, b, equal_nan=True) and np.array_equal(a, c, equal_nan=True))
    ]
    if not differ:
        return Check("determinism", PASS, "the same bits three times")
    if jax.default_backend() != "cpu":
        wide = [tuple(np.asarray(bar, np.float64) for bar in bars) for bars in (first, fresh)]
        allowed = [rounding.tolerance(trial.longest_sum, trial.native.eps)] * len(trial.names)
        if not differences(trial.names, wide[1], wide[0], allowed, "second run"):
            text = f"equal to rounding, not bit for bit, on {jax.default_backend()}: {', '.join(differ)}"
            return Check("determinism", PASS, text)
    return Check("determinism", FAIL, f"another result at the second run: {', '.join(differ)}")


def eager(trial: Trial) -> Check:
    """Without `jit` as with it."""
    us = trial.cotangents
    with trial.truth():
        leaves = trial.dtyped(trial.truth)
        _, pull = jax.vjp(lambda *leaves: trial.subject.flat(leaves, trial.subject.passengers)[0], *leaves)
        outputs = trial.subject.flat(leaves, trial.subject.passengers)[0]
        bars = pull(tuple(jnp.asarray(u, y.dtype) for u, y in zip(us, outputs, strict=True)))
    found = trial.alike(tuple(np.asarray(bar, np.float64) for bar in bars), trial.rule(us).bars, "eager against jit")
    return Check("eager", FAIL if found else PASS, "without jit as with it", tuple(found))


def _wrong(trial: Trial, forward: Any, bars: Any) -> list[str]:
    """What is unlike what it belongs to."""
    with trial.native():
        outputs = jax.eval_shape(lambda *leaves: _inexact(trial, leaves), *trial.subject.leaves)
    wrong: list[str] = []
    for name, y, own in zip(trial.output_names, forward, outputs, strict=True):
        wrong += _unlike(f"forward rule's {name}", y, own, "the function's")
    for name, bar, leaf in zip(trial.names, bars, trial.subject.leaves, strict=True):
        wrong += _unlike(f"cotangent of {name}", bar, leaf, "its leaf's")
    return wrong


def _unlike(name: str, got: Any, like: Any, whose: str) -> list[str]:
    if not isinstance(got, jax.Array | jax.ShapeDtypeStruct):
        return [f"{name} is a {type(got).__module__}.{type(got).__name__}, not a jax.Array: wrap it in jnp.asarray"]
    wrong = []
    if got.shape != jnp.shape(like):
        wrong.append(f"{name} has shape {got.shape}, {whose} is {jnp.shape(like)}")
    if got.dtype != like.dtype:
        wrong.append(f"{name} has dtype {got.dtype}, {whose} is {like.dtype}: cast it in the rule")
    if got.weak_type and not like.weak_type:
        wrong.append(f"{name} is weakly typed, {whose} is not: the next operation may change its dtype")
    if isinstance(like, jax.Array) and isinstance(got, jax.Array) and got.devices() != like.devices():
        wrong.append(f"{name} is on {got.devices()}, {whose} on {like.devices()}")
    return wrong


def _inexact(trial: Trial, leaves: Arrays) -> list[Any]:
    outputs = jax.tree.leaves(trial.subject.call(leaves, trial.subject.passengers))
    return [y for y in outputs if jnp.issubdtype(jnp.result_type(y), jnp.inexact)]


def _traced(trial: Trial) -> tuple[Any, Any]:
    """Shapes and types of (outputs of the forward rule, what the pullback returns)."""

    def run(*leaves):
        forward, pull = jax.vjp(lambda *leaves: _inexact(trial, leaves), *leaves)
        return forward, pull([jnp.zeros_like(y) for y in forward])

    with trial.native():
        return jax.eval_shape(run, *trial.subject.leaves)


def _pulls(trial: Trial, anew: bool = False) -> tuple[list[Any], Arrays, Arrays]:
    """(outputs of the forward rule, what the pullback returns, what it returns the second time), run eagerly."""
    if anew or "pulls" not in trial.shared:
        with trial.native():
            forward, pull = jax.vjp(lambda *leaves: _inexact(trial, leaves), *trial.subject.leaves)
            us = [_as_cotangent(u, y) for u, y in zip(trial.cotangents, forward, strict=True)]
            trial.shared["pulls"] = (forward, pull(us), pull(us))
    return trial.shared["pulls"]


def _as_cotangent(u: np.ndarray, y: Any) -> jax.Array:
    """A float64 cotangent, its real and imaginary parts on a last axis where `y` is complex, in the dtype of `y`."""
    return jnp.asarray(u[..., 0] + 1j * u[..., 1] if jnp.iscomplexobj(y) else u, y.dtype).reshape(jnp.shape(y))

"""The truth of a case: its rule compared with differences of its values in float64, or with mpmath.

This is independent of `gru_jax.verify`. Each entry of the gradient, or 30 random ones of a large
array, is compared with central differences at several steps. At a kink, every value between the
differences on both sides is right.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from experiments.foreign_rules.case import Case

MOST_ENTRIES = 30
STEPS = (1e-4, 1e-5, 1e-6)
KINK = 1e-3  # relative gap of the differences on both sides at a kink


def rule_is_right(case: Case, args: tuple[Any, ...]) -> bool:
    """Returns whether the gradient by the rule is that of the values, at `args`.

    It must be so in float64. In the dtype of the arguments, the gradient must have that dtype, and
    be right to three digits, or one in half precision. A function whose values differ between the
    two, such as random numbers that are drawn in the dtype, is judged in float64 only.
    """
    given = _Problem(case, args)
    with jax.enable_x64(True):
        wide = _Problem(case, jax.tree.map(_widened, args))
        try:
            wide.gradient()
        except Exception:
            wide = given  # the function accepts its own dtype only
        exact = wide.gradient()
        is_right, values = wide.is_right(exact), wide.values()
    rough = given.gradient()
    digits = max(3 * max(float(jnp.finfo(x.dtype).eps) for x in given.xs) ** 0.5, case.tolerance)
    near = _are_near(rough, exact, digits) or not _are_near(given.values(), values, digits)
    return is_right and near and all(a.dtype == x.dtype for a, x in zip(rough, given.xs, strict=True))


def _are_near(rough: Sequence[np.ndarray], exact: Sequence[np.ndarray], digits: float) -> bool:
    return all(
        np.abs(np.asarray(a, np.float64) - b)[np.isfinite(b)].max(initial=0)
        <= digits * max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0))
        for a, b in zip(rough, exact, strict=True)
    )


def by_check_grads(case: Case) -> str:
    """Returns whether `jax.test_util.check_grads` accepts the rule in float64, at its defaults.

    "accepted", "rejected", or "raised" if it cannot judge the rule.
    """
    with jax.enable_x64(True):
        problem = _Problem(case, jax.tree.map(_widened, case.args))
        try:
            check_grads(problem.fun, (problem.xs,), order=1, modes=["rev"])
        except AssertionError:
            return "rejected"
        except Exception:
            return "raised"
    return "accepted"


class _Problem:
    """The function of a case, as one of its differentiable leaves with complex ones as pairs, and random cotangents."""

    def __init__(self, case: Case, args: tuple[Any, ...]) -> None:
        leaves, structure = jax.tree.flatten(args)
        self.case, wrt = case, [i for i, leaf in enumerate(leaves) if _is_floating(leaf) and _is_chosen(case, args, i)]
        self.xs = [_as_real(jnp.asarray(leaves[i])) for i in wrt]
        is_complex = [jnp.iscomplexobj(leaves[i]) for i in wrt]
        kwargs = case.options.get("kwargs", {})

        def plain(xs):
            given = [jax.lax.complex(x[..., 0], x[..., 1]) if z else x for x, z in zip(xs, is_complex, strict=True)]
            return _floating(case.fun(*jax.tree.unflatten(structure, _put(leaves, wrt, given)), **kwargs))

        self.plain, self.fun = plain, jax.jit(plain)
        rng = np.random.default_rng(0)
        shapes = [y.shape for y in jax.eval_shape(self.fun, self.xs)]
        self.us = [np.ones(shape) if case.exact else rng.standard_normal(shape) for shape in shapes]

    def gradient(self) -> list[np.ndarray]:
        """Returns the gradient by the rule."""
        ys, pullback = jax.vjp(self.plain, self.xs)  # some rules run without jit only
        return list(map(np.asarray, pullback([jnp.asarray(u, y.dtype) for u, y in zip(self.us, ys, strict=True)])[0]))

    def is_right(self, bars: list[np.ndarray]) -> bool:
        """Returns whether gradients agree with differences, or with the exact ones."""
        if self.case.exact is not None:
            expected = self.case.exact(*[np.asarray(x, np.float64) for x in self.xs])
            return all(np.allclose(a, b, rtol=self.case.tolerance, atol=0) for a, b in zip(bars, expected, strict=True))
        here, rng = self.values(), np.random.default_rng(1)
        kinks = [np.zeros(bar.shape, bool) for bar in bars]
        for k, bar in enumerate(bars):
            x = np.asarray(self.xs[k], np.float64)
            finite = np.flatnonzero(np.isfinite(x))
            for i in finite if len(finite) <= MOST_ENTRIES else rng.choice(finite, MOST_ENTRIES, replace=False):
                direction = [np.zeros(b.shape) for b in bars]
                direction[k].flat[i] = 1.0
                agrees, kinks[k].flat[i] = self._agrees(direction, bars, here)
                if bar.shape != x.shape or not agrees:
                    return False
        if sum(map(np.sum, kinks)) < 2:
            return True
        # Entries at a tie may be right alone and wrong together.
        agrees, has_kink = self._agrees([mask.astype(float) for mask in kinks], bars, here)
        return agrees or has_kink

    def _agrees(self, direction: list[np.ndarray], bars: list[np.ndarray], here: list[np.ndarray]) -> tuple[bool, bool]:
        """Returns whether the gradient agrees along a direction, and whether there is a kink."""
        pairs = [(bar[v != 0].astype(np.float64), v[v != 0]) for bar, v in zip(bars, direction, strict=True)]
        by_rule = float(sum((bar * v).sum() for bar, v in pairs))
        scale = float(max(np.abs(bar[np.isfinite(bar)]).max(initial=0) for bar in bars))
        # Differences of low precision need large steps.
        tolerance = self.case.tolerance
        coarse = max(float(jnp.finfo(self.xs[0].dtype).eps) ** (1 / 3) / 6e-6, tolerance / 1e-5)
        size_of_x = max(
            float(np.abs(np.asarray(x, np.float64)[v != 0]).max(initial=1)) for x, v in zip(self.xs, direction, strict=True)
        )
        found, kinked = False, True
        for step in STEPS:
            after, before = (self._slope(direction, sign * step * coarse * size_of_x, here) for sign in (1, -1))
            size = max(abs(after), abs(before), scale, 1e-4)
            is_kink = abs(after - before) > KINK * coarse * size
            kinked &= is_kink
            low, high = (min(after, before), max(after, before)) if is_kink else ((after + before) / 2,) * 2
            found |= low - tolerance * size <= by_rule <= high + tolerance * size
        return found, kinked

    def _slope(self, direction: list[np.ndarray], h: float, here: list[np.ndarray]) -> float:
        moved = [x + jnp.asarray(h * v, x.dtype) for x, v in zip(self.xs, direction, strict=True)]
        ys = self.values(moved)
        with np.errstate(invalid="ignore"):
            return (
                sum(float(np.sum(np.where(y == y0, 0, u * (y - y0)))) for u, y, y0 in zip(self.us, ys, here, strict=True)) / h
            )

    def values(self, xs: Sequence[Any] | None = None) -> list[np.ndarray]:
        """Returns the outputs at `xs`, by default at the arguments."""
        return [np.asarray(y, np.float64) for y in self.fun(self.xs if xs is None else xs)]


def _widened(leaf: Any) -> Any:
    if not _is_floating(leaf):
        return leaf
    return np.asarray(leaf, np.complex128 if jnp.iscomplexobj(leaf) else np.float64)


def _is_floating(leaf: Any) -> bool:
    if isinstance(leaf, float):
        return True
    return isinstance(leaf, np.ndarray | jax.Array | np.generic) and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def _is_chosen(case: Case, args: tuple[Any, ...], leaf: int) -> bool:
    """Returns whether a leaf is differentiated. A case with `wrt` differentiates its first argument."""
    owners = [i for i, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
    return "wrt" not in case.options or owners[leaf] == 0


def _put(leaves: Sequence[Any], places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    changed = list(leaves)
    for place, value in zip(places, values, strict=True):
        changed[place] = value
    return changed


def _floating(outputs: Any) -> list[Any]:
    return [_as_real(y) for y in jax.tree.leaves(outputs) if jnp.issubdtype(y.dtype, jnp.inexact)]


def _as_real(x: Any) -> Any:
    """Returns a complex array as pairs of real numbers on a last axis."""
    return jnp.stack([x.real, x.imag], -1) if jnp.iscomplexobj(x) else x

"""The gradient of a scalar GRU, split by the stamp of the error and the stamp of the weight's use.

The equations are in `experiments.gru_by_hand`. Values are plain numbers, or `Counted` ones, which
count the operations of a backward pass.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax as gj
from gru_jax.cells import GRUParams

WEIGHTS = ("W_z", "U_z", "W_r", "U_r", "W_h", "U_h")


class Stamp(NamedTuple):
    """Values of a scalar GRU at one time stamp, as plain numbers or as `Counted` ones."""

    x: Any
    h_prev: Any
    z: Any
    r: Any
    g: Any
    error: Any  # h − y


class Counted:
    """A number that counts the operations it takes part in."""

    operations = 0

    def __init__(self, value: float):
        self.value = value

    def _with(self, other: Any, operation: Callable[[float, float], float]) -> "Counted":
        Counted.operations += 1
        return Counted(operation(self.value, other.value if isinstance(other, Counted) else other))

    def __add__(self, other: Any) -> "Counted":
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> "Counted":
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> "Counted":
        return self._with(other, lambda a, b: b - a)

    def __mul__(self, other: Any) -> "Counted":
        return self._with(other, lambda a, b: a * b)

    __radd__, __rmul__ = __add__, __mul__


def errors_of_use(stamp: Stamp, U_h: Any, delta: Any) -> dict[str, Any]:
    """Returns the gradient for each weight from its use at `stamp`; `delta` is h's cotangent."""
    x, h_prev, z, r, g, _ = stamp
    a_h = delta * z * (1 - g * g)
    a_r = a_h * U_h * h_prev * r * (1 - r)
    a_z = delta * (g - h_prev) * z * (1 - z)
    return dict(W_z=a_z * x, U_z=a_z * h_prev, W_r=a_r * x, U_r=a_r * h_prev, W_h=a_h * x, U_h=a_h * r * h_prev)


def carried_back(stamp: Stamp, weights: dict[str, Any]) -> Any:
    """Returns D = ∂h/∂h₋ at a stamp."""
    _, h_prev, z, r, g, _ = stamp
    U_z, U_r, U_h = (weights[name] for name in ("U_z", "U_r", "U_h"))
    return (1 - z) + z * (1 - g * g) * U_h * (r + h_prev * r * (1 - r) * U_r) + (g - h_prev) * z * (1 - z) * U_z


def parts(stamps: list[Stamp], weights: dict[str, Any]) -> dict[tuple[int, int], dict[str, Any]]:
    """Returns the gradient for each weight and every pair (stamp of the error, stamp of use)."""
    table = {}
    for t, stamp in enumerate(stamps):
        delta = stamp.error
        for k in range(t, -1, -1):
            table[t + 1, k + 1] = errors_of_use(stamps[k], weights["U_h"], delta)
            delta = delta * carried_back(stamps[k], weights)
    return table


def gradient_shared(stamps: list[Stamp], weights: dict[str, Any]) -> dict[str, Any]:
    """Sums over errors and uses in one backward pass.

    δ accumulates the errors, and each shared variable is computed once per stamp.
    """
    delta = stamps[-1].error
    total: dict[str, Any] = {}
    for k in range(len(stamps) - 1, -1, -1):
        x, h_prev, z, r, g, _ = stamps[k]
        a_h = delta * z * (1 - g * g)
        s_bar = a_h * weights["U_h"]
        a_r = s_bar * h_prev * r * (1 - r)
        a_z = delta * (g - h_prev) * z * (1 - z)
        uses = dict(W_z=a_z * x, U_z=a_z * h_prev, W_r=a_r * x, U_r=a_r * h_prev, W_h=a_h * x, U_h=a_h * r * h_prev)
        total = {name: total[name] + use if total else use for name, use in uses.items()}
        if k:
            delta = stamps[k - 1].error + delta * (1 - z) + s_bar * r + a_r * weights["U_r"] + a_z * weights["U_z"]
    return total


def gradient_from_scratch(stamps: list[Stamp], weights: dict[str, Any]) -> dict[str, Any]:
    """Sums over errors and uses, computing each term (error, use, weight) from scratch."""
    total: dict[str, Any] = {}
    for t, stamp in enumerate(stamps):
        for k in range(t + 1):
            for name in WEIGHTS:
                delta = stamp.error
                for j in range(t, k, -1):
                    delta = delta * carried_back(stamps[j], weights)
                term = error_of_use(stamps[k], weights["U_h"], delta, name)
                total[name] = total[name] + term if name in total else term
    return total


def error_of_use(stamp: Stamp, U_h: Any, delta: Any, name: str) -> Any:
    """Returns the gradient for one weight from its use at `stamp`, computed from scratch."""
    x, h_prev, z, r, g, _ = stamp
    used = x if name[0] == "W" else r * h_prev if name == "U_h" else h_prev
    if name.endswith("z"):
        return delta * (g - h_prev) * z * (1 - z) * used
    if name.endswith("r"):
        return delta * z * (1 - g * g) * U_h * h_prev * r * (1 - r) * used
    return delta * z * (1 - g * g) * used


def as_params(weights: dict[str, Any]) -> GRUParams:
    """Converts six scalars to parameters of `gj.gru()` with D = H = 1 and no bias."""
    matrices = {name: jnp.asarray(value, float).reshape(1, 1) for name, value in weights.items()}
    return GRUParams(**matrices, b_z=None, b_r=None, b_h=None)


def forward(weights: dict[str, float], xs: np.ndarray, ys: np.ndarray, h0: float) -> list[Stamp]:
    """Returns the values at each stamp, as plain numbers."""
    stamps, h = [], h0
    for x, y in zip(xs, ys, strict=True):
        z, r = (1 / (1 + np.exp(-(x * weights[f"W_{k}"] + h * weights[f"U_{k}"]))) for k in "zr")
        g = np.tanh(x * weights["W_h"] + r * h * weights["U_h"])
        h_prev, h = h, (1 - z) * h + z * g
        stamps.append(Stamp(x, h_prev, z, r, g, h - y))
    return stamps


def autodiff_parts(
    weights: dict[str, float], xs: np.ndarray, ys: np.ndarray, h0: float
) -> dict[tuple[int, int], dict[str, float]]:
    """Returns the same as `parts`, by `jax.grad`.

    Each stamp uses its own copy of the weights, and each stamp's error is differentiated with
    respect to each copy.
    """
    cell, steps = gj.gru(), len(xs)

    def error(copies: GRUParams, t: int) -> jax.Array:
        h = jnp.full((1,), h0)
        for k in range(t + 1):
            h, _ = cell.step(jax.tree.map(itemgetter(k), copies), h, jnp.full((1,), xs[k]))
        return gj.heads.half_squared_error(h, jnp.full((1,), ys[t]))

    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * steps), as_params(weights))
    grads = {t: jax.grad(error)(copies, t) for t in range(steps)}
    return {
        (t + 1, k + 1): {name: float(getattr(grads[t], name)[k, 0, 0]) for name in WEIGHTS}
        for t in range(steps)
        for k in range(t + 1)
    }


def two_stamps(seed: int) -> tuple[dict[str, float], np.ndarray, np.ndarray, float]:
    """Draws random weights, inputs, targets and a first state."""
    draw = np.random.default_rng(seed).normal(size=11)
    return dict(zip(WEIGHTS, draw[:6].tolist(), strict=True)), draw[6:8], draw[8:10], float(draw[10])


def count_operations(steps: int) -> tuple[int, int]:
    """Counts the operations of the backward pass over `steps` stamps, (shared, from scratch).

    Checks that the gradients agree.
    """
    rng = np.random.default_rng(steps)
    weights = dict(zip(WEIGHTS, rng.normal(size=6).tolist(), strict=True))
    stamps = forward(weights, rng.normal(size=steps), rng.normal(size=steps), 0.5)
    counted = [Stamp(*map(Counted, stamp)) for stamp in stamps]
    counted_weights = {name: Counted(weight) for name, weight in weights.items()}
    counts, results = [], []
    for gradient in (gradient_shared, gradient_from_scratch):
        Counted.operations = 0
        results.append({name: value.value for name, value in gradient(counted, counted_weights).items()})
        counts.append(Counted.operations)
    assert all(np.isclose(results[0][name], results[1][name], rtol=1e-9, atol=1e-12) for name in WEIGHTS)
    return counts[0], counts[1]

"""Checks published equations of a GRU's backward pass against the true cotangents.

The GRU is that of Fichou and of the R package: one step, row vectors, no biases. W multiplies the
state and U the input.

    r = σ(h₋ W_r + x U_r),  z = σ(h₋ W_z + x U_z),  s = r ⊙ h₋,
    g = tanh(s W_g + x U_g),  h = (1 − z) ⊙ h₋ + z ⊙ g

The true cotangents come from autodiff alone. A probe, which is a zero, is added at every place of
this formula that an equation refers to. The cotangent of the place is the gradient with respect to
its probe. This distinguishes the cotangent of z through 1 − z from that through z ⊙ g.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Values = dict[str, Any]
WEIGHTS = ("W_r", "U_r", "W_z", "U_z", "W_g", "U_g")
# Names of the probes. "h₋ by s" is the use of h₋ in s, and so on.
PROBES = (
    "h₋ by the carry", "h₋ by s", "h₋ by z", "h₋ by r", "x by z", "x by r", "x by g",
    "a_z", "a_r", "a_g", "z by 1 − z", "z by z ⊙ g", "1 − z", "z ⊙ g", "z", "r", "s", "g", "h",
)  # fmt: skip
RIGHT = 1e-12  # Errors below this, relative to the largest entry, are rounding.


class Equation(NamedTuple):
    """One published equation.

    Attributes:
        name: The left side.
        printed: The right side, as printed.
        evaluate: The printed right side as a function of the earlier deltas and the values of the
            step.
        means: The cotangent that the left side should be, as a sum of named terms: probes, "h₋",
            "x" or weights.
        correct: The corrected right side. None if the printed one is right.
        corrected: The corrected right side as a function. None if the printed one is right.
    """

    name: str
    printed: str
    evaluate: Callable[[Values, Values], Any]
    means: tuple[str, ...]
    correct: str | None = None
    corrected: Callable[[Values, Values], Any] | None = None


class Verdict(NamedTuple):
    """The errors of one equation, relative to the largest entry of the true cotangent.

    Attributes:
        equation: The equation.
        error: Error of the equation itself, with true cotangents on its right side.
        error_in_chain: Error when the earlier equations are used as printed.
        error_corrected: Error of the corrected equation when the earlier ones are corrected too.
    """

    equation: Equation
    error: float
    error_in_chain: float
    error_corrected: float

    @property
    def right(self) -> bool:
        """Whether the equation itself is right."""
        return self.error < RIGHT


def sigmoid(a: Any) -> Any:
    """Returns σ(a)."""
    return jax.nn.sigmoid(a)


def forward(v: Values, probes: Values) -> Any:
    """Runs one step with the probes added."""
    x, h, e = v["x"], v["h₋"], probes
    a_r = (h + e["h₋ by r"]) @ v["W_r"] + (x + e["x by r"]) @ v["U_r"] + e["a_r"]
    a_z = (h + e["h₋ by z"]) @ v["W_z"] + (x + e["x by z"]) @ v["U_z"] + e["a_z"]
    r, z = sigmoid(a_r) + e["r"], sigmoid(a_z) + e["z"]
    s = r * (h + e["h₋ by s"]) + e["s"]
    g = jnp.tanh(s @ v["W_g"] + (x + e["x by g"]) @ v["U_g"] + e["a_g"]) + e["g"]
    keep = 1 - (z + e["z by 1 − z"]) + e["1 − z"]
    return (h + e["h₋ by the carry"]) * keep + (z + e["z by z ⊙ g"]) * g + e["z ⊙ g"] + e["h"]


def step_values(v: Values) -> Values:
    """Returns `v` with the gates r, z and g of the step added."""
    r, z = (sigmoid(v["h₋"] @ v[f"W_{k}"] + v["x"] @ v[f"U_{k}"]) for k in "rz")
    g = jnp.tanh((r * v["h₋"]) @ v["W_g"] + v["x"] @ v["U_g"])
    return v | {"r": r, "z": z, "g": g}


def true_cotangents(v: Values, h_bar: Any) -> Values:
    """Returns the cotangents of all probes, x, h₋, weights and possible biases, by autodiff."""
    zeros = {name: jnp.zeros_like(v["x"] if name.startswith("x") else v["h₋"]) for name in PROBES}
    loss = lambda v, probes: jnp.vdot(forward(v, probes), h_bar)
    inputs = {name: v[name] for name in ("x", "h₋", *WEIGHTS)}
    by_input, by_probe = jax.grad(loss, (0, 1))(inputs, zeros)
    by_bias = {f"b_{gate}": by_probe[f"a_{gate}"].sum(0) for gate in "rzg"}
    return by_probe | by_input | by_bias


def meaning(true: Values, equation: Equation) -> Any:
    """Returns the true value of what an equation computes."""
    return sum(true[name] for name in equation.means)


def difference(value: Any, truth: Any) -> float:
    """Returns the largest difference, relative to the largest entry of the truth.

    Absolute where the truth is zero. Infinite if the shapes differ.
    """
    value, truth = np.asarray(value), np.asarray(truth)
    if value.shape != truth.shape:
        return float("inf")
    return float(np.abs(value - truth).max() / (np.abs(truth).max() or 1))


def judge(equations: tuple[Equation, ...], given: Values, v: Values, h_bar: Any) -> list[Verdict]:
    """Judges every equation of a chain.

    Args:
        equations: The equations in order.
        given: The deltas that the chain starts from.
        v: The values of the step.
        h_bar: The true cotangent of h.
    """
    true = true_cotangents(v, h_bar)
    right = given | {equation.name: meaning(true, equation) for equation in equations}
    as_printed, corrected, verdicts = dict(given), dict(given), []
    for equation in equations:
        as_printed[equation.name] = equation.evaluate(as_printed, v)
        corrected[equation.name] = (equation.corrected or equation.evaluate)(corrected, v)
        truth = right[equation.name]
        verdicts.append(
            Verdict(
                equation,
                difference(equation.evaluate(right, v), truth),
                difference(as_printed[equation.name], truth),
                difference(corrected[equation.name], truth),
            )
        )
    return verdicts

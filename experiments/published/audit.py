"""Judges a published equation: evaluated as printed, beside the true cotangent of what it is said to be.

The GRU is Fichou's and the R package's, one step, row vectors, no biases (W recurrent, U input, as in their forward pass):

    r = σ(h₋ W_r + x U_r),  z = σ(h₋ W_z + x U_z),  s = r ⊙ h₋,  g = tanh(s W_g + x U_g),  h = (1 − z) ⊙ h₋ + z ⊙ g

The truth is autodiff's alone: every place in this formula that an equation speaks of carries a probe, a zero that is added there,
and the cotangent of the place is the gradient by its probe. So "z by way of 1 − z" and "z by way of z ⊙ g" are told apart.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Values = dict[str, Any]
WEIGHTS = ("W_r", "U_r", "W_z", "U_z", "W_g", "U_g")
# Where the probes sit: states and inputs by each of their uses, values by each of theirs.
PROBES = (
    "h₋ by the carry", "h₋ by s", "h₋ by z", "h₋ by r", "x by z", "x by r", "x by g",
    "a_z", "a_r", "a_g", "z by 1 − z", "z by z ⊙ g", "1 − z", "z ⊙ g", "z", "r", "s", "g", "h",
)  # fmt: skip
RIGHT = 1e-12  # an error of rounding, relative to the largest entry


class Equation(NamedTuple):
    """One published line.

    Attributes:
        name: what stands on its left.
        printed: its right side, as printed.
        evaluate: that, as a function of the deltas so far and the values of the step.
        means: the cotangent it is said to be: a sum of probes' names, of "h₋", "x" or of weights.
        correct: the right side as it should be; None where it is right.
        corrected: that, as a function; None where it is right.
    """

    name: str
    printed: str
    evaluate: Callable[[Values, Values], Any]
    means: tuple[str, ...]
    correct: str | None = None
    corrected: Callable[[Values, Values], Any] | None = None


class Verdict(NamedTuple):
    """How an equation fares: with the true cotangents to its right, and within its own chain."""

    equation: Equation
    error: float  # of the line itself: all that it uses is right
    error_in_chain: float  # as it comes out of the lines before it, as printed
    error_corrected: float  # in the chain of corrected lines

    @property
    def right(self) -> bool:
        """Whether the line itself is right."""
        return self.error < RIGHT


def sigmoid(a: Any) -> Any:
    """σ."""
    return jax.nn.sigmoid(a)


def forward(v: Values, probes: Values) -> Any:
    """One step with a probe at every place."""
    x, h, e = v["x"], v["h₋"], probes
    a_r = (h + e["h₋ by r"]) @ v["W_r"] + (x + e["x by r"]) @ v["U_r"] + e["a_r"]
    a_z = (h + e["h₋ by z"]) @ v["W_z"] + (x + e["x by z"]) @ v["U_z"] + e["a_z"]
    r, z = sigmoid(a_r) + e["r"], sigmoid(a_z) + e["z"]
    s = r * (h + e["h₋ by s"]) + e["s"]
    g = jnp.tanh(s @ v["W_g"] + (x + e["x by g"]) @ v["U_g"] + e["a_g"]) + e["g"]
    keep = 1 - (z + e["z by 1 − z"]) + e["1 − z"]
    return (h + e["h₋ by the carry"]) * keep + (z + e["z by z ⊙ g"]) * g + e["z ⊙ g"] + e["h"]


def step_values(v: Values) -> Values:
    """`v` with the gates of the step, as a derivation calls them."""
    r, z = (sigmoid(v["h₋"] @ v[f"W_{k}"] + v["x"] @ v[f"U_{k}"]) for k in "rz")
    g = jnp.tanh((r * v["h₋"]) @ v["W_g"] + v["x"] @ v["U_g"])
    return v | {"r": r, "z": z, "g": g}


def true_cotangents(v: Values, h_bar: Any) -> Values:
    """The cotangent of every place, state, input, weight, and of the biases that a package may add, by autodiff."""
    zeros = {name: jnp.zeros_like(v["x"] if name.startswith("x") else v["h₋"]) for name in PROBES}
    loss = lambda v, probes: jnp.vdot(forward(v, probes), h_bar)
    inputs = {name: v[name] for name in ("x", "h₋", *WEIGHTS)}
    by_input, by_probe = jax.grad(loss, (0, 1))(inputs, zeros)
    by_bias = {f"b_{gate}": by_probe[f"a_{gate}"].sum(0) for gate in "rzg"}
    return by_probe | by_input | by_bias


def meaning(true: Values, equation: Equation) -> Any:
    """The cotangent that an equation is said to be."""
    return sum(true[name] for name in equation.means)


def difference(value: Any, truth: Any) -> float:
    """The largest difference, relative to the largest entry of the truth; infinite where the shapes differ."""
    value, truth = np.asarray(value), np.asarray(truth)
    if value.shape != truth.shape:
        return float("inf")
    return float(np.abs(value - truth).max() / np.abs(truth).max())


def judge(equations: tuple[Equation, ...], given: Values, v: Values, h_bar: Any) -> list[Verdict]:
    """Every equation of a chain; `given` are the deltas it starts from, `h_bar` the true cotangent of h."""
    true = true_cotangents(v, h_bar)
    right = given | {equation.name: meaning(true, equation) for equation in equations}
    chain, mended, verdicts = dict(given), dict(given), []
    for equation in equations:
        chain[equation.name] = equation.evaluate(chain, v)
        mended[equation.name] = (equation.corrected or equation.evaluate)(mended, v)
        truth = right[equation.name]
        verdicts.append(
            Verdict(
                equation,
                difference(equation.evaluate(right, v), truth),
                difference(chain[equation.name], truth),
                difference(mended[equation.name], truth),
            )
        )
    return verdicts

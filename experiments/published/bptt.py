"""Runs published chains of equations over whole sequences and several layers, and trains with them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.published.audit import WEIGHTS, Equation, Values, step_values
from experiments.published.fichou import equations as fichou_equations
from experiments.published.rnn_package import equations as package_equations

Weights = dict[str, Any]


def unroll(weights: Weights, xs: Any) -> Values:
    """Returns the values of all steps, starting from a zero state. Leaves have shape (T, B, ·)."""
    weights = {name: weights[name] for name in WEIGHTS}

    def step(h: Any, x: Any) -> tuple[Any, Values]:
        v = step_values(weights | {"x": x, "h₋": h})
        h = (1 - v["z"]) * h + v["z"] * v["g"]
        return h, {name: v[name] for name in ("x", "h₋", "r", "z", "g")} | {"h": h}

    size = weights["W_z"].shape[0]
    return lax.scan(step, jnp.zeros((xs.shape[1], size), xs.dtype), xs)[1]


def run_chain(equations: Sequence[Equation], given: Values, v: Values, *, as_printed: bool) -> Values:
    """Returns all deltas of one step, by the equations as printed or as corrected."""
    deltas = dict(given)
    for equation in equations:
        rule = equation.evaluate if as_printed else equation.corrected or equation.evaluate
        deltas[equation.name] = rule(deltas, v)
    return deltas


def fichou(weights: Weights, xs: Any, h_bars: Any, *, as_printed: bool) -> tuple[Weights, Any]:
    """Runs Fichou's chain backwards over a layer.

    δ1 comes from the layer above, the δ23 of a step is the δ2 of the step before, and δ24 is the δ1
    of the layer below. His W and U are interpreted so that the shapes match for unequal input and
    hidden sizes.

    Returns:
        The gradients of the weights, and the cotangents of the inputs.
    """
    only, equations = {name: weights[name] for name in WEIGHTS}, fichou_equations(("U", "W"))

    def step(carry: Any, at_t: Any) -> tuple[Any, Any]:
        future, totals = carry
        values, h_bar = at_t
        d = run_chain(equations, {"δ1": h_bar, "δ2": future}, values | only, as_printed=as_printed)
        return (d["δ23"], {name: total + d[f"δ{name}"] for name, total in totals.items()}), d["δ24"]

    zeros = jax.tree.map(jnp.zeros_like, only)
    (_, totals), xs_bar = lax.scan(step, (jnp.zeros_like(h_bars[0]), zeros), (unroll(weights, xs), h_bars), reverse=True)
    return totals, xs_bar


def package(weights: Weights, xs: Any, es: Any, *, as_printed: bool) -> Weights:
    """Returns what the R package adds to its weights, including V, for the output deltas `es`.

    As printed, the chain uses the running sum for V while it is still growing.
    """
    only = {name: weights[name] for name in WEIGHTS}

    def step(carry: Any, at_t: Any) -> tuple[Any, None]:
        future, totals, V_bar = carry
        values, e = at_t
        V_bar = V_bar + values["h"].T @ e
        given = {"e": e, "V̄": V_bar, "δ_f": future}
        d = run_chain(package_equations(), given, values | only | {"V": weights["V"]}, as_printed=as_printed)
        return (d["future"], {name: total + d[f"Δ{name}"] for name, total in totals.items()}, V_bar), None

    values = unroll(weights, xs)
    zeros = jax.tree.map(jnp.zeros_like, only)
    carry = (jnp.zeros_like(values["h"][0]), zeros, jnp.zeros_like(weights["V"]))
    (_, totals, V_bar), _ = lax.scan(step, carry, (values, es), reverse=True)
    return totals | {"V": V_bar}


def two_layers(lower: Weights, upper: Weights, xs: Any, h_bars: Any, *, as_printed: bool) -> tuple[Weights, Weights]:
    """Returns the gradients of two layers by Fichou's chain.

    The δ24 of the upper layer is the δ1 of the lower one.
    """
    hs = unroll(lower, xs)["h"]
    upper_bar, hs_bar = fichou(upper, hs, h_bars, as_printed=as_printed)
    return fichou(lower, xs, hs_bar, as_printed=as_printed)[0], upper_bar


def two_layers_by_autodiff(lower: Weights, upper: Weights, xs: Any, h_bars: Any) -> tuple[Weights, Weights]:
    """Returns the gradients of two layers by `jax.grad`."""
    loss = lambda lower, upper: jnp.vdot(unroll(upper, unroll(lower, xs)["h"])["h"], h_bars)
    return jax.grad(loss, (0, 1))(lower, upper)


def outputs(weights: Weights, xs: Any) -> Any:
    """Returns ŷ = σ(h V) at every step."""
    return jax.nn.sigmoid(unroll(weights, xs)["h"] @ weights["V"])


def update_direction(rule: str, weights: Weights, xs: Any, ys: Any) -> Weights:
    """Returns minus the gradient of ½ Σ (y − ŷ)², by autodiff ("right") or by the printed equations
    ("fichou", "package").
    """
    if rule == "right":
        loss = lambda weights: 0.5 * jnp.sum((outputs(weights, xs) - ys) ** 2)
        return jax.tree.map(jnp.negative, jax.grad(loss)(weights))
    predicted = outputs(weights, xs)
    es = (ys - predicted) * predicted * (1 - predicted)
    if rule == "package":
        return package(weights, xs, es, as_printed=True)
    totals, _ = fichou(weights, xs, es @ weights["V"].T, as_printed=True)
    return totals | {"V": jnp.einsum("tbh,tbo->ho", unroll(weights, xs)["h"], es)}


@partial(jax.jit, static_argnums=(0, 2, 3))
def learn_addition(rule: str, key: jax.Array, epochs: int, hidden: int = 10) -> dict[str, Any]:
    """Trains on binary addition, lowest bit first, with the settings of the R package's example.

    These are 5,000 pairs from 0 to 127, eight bits, batches of 100, a learning rate of 0.1 on sums
    over the batch, and weights from U(−1, 1).

    Args:
        rule: How the gradient is computed: "right" by autodiff, "fichou" or "package" by the
            printed equations.
        key: A PRNG key.
        epochs: Number of epochs.
        hidden: Number of units. Defaults to 10.

    Returns:
        After each epoch, on 1,000 other pairs, the fraction of correct bits and the fraction of
        correct sums.
    """
    key_weights, key_pairs, key_test, key_order = jax.random.split(key, 4)
    shapes = {name: (2 if name[0] == "U" else hidden, hidden) for name in WEIGHTS} | {"V": (hidden, 1)}
    keys = jax.random.split(key_weights, len(shapes))
    weights = {name: jax.random.uniform(k, shape, minval=-1.0) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}

    def bits(numbers: Any) -> Any:
        return ((numbers[None] >> jnp.arange(8).reshape(8, *(1,) * numbers.ndim)) & 1).astype(float)

    pairs, test = jax.random.randint(key_pairs, (5000, 2), 0, 128), jax.random.randint(key_test, (1000, 2), 0, 128)
    task = lambda pairs: (bits(pairs), bits(pairs.sum(-1))[..., None])
    test_xs, test_ys = task(test)

    def update(weights: Weights, batch: Any) -> tuple[Weights, None]:
        added = update_direction(rule, weights, *task(batch))
        return jax.tree.map(lambda w, a: w + 0.1 * a, weights, added), None

    def epoch(weights: Weights, key: jax.Array) -> tuple[Weights, Any]:
        batches = jax.random.permutation(key, pairs).reshape(50, 100, 2)
        weights = lax.scan(update, weights, batches)[0]
        right = (outputs(weights, test_xs) > 0.5) == (test_ys > 0.5)
        return weights, {"bits": right.mean(), "sums": right.all(0).mean()}

    return lax.scan(epoch, weights, jax.random.split(key_order, epochs))[1]

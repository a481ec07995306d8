"""Seo's script x_gru.py: its data, its formulas, and the correct gradient of the same task.

The task is to sum each of five sequences of three steps. The script's letters are explained in
`experiments.gru_by_hand`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from experiments.tutorials.scalar_gru import as_params
from gru_jax.cells import GRUParams

ORDER_OF_DRAWS = ("wx_r", "wrec_r", "wx_u", "wrec_u", "wx_c", "wrec_c")
XS = np.array([[-0.2, -0.2, -0.6], [-0.3, -0.2, 0], [0, 0, 0], [0.1, 0.1, 0.3], [0, 0.5, 0.5]])
YS = np.array([-1, -0.5, 0, 0.5, 1])
EPOCHS, LR_WX, LR_WREC = 5000, 0.01, 0.0001


def script_weights() -> dict[str, float]:
    """Returns the script's initial weights."""
    return dict(zip(ORDER_OF_DRAWS, np.random.RandomState(678).randn(6).tolist(), strict=True))


def correct_params() -> GRUParams:
    """Returns the script's initial weights as parameters of `gj.gru()`."""
    w = script_weights()
    return as_params(dict(W_z=-w["wx_u"], U_z=-w["wrec_u"], W_r=w["wx_r"], U_r=w["wrec_r"], W_h=w["wx_c"], U_h=w["wrec_c"]))


def script_forward(c: jax.Array, xs: jax.Array) -> tuple[jax.Array, ...]:
    """Runs the script's forward pass with the candidate's weights `c` = (wx_c, wrec_c).

    Error 1 of the script: the candidate uses r before its sigmoid.

    Returns:
        The states h_0 … h_3, and the pre-activations of r, u and c, (3, N) each.
    """
    w = script_weights()
    hs, pres = [jnp.zeros(len(xs))], []
    for x in xs.T:
        h = hs[-1]
        r, u = x * w["wx_r"] + h * w["wrec_r"], x * w["wx_u"] + h * w["wrec_u"]
        g = x * c[0] + r * h * c[1]
        pres.append((r, u, g))
        hs.append(jax.nn.sigmoid(u) * h + (1 - jax.nn.sigmoid(u)) * jnp.tanh(g))
    return (jnp.stack(hs), *(jnp.stack(pre) for pre in zip(*pres, strict=True)))


def script_cost(c: jax.Array, xs: jax.Array, ys: jax.Array) -> jax.Array:
    """Returns ½ Σ (h₃ − y)² of the script's forward pass."""
    return gj.heads.half_squared_error(script_forward(c, xs)[0][-1], ys)


def script_gradient(c: jax.Array, xs: jax.Array, ys: jax.Array) -> jax.Array:
    """Returns what the script uses as (∂/∂wx_c, ∂/∂wrec_c).

    a_3, a_2 and a_1 stand for the cotangents of the candidate's pre-activation. The script's errors
    are:
    2. Only these two weights are trained.
    3. The path through u h₋ is missing.
    4. tanh′ is taken at u, not at c.
    5. The values of r and h of one step are mixed with those of another.
    6. The gradient with respect to wrec_c uses h₋, not r h₋.
    """
    hs, r, u, g = script_forward(c, xs)
    wrec_r = script_weights()["wrec_r"]
    slope_r = jax.nn.sigmoid(r) * (1 - jax.nn.sigmoid(r))
    open_u, slope_u = 1 - jax.nn.sigmoid(u), 1 - jnp.tanh(u) ** 2
    a_3 = (hs[3] - ys) * open_u[2] * (1 - jnp.tanh(g[2]) ** 2)
    a_2 = a_3 * c[1] * (r[2] + hs[2] * slope_r[2] * wrec_r) * open_u[1] * slope_u[1]
    a_1 = a_2 * c[1] * (r[0] + hs[1] * slope_r[1] * wrec_r) * open_u[0] * slope_u[0]
    a = jnp.stack([a_1, a_2, a_3])
    return jnp.stack([(a * xs.T).sum(), (a * hs[:-1]).sum()])


def train_script(epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Trains as the script does.

    Returns the cost before each epoch and after the last, and the two final weights.
    """
    w, rates = script_weights(), jnp.array([LR_WX, LR_WREC])

    @jax.jit
    def run(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        def epoch(c: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            return c - rates * script_gradient(c, jnp.array(XS), jnp.array(YS)), script_cost(c, jnp.array(XS), jnp.array(YS))

        return jax.lax.scan(epoch, c, None, length=epochs)

    c, costs = run(jnp.array([w["wx_c"], w["wrec_c"]]))
    return np.append(costs, script_cost(c, jnp.array(XS), jnp.array(YS))), np.asarray(c)


def gru_cost(params: GRUParams, batch: tuple[Any, Any], *, every_stamp: bool = False) -> jax.Array:
    """Returns the cost of the correct GRU.

    That is ½ Σ (h₃ − y)², or with `every_stamp` ½ Σ_t (h_t − Σ_{k≤t} x_k)². The last running sum is
    the script's y.
    """
    xs, ys = batch
    h_last, hs = gj.unroll(gj.gru(), params, xs, time_major=False)
    if every_stamp:
        return gj.heads.sum_over_steps(gj.heads.half_squared_error(hs, jnp.cumsum(xs, axis=1)), axis=1).sum()
    return gj.heads.half_squared_error(h_last, ys).sum()


def train_gru(lr_wrec: float, epochs: int, *, every_stamp: bool = False) -> tuple[np.ndarray, GRUParams]:
    """Trains all six weights with the correct gradient.

    Returns:
        The cost before each epoch and after the last, and the final weights.
    """
    labels: Any = GRUParams._make("wx" if name[0] == "W" else "wrec" if name[0] == "U" else None for name in GRUParams._fields)
    by_weight = optax.partition({"wx": optax.sgd(LR_WX), "wrec": optax.sgd(lr_wrec)}, labels)
    data = (jnp.array(XS[..., None]), jnp.array(YS[:, None]))

    def loss_fn(params: GRUParams, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        return gru_cost(params, batch, every_stamp=every_stamp), {}

    # The loss draws no random numbers, so any key will do.
    fit = gj.train.fit(
        loss_fn, correct_params(), by_weight, data, key=jax.random.key(0), steps=epochs, steps_per_execution=min(epochs, 1000)
    )
    return np.append(fit.history["loss"], gru_cost(fit.params, data, every_stamp=every_stamp)), fit.params


def finite_difference(f: Callable[[jax.Array], jax.Array], at: jax.Array, step: float = 1e-6) -> list[float]:
    """Returns the gradient of a scalar function of a vector, by central differences."""
    return [float(f(at + step * e) - f(at - step * e)) / (2 * step) for e in jnp.eye(len(at))]

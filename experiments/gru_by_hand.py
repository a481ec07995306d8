"""What is the gradient of a GRU over two time stamps, and does a published script agree?

Part 1 follows Seo's post of January 2018: a scalar GRU with six weights and a cost ½ (h_t − y_t)²
at each of two time stamps. The post gives the gradient by each weight as the error at stamp 2, plus
two parts at stamp 1: the error of stamp 1, and that of stamp 2 carried back. It leaves the
equations to the reader. They are below, with e_t = h_t − y_t. Values without an index belong to the
stamp where the weight is used, except that those of D₂ belong to stamp 2. U_z, U_r and U_h are
Seo's Wrecz, Wrecr and Wrecca.

    shared by the lines below    δ       = e₂ at stamp 2;  e₁, and e₂ D₂ carried back, at stamp 1
                                 a_h     = δ z (1 − g²)
                                 a_r     = a_h U_h h₋ r (1 − r)
                                 a_z     = δ (g − h₋) z (1 − z)
    Wz, Wrecz                    a_z x,  a_z h₋
    Wr, Wrecr                    a_r x,  a_r h₋
    Wca, Wrecca                  a_h x,  a_h r h₋
    from stamp 2 to stamp 1      D₂      = (1 − z) + z (1 − g²) U_h (r + h₋ r (1 − r) U_r) + (g − h₋) z (1 − z) U_z

Expectation: each of the 18 parts (6 weights at stamp 2, and 6 × 2 at stamp 1) equals autodiff up to
rounding. The number of operations grows with T if the shared variables are computed once, and with
T³ if every term is computed from scratch.

Part 2 runs Seo's script x_gru.py (`Personal_Daily_NeuralNetwork_Practice`,
1_numpy/f_After_2017_winter_break). The task is to sum each of five sequences of three steps, with
cost ½ Σ (h₃ − y)² and 5,000 full-batch epochs. The script trains two of the six weights, by
formulas with six errors.

| run                                            | published or known | remark                                                    |
|------------------------------------------------|--------------------|-----------------------------------------------------------|
| the script's formulas, its forward pass        | 0.1577980          | the last cost it prints, before its last update           |
| correct GRU, six weights, its rates            | 0.1329909          | lr 0.01 (wx), 0.0001 (wrec)                               |
| correct GRU, six weights, lr 0.01              | 0.0636535          |                                                           |
| correct GRU, a cost at every stamp, lr 0.01    | –                  | the targets are the running sums of x                     |

Letters: the script computes h = u h₋ + (1 − u) c, this library h = (1 − z) h₋ + z g. So z = 1 − u =
σ(−a_u), which gives W_z = −wx_u and U_z = −wrec_u. The other weights keep their sign. `--seed`
draws the weights and data of part 1. The script fixes its own (seed 678).
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj
from experiments.common import Options, Outcome, main
from gru_jax.cells import GRUParams

WEIGHTS = ("W_z", "U_z", "W_r", "U_r", "W_h", "U_h")
SEO = dict(zip(WEIGHTS, ("Wz", "Wrecz", "Wr", "Wrecr", "Wca", "Wrecca"), strict=True))
ORDER_OF_DRAWS = ("wx_r", "wrec_r", "wx_u", "wrec_u", "wx_c", "wrec_c")
XS = np.array([[-0.2, -0.2, -0.6], [-0.3, -0.2, 0], [0, 0, 0], [0.1, 0.1, 0.3], [0, 0.5, 0.5]])
YS = np.array([-1, -0.5, 0, 0.5, 1])
EPOCHS, LR_WX, LR_WREC = 5000, 0.01, 0.0001

PUBLISHED = {
    "script, ∂/∂wx_c at 0": "-0.68404", "script, ∂/∂wrec_c at 0": "0.12737",
    "script's forward pass, finite difference by wx_c at 0": "-0.97625",
    "script's forward pass, finite difference by wrec_c at 0": "0.00997",
    "correct GRU, ∂/∂wx_c at 0": "-0.95180", "correct GRU, ∂/∂wrec_c at 0": "0.07545", "correct GRU, cost at 0": "1.6534048",
    "script, cost at 0": "1.6657943", "script, cost at 100": "1.0829383", "script, cost at 1000": "0.2684439",
    "script, cost at 2000": "0.1999845", "script, cost at 4900": "0.1583127", "script, cost at 4999": "0.1577980",
    "script, wx_c at 5000": "3.3954782", "script, wrec_c at 5000": "-0.1210390",
    "correct GRU, lr 0.01, cost at 5000": "0.0636535", "correct GRU, the script's rates, cost at 5000": "0.1329909",
}  # fmt: skip
# The quoted value is truncated, not rounded: the run ends with −0.12103907.
MISQUOTED = ("script, wrec_c at 5000",)


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
    """Returns the gradient by each weight from its use at `stamp`, for the cotangent `delta` of h."""
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
    """Returns the gradient by each weight for every pair (stamp of the error, stamp of use)."""
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
    """Returns the gradient by one weight from its use at `stamp`, sharing nothing with the other
    weights.
    """
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

    Each stamp uses its own copy of the weights, and each stamp's error is differentiated by each
    copy.
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


def part_one(seed: int) -> tuple[dict[str, Any], dict[int, tuple[int, int]]]:
    """Compares the 18 parts with autodiff and their sums with `jax.grad` of `unroll`, counts the
    operations, and prints it all.
    """
    weights, xs, ys, h0 = two_stamps(seed)
    written = parts(forward(weights, xs, ys, h0), weights)
    autodiff = autodiff_parts(weights, xs, ys, h0)
    rows = [
        {"error of stamp": t, "use at stamp": k, "weight": SEO[name], "written out": written[t, k][name], "autodiff": value}
        for (t, k) in ((2, 2), (1, 1), (2, 1))
        for name, value in autodiff[t, k].items()
    ]
    print("\nParts of the gradient: stamp of the error, stamp of use\nerror use weight   written out            autodiff")
    for row in rows:
        t, k, name, ours, theirs = row.values()
        print(f"  {t}    {k}   {name:7} {ours: .15e} {theirs: .15e}")

    def cost(params: GRUParams) -> jax.Array:
        _, hs = gj.unroll(gj.gru(), params, xs[:, None], jnp.full((1,), h0))
        return gj.heads.sum_over_steps(gj.heads.half_squared_error(hs, ys[:, None]))

    whole = jax.grad(cost)(as_params(weights))
    print("\nSums of the parts: at stamp 1 (two parts), and over both stamps (the gradient)")
    print("weight   stamp 1                sum                    jax.grad")
    sums = []
    for name in WEIGHTS:
        at_one = written[1, 1][name] + written[2, 1][name]
        sums.append(
            {
                "weight": SEO[name],
                "stamp 1": at_one,
                "sum": at_one + written[2, 2][name],
                "jax.grad": float(getattr(whole, name)[0, 0]),
            }
        )
        print(f"{SEO[name]:7} " + " ".join(f"{value: .15e}" for value in list(sums[-1].values())[1:]))

    operations = {steps: count_operations(steps) for steps in (2, 3, 4, 6, 8, 12, 16, 24)}
    shared, scratch = operations[2]
    print(f"\nOperations for two stamps: {shared} with shared variables, {scratch} with every term from scratch")
    result = {
        "parts": rows,
        "largest_difference_of_a_part": max(abs(row["written out"] - row["autodiff"]) for row in rows),
        "sums": sums,
        "largest_difference_of_a_sum": max(abs(row["sum"] - row["jax.grad"]) for row in sums),
        "operations": {steps: {"shared": a, "from_scratch": b} for steps, (a, b) in operations.items()},
    }
    return result, operations


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
    4. tanh′ is taken of u, not of c.
    5. The values of r and h of one step are mixed with those of another.
    6. The gradient by wrec_c uses h₋, not r h₋.
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
    """Trains all six weights by the correct gradient.

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
        loss_fn, correct_params(), by_weight, data, key=jax.random.key(0), steps=epochs, steps_per_dispatch=min(epochs, 1000)
    )
    return np.append(fit.history["loss"], gru_cost(fit.params, data, every_stamp=every_stamp)), fit.params


def finite_difference(f: Callable[[jax.Array], jax.Array], at: jax.Array, step: float = 1e-6) -> list[float]:
    """Returns the gradient of a scalar function of a vector, by central differences."""
    return [float(f(at + step * e) - f(at - step * e)) / (2 * step) for e in jnp.eye(len(at))]


def part_two(epochs: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Trains in four ways, and compares every published number with ours."""
    xs, ys = jnp.array(XS), jnp.array(YS)
    w = script_weights()
    c0 = jnp.array([w["wx_c"], w["wrec_c"]])
    data = (xs[..., None], ys[:, None])
    value, grads = jax.value_and_grad(gru_cost)(correct_params(), data)
    script_costs, c_end = train_script(epochs)
    every_stamp_costs, every_stamp_params = train_gru(LR_WX, epochs, every_stamp=True)
    curves = {
        "the script's formulas": script_costs,
        "correct, the script's rates": train_gru(LR_WREC, epochs)[0],
        "correct, lr 0.01": train_gru(LR_WX, epochs)[0],
        "correct, lr 0.01, cost at every stamp": every_stamp_costs,
    }
    numerical = finite_difference(lambda c: script_cost(c, xs, ys), c0)
    ours: dict[str, float] = {
        **dict(zip(("script, ∂/∂wx_c at 0", "script, ∂/∂wrec_c at 0"), script_gradient(c0, xs, ys).tolist(), strict=True)),
        **{
            f"script's forward pass, finite difference by {n} at 0": d
            for n, d in zip(("wx_c", "wrec_c"), numerical, strict=True)
        },
        "correct GRU, ∂/∂wx_c at 0": float(grads.W_h[0, 0]),
        "correct GRU, ∂/∂wrec_c at 0": float(grads.U_h[0, 0]),
        "correct GRU, cost at 0": float(value),
        **{f"script, cost at {at}": float(script_costs[at]) for at in (0, 100, 1000, 2000, 4900, 4999) if at <= epochs},
    }
    if epochs == EPOCHS:
        ours |= {
            "script, wx_c at 5000": float(c_end[0]),
            "script, wrec_c at 5000": float(c_end[1]),
            "correct GRU, lr 0.01, cost at 5000": float(curves["correct, lr 0.01"][-1]),
            "correct GRU, the script's rates, cost at 5000": float(curves["correct, the script's rates"][-1]),
        }
    print(f"\n{'quantity':56} {'published':>10}  ours")
    table = {}
    for name, digits in PUBLISHED.items():
        decimals = len(digits.partition(".")[2])
        equal = None if name not in ours else f"{ours[name]:.{decimals}f}" == digits
        table[name] = {"published": digits, "ours": ours.get(name), "equal": equal}
        verdict = {True: "equal", False: "NOT EQUAL" + " (quoted truncated)" * (name in MISQUOTED), None: "not run"}[equal]
        print(f"{name:56} {digits:>10}  {ours.get(name, float('nan')):.9f}  {verdict}")
    print(f"\nCost after {epochs} epochs")
    for name, costs in curves.items():
        print(f"{name:40} {costs[-1]:.7f}")
    on_last_state = float(gru_cost(every_stamp_params, data))
    print(f"The run with a cost at every stamp has the cost {on_last_state:.7f} on its last state.")
    return {
        "published": table,
        "every_stamp_run_by_last_state": on_last_state,
        "final_cost": {name: costs[-1] for name, costs in curves.items()},
        "epochs": epochs,
    }, curves


def draw_operations(operations: dict[int, tuple[int, int]]) -> plt.Figure:
    """Draws the operations of the backward pass over the number of stamps."""
    figure, axes = plt.subplots(figsize=(6, 4))
    steps = np.array(list(operations))
    shared, scratch = np.array(list(operations.values())).T
    axes.loglog(steps, scratch, "o-", label="each term from scratch")
    axes.loglog(steps, shared, "s-", label="shared variables, computed once")
    for power, start, style in ((3, scratch[-1], ":"), (1, shared[-1], "--")):
        axes.loglog(steps, start * (steps / steps[-1]) ** power, style, color="grey", label=f"∝ T{'³' if power == 3 else ''}")
    axes.set(xlabel="time stamps T", ylabel="operations of the backward pass", title="What the shared variables save")
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def draw_curves(curves: dict[str, np.ndarray]) -> plt.Figure:
    """Draws the cost of the four runs over epochs."""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for name, costs in curves.items():
        axes.plot(costs, "--" if "every" in name else "-", label=f"{name}: {costs[-1]:.4f}")
    axes.set(
        yscale="log", xlabel="epoch", ylabel="cost", title="Seo's five sequences: cost on the last state, or at every stamp"
    )
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    return figure


def run(options: Options) -> Outcome:
    """Runs both parts."""
    first, operations = part_one(options.seed)
    second, curves = part_two(500 if options.quick else EPOCHS)
    verdicts = [row["equal"] for row in second["published"].values()]
    summary = {
        "largest_difference_of_a_part": first["largest_difference_of_a_part"],
        "largest_difference_of_a_sum": first["largest_difference_of_a_sum"],
        "operations_shared": operations[2][0],
        "operations_from_scratch": operations[2][1],
        "published_numbers": len(verdicts),
        "equal": verdicts.count(True),
        "not_run": verdicts.count(None),
        "not_equal": [name for name, row in second["published"].items() if row["equal"] is False],
        "final_cost": second["final_cost"],
    }
    figures = {"operations.png": draw_operations(operations), "learning_curves.png": draw_curves(curves)}
    return Outcome(summary, {"two_stamps": first, "five_sequences": second}, figures)


if __name__ == "__main__":
    main(run, x64=True)

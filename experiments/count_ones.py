"""Can the published runs of the counting RNN be reproduced to every digit?

Task: a linear RNN with one state, s_k = x_k wx + s_{k-1} wrec with s_0 = 0, counts the ones of a
sequence. The solution is wx = wrec = 1. The cost is J = (1/N) Σ (s_T − y)² over the N sequences.
Its gradient is

    ∂J/∂s_k = ∂J/∂s_T · wrec^{T-k},   ∂J/∂wx = Σ_k ∂J/∂s_k x_k,   ∂J/∂wrec = Σ_k ∂J/∂s_k s_{k-1}

Sources:

| source                                                                       | task                         | training               |
|------------------------------------------------------------------------------|------------------------------|------------------------|
| Seo, `Only_Numpy_Basic`, 3_recurrent_neural_network/a_rnn_simple.py          | ones of 100, 110, 111        | lr .02, .0006; 30,000  |
| Seo, …/b_vanilla_rnn_with_activation.py: logistic but for the last, linear step | zeros of 000, 001, 011    | lr .001; 15,000        |
| Roelants, "How to implement a recurrent neural network", part 1              | ones of 20 sequences of 10   | Rprop; 500             |

Measured: each published number beside ours, the gradient over time at Roelants' points, and the
operations that are saved by computing the repeated terms ∂J/∂s_k once. The runs fix their own
weights and data, so `--seed` changes only the sequences that are timed.

Expectation: every digit in `SEO_LINEAR`, `SEO_LOGISTIC` and `ROELANTS` below is reproduced, except
for the two in `MISQUOTED`. The gradients over time are straight lines on a log scale, with slope
log |wrec|. The sums of the shared terms equal `jax.grad` and take 3T − 1 multiplications per
sequence, where computing each derivative separately takes T² + T.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import LogNorm

import gru_jax as gj
from experiments.common import Options, Outcome, main
from gru_jax.cells.linear import LinearParams

# By (number of updates, quantity): the digits that the source prints, or that its code gives where it prints none.
SEO_LINEAR = {
    (0, "∂J/∂wx"): "-10.441667", (0, "∂J/∂wrec"): "-1.98", (0, "MSE"): "2.0225", (0, "its unused cost, 3×3"): "7.0675",
    (0, "ŷ of 100"): "0.45", (0, "ŷ of 110"): "0.75", (0, "ŷ of 111"): "0.95",
    (1000, "ŷ of 100"): "1.24938", (1000, "ŷ of 110"): "2.14122", (1000, "ŷ of 111"): "2.77785",
    (5000, "ŷ of 100"): "1.07569", (5000, "ŷ of 110"): "2.05109", (5000, "ŷ of 111"): "2.93554",
    (30_000, "ŷ of 100"): "1.00000022", (30_000, "ŷ of 110"): "2.00000016", (30_000, "ŷ of 111"): "2.99999981",
    (30_000, "wx"): "0.99999965", (30_000, "wrec"): "1.00000029",
}  # fmt: skip
SEO_LOGISTIC = {
    (0, "wx"): "0.47143516", (0, "wrec"): "-1.19097569", (0, "MSE"): "5.570031", (1000, "MSE"): "3.275693",
    (5000, "MSE"): "0.418703", (10_000, "MSE"): "0.0131917", (14_000, "MSE"): "0.0106994",
    (15_000, "ŷ of 000"): "3.06257", (15_000, "ŷ of 001"): "1.85373", (15_000, "ŷ of 011"): "1.08203",
    (15_000, "wx"): "-1.208835", (15_000, "wrec"): "3.575137",
}  # fmt: skip
ROELANTS = {
    (0, "ones in the data"): "103",
    (0, "J at (1.2, 1.2)"): "110.228027", (0, "∂J/∂wx"): "274.595429", (0, "∂J/∂wrec"): "1593.242844",
    (0, "J at (2, 1)"): "28.35", (0, "J at (1, 2)"): "265551", (0, "J at (1, -2)"): "85002.8", (0, "J at (1, 0)"): "21.35",
    (0, "J at (1, 0.5)"): "16.396", (0, "J at (1, -0.5)"): "23.295",
    (500, "wx"): "1.0014", (500, "wrec"): "0.9997", (500, "ŷ of 011000010011"): "5.00",
}  # fmt: skip
# Two quoted numbers do not follow from the formulas. tests/experiments/test_count_ones.py derives both without this library.
MISQUOTED = {
    "MSE at 5000": "a NumPy loop of the script's formulas gives 0.4187024116",
    "J at (1.2, 1.2) at 0": "exact rational arithmetic gives 110.2280372662",
}
POINTS = ((2, 1), (1, 2), (1, -2), (1, 0), (1, 0.5), (1, -0.5))
Published = Mapping[tuple[int, str], str]


class Sequences(NamedTuple):
    """Sequences and the counts that the network should return."""

    xs: jax.Array  # (N, T, D)
    ys: jax.Array  # (N, 1)


class Row(NamedTuple):
    """One published number beside ours. `ours` is None if the run was too short to reach it."""

    step: int
    quantity: str
    published: str
    ours: float | None

    @property
    def equal(self) -> bool | None:
        """Whether ours, rounded to the printed digits, equals the published number.

        None if the run did not reach it.
        """
        decimals = len(self.published.partition(".")[2])
        return None if self.ours is None else f"{self.ours:.{decimals}f}" == self.published


def bits(*words: str) -> jax.Array:
    """Converts words such as "011" to inputs (N, T, 1)."""
    return jnp.array([[[float(bit)] for bit in word] for word in words])


def linear_params(wx: float, wrec: float) -> LinearParams:
    """Returns the two weights as parameters of `gj.linear_rnn()`."""
    return LinearParams(W=jnp.array([[wx]], float), U=jnp.array([[wrec]], float), b=None)


class SwitchParams(NamedTuple):
    """Parameters of the switched cell."""

    W: jax.Array  # (D - 1, H)
    U: jax.Array  # (H, H)


def switched_rnn() -> gj.Cell:
    """Returns the cell of Seo's second script.

    h = g(x W + h₋ U), where g is the logistic function, or the identity at steps whose last input
    channel is 1. The cell has no adjoint of its own, so the engine differentiates `gates` and
    `update` by autodiff.
    """

    def init(key: jax.Array, input_size: int, hidden_size: int) -> SwitchParams:
        key_W, key_U = jax.random.split(key)
        return SwitchParams(
            jax.random.normal(key_W, (input_size - 1, hidden_size)), jax.random.normal(key_U, (hidden_size, hidden_size))
        )

    def project(params: SwitchParams, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return xs[..., :-1] @ params.W, xs[..., -1:] > 0

    def gates(params: SwitchParams, u: tuple[jax.Array, jax.Array], h: jax.Array) -> jax.Array:
        drive, linear = u
        a = drive + h @ params.U
        return jnp.where(linear, a, jax.nn.sigmoid(a))

    def update(g: jax.Array, h: jax.Array) -> jax.Array:
        return g

    return gj.Cell(name="switched_rnn()", init=init, project=project, gates=gates, update=update)


def with_linear_last_step(xs: jax.Array) -> jax.Array:
    """Appends a channel to the inputs that is 1 at the last step and 0 before."""
    return jnp.concatenate([xs, jnp.zeros_like(xs).at[:, -1].set(1)], axis=-1)


def seo_linear() -> tuple[LinearParams, Sequences]:
    """Returns the initial weights and the data of Seo's first script."""
    return linear_params(0.2, 1.5), Sequences(bits("100", "110", "111"), jnp.array([[1.0], [2.0], [3.0]]))


def seo_logistic() -> tuple[SwitchParams, Sequences]:
    """Returns the initial weights and the data of Seo's second script, which counts zeros."""
    wx, wrec = np.random.RandomState(1234).randn(2)
    xs = with_linear_last_step(bits("000", "001", "011"))
    return SwitchParams(jnp.array([[wx]]), jnp.array([[wrec]])), Sequences(xs, jnp.array([[3.0], [2.0], [1.0]]))


def roelants() -> tuple[LinearParams, Sequences]:
    """Returns the initial weights and the data of Roelants' part 1."""
    X = np.around(np.random.RandomState(1).rand(20, 10))
    return linear_params(-1.5, 2), Sequences(jnp.array(X[..., None]), jnp.array(X.sum(1, keepdims=True)))


def predict(cell: gj.Cell, params: Any, xs: jax.Array, derivative: Any = "adjoint") -> jax.Array:
    """Returns the count ŷ = s_T, (N, 1)."""
    return gj.unroll(cell, params, xs, time_major=False, derivative=derivative)[0]


def cost(cell: gj.Cell, params: Any, data: Sequences, derivative: Any = "adjoint") -> jax.Array:
    """Returns J = (1/N) Σ (s_T − y)²."""
    return gj.heads.squared_error(predict(cell, params, data.xs, derivative), data.ys).mean()


def train(cell: gj.Cell, params: Any, data: Sequences, optimizer: optax.GradientTransformation, steps: int) -> gj.train.Fit:
    """Trains on the full batch, and records both weights before each update."""

    def loss_fn(params: Any, batch: Sequences, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return cost(cell, params, batch), {"wx": params.W[0, 0], "wrec": params.U[0, 0]}

    # The loss draws no random numbers, so any key will do.
    return gj.train.fit(
        loss_fn, params, optimizer, data, key=jax.random.key(0), steps=steps, steps_per_dispatch=min(steps, 1000)
    )


def recorded(cell: gj.Cell, fit: gj.train.Fit, words: tuple[str, ...], data: Sequences, step: int) -> dict[str, float]:
    """Returns weights, cost and counts before update `step`.

    If `step` is the number of updates, returns those of the result.
    """
    wx, wrec = (np.append(fit.history[name], weight)[step] for name, weight in zip(("wx", "wrec"), fit.params[:2], strict=True))
    params = fit.params._replace(W=jnp.full((1, 1), wx), U=jnp.full((1, 1), wrec))
    counts = {f"ŷ of {word}": float(y[0]) for word, y in zip(words, predict(cell, params, data.xs), strict=True)}
    return {"wx": float(wx), "wrec": float(wrec), "MSE": float(cost(cell, params, data)), **counts}


def compare(published: Published, ours: Mapping[int, Mapping[str, float]]) -> list[Row]:
    """Pairs each published number with ours of the same step and quantity."""
    return [Row(step, name, digits, ours.get(step, {}).get(name)) for (step, name), digits in published.items()]


def rprop_minus(size: float, grow: float = 1.2, shrink: float = 0.5) -> optax.GradientTransformation:
    """Returns Roelants' variant of Rprop, without limits on the step size.

    The step size of a weight grows if the sign of its gradient is the same as before. Otherwise it
    shrinks, and also at the first step.

    `optax.rprop` is another variant. It keeps the size at the first step, skips the update after a
    change of sign, limits the size to [1e-6, 50], and in optax 0.2.8 applies each update one step
    late (google-deepmind/optax pull request 1725).
    """

    def init(params: Any) -> tuple[Any, Any]:
        return (jax.tree.map(lambda p: jnp.full_like(p, size), params), jax.tree.map(jnp.zeros_like, params))

    def update(grads: Any, state: tuple[Any, Any], params: Any = None) -> tuple[Any, tuple[Any, Any]]:
        signs = jax.tree.map(jnp.sign, grads)
        factors = jax.tree.map(lambda sign, last: jnp.where(sign == last, grow, shrink), signs, state[1])
        sizes = jax.tree.map(jnp.multiply, state[0], factors)
        return jax.tree.map(lambda size, sign: -size * sign, sizes, signs), (sizes, signs)

    return optax.GradientTransformation(init, update)


def repeated_terms(wrec: float, last_bar: np.ndarray, steps: int) -> np.ndarray:
    """Returns the repeated terms s̄_k = s̄_T wrec^{T-k}, (T, N), computing each from the one after
    it.
    """
    terms = [last_bar]
    for _ in range(steps - 1):
        terms.append(terms[-1] * wrec)
    return np.stack(terms[::-1])


def derivatives_shared(wrec: float, last_bar: np.ndarray, xs: np.ndarray, s_prevs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns ∂J/∂wx and ∂J/∂wrec of each state and sequence, (T, N) each, in 3T − 1
    multiplications per sequence.
    """
    s_bars = repeated_terms(wrec, last_bar, len(xs))
    return s_bars * xs, s_bars * s_prevs


def derivatives_one_by_one(
    wrec: float, last_bar: np.ndarray, xs: np.ndarray, s_prevs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same as `derivatives_shared`, each by its own chain of products: T² + T
    multiplications per sequence.
    """

    def derivative(k: int, local: np.ndarray) -> np.ndarray:
        chain = last_bar
        for _ in range(len(xs) - 1 - k):
            chain = chain * wrec
        return chain * local

    return np.stack([derivative(k, x) for k, x in enumerate(xs)]), np.stack([derivative(k, s) for k, s in enumerate(s_prevs)])


def terms_of(params: LinearParams, data: Sequences) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the factors of the derivatives, time first: s̄_T (N,), x_k (T, N) and s_{k-1} (T, N)."""
    states = gj.unroll(gj.linear_rnn(), params, data.xs, time_major=False)[1]
    last_bar = jax.grad(lambda y_hats: gj.heads.squared_error(y_hats, data.ys).mean())(states[:, -1])
    s_prevs = np.roll(np.asarray(states)[..., 0].T, 1, axis=0)
    s_prevs[0] = 0
    return np.asarray(last_bar)[:, 0], np.asarray(data.xs)[..., 0].T, s_prevs


def median_seconds(*functions: Callable[[], Any], repeats: int) -> list[float]:
    """Returns the median time of each function.

    They run in turns, so that other load on the machine affects all of them.
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, record in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            record.append(time.perf_counter() - began)
    return [statistics.median(record) for record in times]


def time_sharing(steps: int, sequences: int, repeats: int, seed: int) -> dict[str, float]:
    """Times both ways on long sequences, in NumPy.

    XLA would eliminate the common products of the second by itself.
    """
    xs, s_prevs = np.random.default_rng(seed).random((2, steps, sequences))
    arguments = (0.99, np.ones(sequences), xs, s_prevs)
    functions = [partial(function, *arguments) for function in (derivatives_shared, derivatives_one_by_one)]
    difference = max(float(np.abs(a / b - 1).max()) for a, b in zip(*(function() for function in functions), strict=True))
    shared, one_by_one = median_seconds(*functions, repeats=repeats)
    return {
        "steps": steps, "sequences": sequences, "repeats": repeats,
        "multiplications_shared": 3 * steps - 1, "multiplications_one_by_one": steps**2 + steps,
        "multiplications_ratio": (steps**2 + steps) / (3 * steps - 1),
        "seconds_shared": shared, "seconds_one_by_one": one_by_one, "seconds_ratio": one_by_one / shared,
        "largest_relative_difference": difference,
    }  # fmt: skip


def gradients(cell: gj.Cell, params: Any, data: Sequences, derivative: Any = "adjoint") -> np.ndarray:
    """Returns (∂J/∂wx, ∂J/∂wrec)."""
    grads = jax.grad(cost, argnums=1)(cell, params, data, derivative)
    return np.array([grads.W[0, 0], grads.U[0, 0]])


def central_differences(params: LinearParams, data: Sequences, epsilon: float) -> np.ndarray:
    """Returns (∂J/∂wx, ∂J/∂wrec) by central differences, from four evaluations of J."""
    wx, wrec = float(params.W[0, 0]), float(params.U[0, 0])
    J = [float(cost(gj.linear_rnn(), linear_params(wx + i * epsilon, wrec + j * epsilon), data))
         for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1))]  # fmt: skip
    return np.array([J[0] - J[1], J[2] - J[3]]) / (2 * epsilon)


def gradient_over_time(wx: float, wrec: float, data: Sequences) -> np.ndarray:
    """Returns ‖∂J/∂s_k‖ over the sequences for k = 0 … T, (T + 1,).

    Roelants plots another quantity. He sums 2 (s_T − y) over the sequences, uses that as the
    gradient of each sequence, and then sums over the 20 sequences again.
    """
    last_bar = terms_of(linear_params(wx, wrec), data)[0]
    return np.linalg.norm(repeated_terms(wrec, last_bar, data.xs.shape[1] + 1), axis=1)


def surface(low: float, high: float, data: Sequences, points: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Evaluates J on a square grid. Returns the axis, and J with axes (wrec, wx)."""
    axis = np.linspace(low, high, points)
    at = jax.jit(jax.vmap(lambda wx, wrec: cost(gj.linear_rnn(), LinearParams(wx[None, None], wrec[None, None], None), data)))
    wx, wrec = np.meshgrid(axis, axis)
    return axis, np.asarray(at(wx.ravel(), wrec.ravel())).reshape(wx.shape)


def surface_figure(data: Sequences, trajectory: np.ndarray) -> plt.Figure:
    """Draws J over both weights, with the trajectory of Rprop."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", gridspec_kw={"wspace": 0.08})
    levels = np.logspace(-2, 10, 25)
    for axis, (low, high) in zip(axes, ((-3, 3), (-0.1, 2.1)), strict=True):
        weights, J = surface(low, high, data)
        filled = axis.contourf(weights, weights, J, levels=levels, norm=LogNorm(), cmap="viridis", extend="both")
        axis.plot(*trajectory.T, color="white", lw=1.2, marker=".", ms=3, label="Rprop")
        axis.plot(*trajectory[0], "o", color="white", mec="black", ms=6, label="start (−1.5, 2)")
        axis.plot(*trajectory[-1], "*", color="red", mec="white", ms=13, label="after the last step")
        axis.set(xlim=(low, high), ylim=(low, high), xlabel="wx", ylabel="wrec", aspect="equal")
    axes[0].legend(loc="lower left", facecolor="0.45", labelcolor="white", fontsize=8)
    axes[0].set_title("J of Roelants' 20 sequences")
    axes[1].set_title("around the solution")
    figure.colorbar(filled, ax=axes, label="J = mean squared error", ticks=np.logspace(-2, 10, 7))
    return figure


def explosion_figure(data: Sequences) -> plt.Figure:
    """Draws the gradient over time at Roelants' six points."""
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    steps = np.arange(data.xs.shape[1] + 1)
    for wx, wrec in POINTS:
        norms = gradient_over_time(wx, wrec, data)
        note = "sign alternates" if wrec < 0 else "grows" if wrec > 1 else "constant" if wrec == 1 else "vanishes"
        label = f"{wx:g}, {wrec:g}: " + (note if wrec else "0 before the last")
        axis.plot(
            steps,
            np.where(norms > 0, norms, np.nan),
            "o--" if wrec < 0 else "o-",
            mfc="white" if wrec < 0 else None,
            label=label,
        )
    axis.set(
        yscale="log",
        xlabel="state k (the error enters at the last state and travels left)",
        ylabel="$\\|\\partial J/\\partial s_k\\|$ over the sequences",
    )
    axis.set_xticks(steps)
    axis.grid(alpha=0.3)
    axis.set_title("The gradient over time is a power of wrec")
    axis.legend(title="wx, wrec", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def learning_figure(curves: Mapping[str, np.ndarray]) -> plt.Figure:
    """Draws the cost of each run over its updates."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name, losses in curves.items():
        shown = np.unique(np.geomspace(1, len(losses), 400).astype(int)) - 1
        axis.plot(shown + 1, losses[shown], label=name)
    axis.set(xscale="log", yscale="log", xlabel="update", ylabel="J before the update = mean squared error")
    axis.set_title("Learning curves of the tutorials' runs")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left")
    return figure


def table_of_terms(wrec: float, last_bar: np.ndarray, xs: np.ndarray, s_prevs: np.ndarray) -> list[dict[str, float]]:
    """Returns the terms of the gradient for each sequence and state, as the tutorial tabulates
    them.
    """
    wx_bars, wrec_bars = derivatives_shared(wrec, last_bar, xs, s_prevs)
    columns = {
        "∂J/∂s": repeated_terms(wrec, last_bar, len(xs)),
        "x": xs,
        "s before": s_prevs,
        "∂J/∂wx": wx_bars,
        "∂J/∂wrec": wrec_bars,
    }
    return [
        {"sequence": n + 1, "state": k + 1} | {name: column[k, n] + 0.0 for name, column in columns.items()}  # −0 becomes 0
        for n, k in np.ndindex(xs.T.shape)
    ]


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints rows as a table with their keys as the header."""
    cells = [list(rows[0]), *([f"{v:.9g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells), sep="\n")


def reproduce_seo_linear(steps: int) -> tuple[list[Row], gj.train.Fit, dict[str, float]]:
    """Runs Seo's first script.

    Returns:
        The published numbers beside ours, the training run, and the difference between the sums of
        the shared terms and `jax.grad`.
    """
    cell, (params, data), words = gj.linear_rnn(), seo_linear(), ("100", "110", "111")
    labels: Any = LinearParams._make(("wx", "wrec", None))
    by_weight = optax.partition({"wx": optax.sgd(0.02), "wrec": optax.sgd(0.0006)}, labels)
    fit = train(cell, params, data, by_weight, steps)
    ours = {step: recorded(cell, fit, words, data, step) for step, _ in SEO_LINEAR if step <= steps}
    grads, terms = gradients(cell, params, data), terms_of(params, data)
    ours[0] |= dict(zip(("∂J/∂wx", "∂J/∂wrec"), grads, strict=True))
    y_hats = np.array([ours[0][f"ŷ of {word}"] for word in words])
    ours[0]["its unused cost, 3×3"] = np.square(y_hats - np.asarray(data.ys)).sum() / 3  # (3,) − (3, 1) broadcasts

    show("Terms of the gradient by state; the column ∂J/∂s is computed once for both weights", table_of_terms(1.5, *terms))
    sums = np.array([terms_bar.sum() for terms_bar in derivatives_shared(1.5, *terms)])
    show(
        "Sums of the terms",
        [{"weight": w, "sum of the terms": s, "jax.grad": g} for w, s, g in zip(("wx", "wrec"), sums, grads, strict=True)],
    )
    return compare(SEO_LINEAR, ours), fit, {"sums_less_jax_grad": float(np.abs(sums - grads).max())}


def reproduce_seo_logistic(steps: int) -> tuple[list[Row], gj.train.Fit, dict[str, float]]:
    """Runs Seo's second script.

    Returns:
        The published numbers beside ours, the training run, and the difference between the engine's
        gradient and autodiff's.
    """
    cell, (params, data) = switched_rnn(), seo_logistic()
    fit = train(cell, params, data, optax.sgd(0.001), steps)
    ours = {step: recorded(cell, fit, ("000", "001", "011"), data, step) for step, _ in SEO_LOGISTIC if step <= steps}
    difference = np.abs(gradients(cell, params, data) - gradients(cell, params, data, "autodiff")).max()
    return compare(SEO_LOGISTIC, ours), fit, {"adjoint_less_autodiff": float(difference)}


def reproduce_roelants(steps: int) -> tuple[list[Row], gj.train.Fit, dict[str, Any]]:
    """Runs part 1 of Roelants' tutorial.

    Returns:
        The published numbers beside ours, the Rprop run, and the gradient check at (1.2, 1.2).
    """
    cell, (params, data), checked = gj.linear_rnn(), roelants(), linear_params(1.2, 1.2)
    fit = train(cell, params, data, rprop_minus(0.001), steps)
    grads, numeric = gradients(cell, checked, data), central_differences(checked, data, 1e-7)
    ours = {0: {f"J at ({wx}, {wrec})": float(cost(cell, linear_params(wx, wrec), data)) for wx, wrec in ((1.2, 1.2), *POINTS)}}
    ours[0] |= {"ones in the data": float(data.xs.sum()), "∂J/∂wx": grads[0], "∂J/∂wrec": grads[1]}
    word = "011000010011"
    ours[steps] = recorded(cell, fit, (word,), Sequences(bits(word), jnp.array([[5.0]])), steps)
    by_optax = train(cell, params, data, optax.rprop(0.001), steps).params
    return compare(ROELANTS, ours), fit, {
        "finite_differences": numeric, "finite_differences_relative": float(np.abs(numeric / grads - 1).max()),
        "optax_rprop": {"wx": by_optax.W[0, 0], "wrec": by_optax.U[0, 0], "J": cost(cell, by_optax, data)},
    }  # fmt: skip


def run(options: Options) -> Outcome:
    """Runs all three tutorials, compares their published numbers, and times the sharing of terms."""
    quick = options.quick
    rows_a, fit_a, shared = reproduce_seo_linear(2000 if quick else 30_000)
    rows_b, fit_b, engine = reproduce_seo_logistic(2000 if quick else 15_000)
    rows_c, fit_c, roelants_part_1 = reproduce_roelants(100 if quick else 500)
    timing = time_sharing(steps=400, sequences=300, repeats=3 if quick else 21, seed=options.seed)

    runs = {"Seo, a_rnn_simple.py": rows_a, "Seo, b_vanilla_rnn_with_activation.py": rows_b, "Roelants, part 1": rows_c}
    for name, rows in runs.items():
        show(name, [row._asdict() | {"equal": {True: "yes", False: "NO", None: "not run"}[row.equal]} for row in rows])
    show("Sharing the repeated terms", [{"quantity": name, "value": value} for name, value in timing.items()])

    verdicts = [row.equal for rows in runs.values() for row in rows]
    _, data = roelants()
    trajectory = np.stack(
        [np.append(fit_c.history[n], w) for n, w in zip(("wx", "wrec"), fit_c.params[:2], strict=True)], axis=1
    )
    summary = {
        "published_numbers": len(verdicts), "equal": verdicts.count(True), "not_run": verdicts.count(None),
        "not_equal": [f"{name}, {row.quantity} at {row.step}: {row.published}, ours {row.ours:.10f}"
                      for name, rows in runs.items() for row in rows if row.equal is False],
        "every_digit_reproduced": None if None in verdicts else all(verdicts),
        "rprop_wx": trajectory[-1, 0], "rprop_wrec": trajectory[-1, 1],
        "sums_less_jax_grad": shared["sums_less_jax_grad"], "user_cell_less_autodiff": engine["adjoint_less_autodiff"],
        "gradient_check_relative": roelants_part_1["finite_differences_relative"],
        "sharing_multiplications_ratio": timing["multiplications_ratio"], "sharing_seconds_ratio": timing["seconds_ratio"],
    }  # fmt: skip
    results = {
        "published": {name: [row._asdict() | {"equal": row.equal} for row in rows] for name, rows in runs.items()},
        "terms": table_of_terms(1.5, *terms_of(*seo_linear())),
        "roelants": roelants_part_1,
        "gradient_over_time": {f"wx {wx}, wrec {wrec}": gradient_over_time(wx, wrec, data) for wx, wrec in POINTS},
        "rprop_trajectory_every_10": trajectory[::10],
        "sharing": timing,
    }
    curves = {"Seo, linear": fit_a, "Seo, logistic, last step linear": fit_b, "Roelants, Rprop": fit_c}
    figures = {
        "loss_surface.png": surface_figure(data, trajectory),
        "gradient_over_time.png": explosion_figure(data),
        "learning_curves.png": learning_figure({name: fit.history["loss"] for name, fit in curves.items()}),
    }
    return Outcome(summary, results, figures)


if __name__ == "__main__":
    main(run, x64=True)

"""Where does the gradient of a long-memory task come from, and what do gates change?

Task: the first of T inputs is a number c from −1 to 1, all others are noise. At every step the
network outputs an estimate of c, with the squared error as loss. So for each loss step t only the
use step k = 1 matters, and the gradient travels t − 1 steps to reach it. The target is a number
rather than a sign, because a saturated unit can latch a sign, and a latched value has no gradient
(Bengio et al. 1994).

Measured, for the linear RNN, the tanh RNN, the GRU and the LSTM of the same size on the same data,
before and after training:
- the norm of each term (loss step t, use step k) of the gradient, by `gj.flow.contribution_norms`;
- how the gradient of the last loss decays on its way back, by `gj.flow.state_sensitivity`;
- the Lyapunov exponents of the recurrence, by `gj.flow.lyapunov_exponents`.

In addition, the linear and the tanh RNN are measured with recurrent weights wrec · Q, where Q is a
rotation, for several wrec, and the GRU for several biases of its update gate.

Expectation: with wrec · Q, the gradient of the linear RNN decays or grows exactly as wrec^(t−k),
and tanh can only shrink it further. Gates let a unit keep its state, so that in a trained GRU or
LSTM the terms of the first use steps do not decay.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj
from experiments.common import ON_A_TERMINAL, Options, Outcome, main

CELLS = {"linear RNN": gj.linear_rnn(), "tanh RNN": gj.elman(), "GRU": gj.gru(), "LSTM": gj.lstm()}
HIDDEN, BATCH, LENGTH = 16, 32, 40
WRECS = (0.5, 0.8, 0.95, 1.0, 1.05, 1.25, 2.0)
UPDATE_BIASES = (2.0, 0.0, -2.0, -4.0)


class Params(NamedTuple):
    """The parameters of a cell and of its read-out."""

    cell: Any
    readout: gj.heads.DenseParams


class Task(NamedTuple):
    """A batch of the task.

    Attributes:
        xs: Inputs `(T, B, 2)`: a number, and a flag that marks the step that shows c.
        c: The number to remember, `(B,)`.
    """

    xs: jax.Array
    c: jax.Array


def random_batch(steps: int, key: jax.Array) -> Task:
    """Draws a batch of the task."""
    key_c, key_noise = jax.random.split(key)
    c = jax.random.uniform(key_c, (BATCH,), minval=-1.0)
    noise = jax.random.normal(key_noise, (steps - 1, BATCH))
    values = jnp.concatenate([c[None], noise])
    return Task(jnp.stack([values, jnp.zeros_like(values).at[0].set(1.0)], -1), c)


def init(cell: gj.Cell, key: jax.Array) -> Params:
    """Draws the parameters of a network of `HIDDEN` units."""
    key_cell, key_readout = jax.random.split(key)
    return Params(cell.init(key_cell, 2, HIDDEN), gj.heads.init_dense(key_readout, HIDDEN, 1))


def loss_at(readout: gj.heads.DenseParams, c: jax.Array, t: Any, y: jax.Array) -> jax.Array:
    """Returns the squared error at one step, averaged over the batch."""
    return ((gj.heads.dense(readout, y)[..., 0] - c) ** 2).mean()


def loss_fn(cell: gj.Cell, params: Params, batch: Task, key: jax.Array) -> tuple[jax.Array, dict]:
    """Returns the squared error averaged over steps and batch."""
    _, ys = gj.unroll(cell, params.cell, batch.xs)
    return jax.vmap(partial(loss_at, params.readout, batch.c, 0))(ys).mean(), {}


def total_norms(norms: Any) -> jax.Array:
    """Combines the norms of each parameter into the norm over all parameters."""
    return gj.flow.norm(jnp.stack(jax.tree.leaves(norms)), 0)


@partial(jax.jit, static_argnums=0)
def flow_of(cell: gj.Cell, params: Params, batch: Task) -> dict[str, jax.Array]:
    """Measures the norms of all terms, the sensitivities, the Lyapunov exponents and the loss."""
    loss = partial(loss_at, params.readout, batch.c)
    return {
        "terms": total_norms(gj.flow.contribution_norms(cell, params.cell, batch.xs, loss)),
        "sensitivity": gj.flow.norm(gj.flow.state_sensitivity(cell, params.cell, batch.xs, loss), -1),
        "exponents": gj.flow.lyapunov_exponents(cell, params.cell, batch.xs).mean(0),
        "loss": loss_fn(cell, params, batch, jax.random.key(0))[0],
    }


def difference_of_the_sum(cell: gj.Cell, params: Params, batch: Task) -> float:
    """Returns the error of the sum of all terms, relative to each leaf's scale."""
    loss = partial(loss_at, params.readout, batch.c)
    split = gj.flow.contributions(cell, params.cell, batch.xs, loss)
    steps = batch.xs.shape[0]
    expected = jax.grad(
        lambda cell_params: steps * loss_fn(cell, params._replace(cell=cell_params), batch, jax.random.key(0))[0]
    )
    off = lambda terms, bar: float(jnp.abs(terms.sum((0, 1)) - bar).max() / jnp.abs(bar).max())
    return max(jax.tree.leaves(jax.tree.map(off, split, expected(params.cell))))


def costs(lengths: tuple[int, ...], seed: int) -> list[dict[str, float]]:
    """Measures time and memory of a GRU's gradient, and of splitting it, for several lengths."""
    cell = CELLS["GRU"]
    found = []
    for steps in lengths:
        params, batch = init(cell, jax.random.key(seed)), random_batch(steps, jax.random.key(seed + 1))
        loss = partial(loss_at, params.readout, batch.c)
        programs: dict[str, Any] = {
            "gradient": lambda p, b: jax.grad(lambda p: loss_fn(cell, p, b, jax.random.key(0))[0])(p),
            "contributions": lambda p, b, loss=loss: gj.flow.contributions(cell, p.cell, b.xs, loss),
            "contribution_norms": lambda p, b, loss=loss: gj.flow.contribution_norms(cell, p.cell, b.xs, loss),
        }
        row: dict[str, float] = {"steps": steps}
        for name, program in programs.items():
            compiled = jax.jit(program).lower(params, batch).compile()
            jax.block_until_ready(compiled(params, batch))
            times = []
            for _ in range(3):
                began = time.perf_counter()
                jax.block_until_ready(compiled(params, batch))
                times.append(time.perf_counter() - began)
            memory: Any = compiled.memory_analysis()
            row[f"{name}_ms"] = round(1e3 * float(np.median(times)), 2)
            row[f"{name}_mib"] = round((memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20, 2)
        found.append(row)
    return found


def with_scaled_rotation(cell: gj.Cell, wrec: float, key: jax.Array) -> Params:
    """Draws a network whose recurrent weights are wrec times a rotation."""
    params = init(cell, key)
    rotation = jax.nn.initializers.orthogonal()(jax.random.fold_in(key, 1), (HIDDEN, HIDDEN))
    return params._replace(cell=params.cell._replace(U=wrec * rotation))


def run(options: Options) -> Outcome:
    """Trains the four cells, and splits their gradients before and after training."""
    steps = 12 if options.quick else LENGTH
    updates = 50 if options.quick else 3000
    keys = jax.random.split(jax.random.key(options.seed), 3)
    batch = random_batch(steps, keys[0])
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))

    flows: dict[str, dict[str, Any]] = {}
    sums = {}
    for name, cell in CELLS.items():
        before = init(cell, keys[1])
        fitted = gj.train.fit(
            partial(loss_fn, cell), before, optimizer, partial(random_batch, steps), key=keys[2], steps=updates,
            progress=ON_A_TERMINAL,
        )  # fmt: skip
        flows[name] = {"before": flow_of(cell, before, batch), "after": flow_of(cell, fitted.params, batch)}
        sums[name] = difference_of_the_sum(cell, before, batch)
        print(name, *(f"{when}: loss {flow['loss']:.4f}" for when, flow in flows[name].items()), flush=True)

    regimes = {
        name: {wrec: flow_of(CELLS[name], with_scaled_rotation(CELLS[name], wrec, keys[1]), batch) for wrec in WRECS}
        for name in ("linear RNN", "tanh RNN")
    }
    gru = init(CELLS["GRU"], keys[1])
    gates = {
        bias: flow_of(CELLS["GRU"], gru._replace(cell=gru.cell._replace(b_z=jnp.full(HIDDEN, bias))), batch)
        for bias in UPDATE_BIASES
    }
    spent = costs((10, 20) if options.quick else (10, 20, 40, 80), options.seed)
    summary = {
        "loss_after": {name: float(flow["after"]["loss"]) for name, flow in flows.items()},
        "kept_after": {name: remaining_gradient(flow["after"]["sensitivity"]) for name, flow in flows.items()},
        "kept_before": {name: remaining_gradient(flow["before"]["sensitivity"]) for name, flow in flows.items()},
        "largest_exponent_after": {name: float(flow["after"]["exponents"].max()) for name, flow in flows.items()},
        "largest_difference_of_the_sum": max(sums.values()),
        "largest_difference_from_wrec_power": max(
            abs(remaining_gradient(flow["sensitivity"]) / wrec ** (steps - 1) - 1)
            for wrec, flow in regimes["linear RNN"].items()
        ),
        "loss_of_a_guess": float((batch.c**2).mean()),
    }
    results = {
        "steps": steps,
        "updates": updates,
        "difference_of_the_sum": sums,
        "exponents": {name: {when: flow["exponents"] for when, flow in both.items()} for name, both in flows.items()},
        "kept_over_wrec": {
            name: {wrec: remaining_gradient(f["sensitivity"]) for wrec, f in by.items()} for name, by in regimes.items()
        },
        "kept_over_update_bias": {bias: remaining_gradient(flow["sensitivity"]) for bias, flow in gates.items()},
        "cost": spent,
    }
    figures = {"terms.png": draw_terms(flows), "regimes.png": draw_regimes(flows, regimes, gates, steps)}
    return Outcome(summary, results, figures)


def remaining_gradient(sensitivity: jax.Array) -> float:
    """Returns ‖∂J_T/∂h_1‖ / ‖∂J_T/∂h_T‖, the part of the gradient that reaches the first state."""
    return float(sensitivity[-1, 0] / sensitivity[-1, -1])


def draw_terms(flows: dict[str, dict[str, Any]]) -> plt.Figure:
    """Draws the norms of all terms, before and after training, on one scale."""
    figure, axes = plt.subplots(2, len(flows), figsize=(4 * len(flows), 8), layout="constrained")
    every = np.concatenate([np.asarray(flow["terms"]).ravel() for both in flows.values() for flow in both.values()])
    ends = {"vmin": every[every > 0].min(), "vmax": every[np.isfinite(every)].max()}
    for column, (name, both) in enumerate(flows.items()):
        for row, (when, flow) in enumerate(both.items()):
            image = gj.plot.contribution_heatmap(
                axes[row, column], flow["terms"], f"{name}, {when} training, loss {flow['loss']:.2g}", **ends
            )
    figure.colorbar(image, ax=axes, shrink=0.6, label="norm of the term (t, k) of the gradient, over all parameters")
    return figure


def draw_regimes(flows: Any, regimes: Any, gates: Any, steps: int) -> plt.Figure:
    """Draws how the gradient of the last loss decays, by training, wrec and update bias."""
    figure, axes = plt.subplots(1, 4, figsize=(22, 5), layout="constrained")
    for i, (name, both) in enumerate(flows.items()):
        gj.plot.gradient_decay(axes[0], both["before"]["sensitivity"], f"{name}, before", color=f"C{i}", linestyle=":")
        gj.plot.gradient_decay(axes[0], both["after"]["sensitivity"], f"{name}, after", color=f"C{i}")
    for column, (name, by_wrec) in enumerate(regimes.items(), start=1):
        for i, (wrec, flow) in enumerate(by_wrec.items()):
            line = gj.plot.gradient_decay(axes[column], flow["sensitivity"], f"wrec {wrec}", color=f"C{i}")
            back = np.arange(steps)
            axes[column].plot(back, line.get_ydata()[0] * wrec**back, color=f"C{i}", linestyle=":", linewidth=0.8)
        axes[column].set(title=f"{name}, wrec · Q (dotted: wrec^steps)")
    for bias, flow in gates.items():
        gj.plot.gradient_decay(axes[3], flow["sensitivity"], f"b_z = {bias:g}")
    axes[0].set(title="before and after training")
    axes[3].set(title="GRU before training, over its update bias")
    for panel in axes:
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main(run)

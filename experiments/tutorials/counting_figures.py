"""The figures of the counting RNN: its loss surface, its gradient over time, and its learning curves."""

from collections.abc import Mapping

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

import gru_jax as gj
from experiments.tutorials.counting_rnn import Sequences, cost
from experiments.tutorials.repeated_terms import gradient_over_time
from gru_jax.cells.linear import LinearParams

POINTS = ((2, 1), (1, 2), (1, -2), (1, 0), (1, 0.5), (1, -0.5))


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

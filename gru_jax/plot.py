"""Plots what `gj.flow` measures. The plots need matplotlib: `pip install "gru_jax[experiments]"`.

By default, the colours of a heat map span all positive finite values, on a logarithmic scale. Zeros
are white. Infinite values and NaN are red, and the title states their number.
"""

from typing import Any

import numpy as np


def contribution_heatmap(
    axes: Any, norms: Any, title: str = "", *, vmin: float | None = None, vmax: float | None = None
) -> Any:
    """Draws how much each use step contributes to the gradient of each loss step, as a heat map.

    Args:
        axes: The matplotlib axes to draw on.
        norms: The norms of the contributions, `(T_loss, T_use)`, at least 0, for example from
            `gj.flow.contribution_norms` or `gj.flow.state_sensitivity`.
        title: The title of the plot. Defaults to none.
        vmin: The value at the lower end of the colours. Smaller values get the same colour. Set
            `vmin` and `vmax` to compare several plots. Defaults to the smallest positive value.
        vmax: The value at the upper end of the colours. Larger values get the same colour. Defaults
            to the largest finite value.

    Returns:
        The matplotlib image, for example for a colour bar.

    Raises:
        ValueError: If `norms` is not a matrix or contains a negative number.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import matplotlib.pyplot, numpy as np, gru_jax as gj
        >>> matplotlib.use("Agg")
        >>> figure, axes = matplotlib.pyplot.subplots()
        >>> image = gj.plot.contribution_heatmap(axes, np.tril(np.full((5, 5), 0.1)), "GRU")
        >>> bar = figure.colorbar(image)
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    norms = np.asarray(norms, np.float64)
    if norms.ndim != 2 or (norms < 0).any():
        raise ValueError(
            f"norms: got an array of shape {norms.shape} with the smallest value {norms.min(initial=np.inf):.3g}, expected "
            "shape (T_loss, T_use) and values of at least 0. Reduce other axes first: norms.mean(-1)."
        )
    is_positive = np.isfinite(norms) & (norms > 0)
    smallest, largest = (norms[is_positive].min(), norms[is_positive].max()) if is_positive.any() else (1.0, 1.0)
    smallest, largest = vmin or smallest, vmax or largest
    scale = LogNorm(smallest, max(largest, smallest * (1 + 1e-9)))  # LogNorm needs vmin < vmax
    colours = colormaps["viridis"].with_extremes(bad="white")
    masked = np.ma.masked_where(~is_positive, norms)
    image = axes.imshow(masked, norm=scale, cmap=colours, origin="lower", interpolation="nearest")
    nonfinite = ~np.isfinite(norms)
    if nonfinite.any():
        red = np.zeros((*norms.shape, 4))
        red[nonfinite] = (1, 0, 0, 1)
        axes.imshow(red, origin="lower", interpolation="nearest")
        title = f"{title} ({nonfinite.sum()} not finite: red)".strip()
    axes.set(title=title, xlabel="use step k", ylabel="loss step t")
    return image


def gradient_decay(axes: Any, sensitivity: Any, label: str | None = None, **style: Any) -> Any:
    """Draws how the gradient of the last loss decays or grows on its way back through time.

    The line shows ‖∂L_T/∂h_k‖ against the distance T − k, on a logarithmic scale.

    Args:
        axes: The matplotlib axes to draw on.
        sensitivity: The norms ‖∂L_t/∂h_k‖, `(T_loss, T_state)`, for example from
            `gj.flow.state_sensitivity`. The last row is drawn.
        label: The label for the legend. Infinite values and NaN are left out of the line, and the
            label states their number. Defaults to none.
        **style: Options of `axes.plot`, for example `color="C1"`.

    Returns:
        The matplotlib line.

    Raises:
        ValueError: If `sensitivity` is not a matrix.

    Example:
        >>> import matplotlib.pyplot, numpy as np, gru_jax as gj
        >>> matplotlib.use("Agg")
        >>> _, axes = matplotlib.pyplot.subplots()
        >>> line = gj.plot.gradient_decay(axes, 0.5 ** np.arange(5)[::-1][None], "GRU")
        >>> line.get_ydata().tolist()
        [1.0, 0.5, 0.25, 0.125, 0.0625]
    """
    values = np.asarray(sensitivity, np.float64)
    if values.ndim != 2:
        raise ValueError(
            f"sensitivity: got shape {values.shape}, expected (T_loss, T_state). Reduce the batch first: sensitivity.mean(-1)."
        )
    backwards = values[-1][::-1]
    nonfinite = int((~np.isfinite(backwards)).sum())
    label = f"{label or ''} ({nonfinite} not finite)".strip() if nonfinite else label
    drawn = np.where(np.isfinite(backwards), backwards, np.nan)
    (line,) = axes.plot(np.arange(len(drawn)), drawn, label=label, **style)
    axes.set(yscale="log", xlabel="steps back from the last loss", ylabel="‖∂L_T/∂h_k‖")
    return line

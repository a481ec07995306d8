"""Pictures of what `gj.flow` measures; the only module that draws. Needs matplotlib (`pip install "gru_jax[experiments]"`).

Nothing is clipped: colours span all finite values on a logarithmic scale; exact zeros are white, and a term that is infinite or
not a number is red, counted in the title.
"""

from typing import Any

import numpy as np


def terms(axes: Any, norms: Any, title: str = "", *, vmin: float | None = None, vmax: float | None = None) -> Any:
    """Draws the norms of the terms (loss step t, use step k) as a heat map.

    Args:
        axes: matplotlib axes to draw on.
        norms: `(T_loss, T_use)`, at least 0; from `gj.flow.contribution_norms` or `state_sensitivity`.
        title: above it.
        vmin: the lower end of the colours; by default the least positive value. What is below has the colour of the end.
        vmax: the upper end; by default the greatest finite value.

    Returns:
        The image, for a colour bar.

    Raises:
        ValueError: `norms` is no matrix, or holds a negative number.
        ImportError: no matplotlib.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    norms = np.asarray(norms, np.float64)
    if norms.ndim != 2 or (norms < 0).any():
        raise ValueError(
            f"norms: got an array of shape {norms.shape}, least value {norms.min(initial=np.inf):.3g}, expected (T_loss, T_use) "
            "of at least 0. Reduce other axes first: norms.mean(-1)."
        )
    finite = np.isfinite(norms) & (norms > 0)
    least, greatest = (norms[finite].min(), norms[finite].max()) if finite.any() else (1.0, 1.0)
    least, greatest = vmin or least, vmax or greatest
    colours = colormaps["viridis"].with_extremes(bad="white")
    shown = np.ma.masked_where(~finite, norms)
    image = axes.imshow(
        shown, norm=LogNorm(least, max(greatest, least * (1 + 1e-9))), cmap=colours, origin="lower", interpolation="nearest"
    )
    broken = ~np.isfinite(norms)
    if broken.any():
        red = np.zeros((*norms.shape, 4))
        red[broken] = (1, 0, 0, 1)
        axes.imshow(red, origin="lower", interpolation="nearest")
        title = f"{title} ({broken.sum()} not finite: red)".strip()
    axes.set(title=title, xlabel="use step k", ylabel="loss step t")
    return image


def decay(axes: Any, sensitivity: Any, label: str | None = None, **style: Any) -> Any:
    """Draws how the gradient of the last loss fades, or grows, on its way back: ‖∂J_T/∂h_k‖ against the distance T − k.

    Args:
        axes: matplotlib axes to draw on.
        sensitivity: `(T_loss, T_state)`; its last row is drawn.
        label: for the legend. Non-finite values are left out of the line and counted here.
        style: of `axes.plot`.

    Returns:
        The line.

    Raises:
        ValueError: `sensitivity` is no matrix.
    """
    values = np.asarray(sensitivity, np.float64)
    if values.ndim != 2:
        raise ValueError(
            f"sensitivity: got shape {values.shape}, expected (T_loss, T_state). Reduce the batch first: .mean(-1)."
        )
    last = values[-1][::-1]
    broken = int((~np.isfinite(last)).sum())
    label = f"{label or ''} ({broken} not finite)".strip() if broken else label
    (line,) = axes.plot(np.arange(len(last)), np.where(np.isfinite(last), last, np.nan), label=label, **style)
    axes.set(yscale="log", xlabel="steps back from the last loss", ylabel="‖∂J_T/∂h_k‖")
    return line

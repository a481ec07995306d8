"""A progress bar, drawn by tqdm if the user asks for it.

It shows the loss, the best evaluation, the steps per second, and the time left.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

_SHOWN = 3  # of the metrics of an evaluation


class ProgressBar:
    """A progress bar over the steps of a run. If it is not shown, it does nothing."""

    def __init__(self, *, show: bool, total: int) -> None:
        """Draws the bar if `show` is True.

        Raises:
            ImportError: If `show` is True and tqdm is not installed.
        """
        self._bar: Any = None
        self._evaluation: dict[str, str] = {}
        if not show:
            return
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError("progress: got True, expected tqdm to be installed. Run: pip install tqdm") from error
        self._bar = tqdm(total=total, unit="step")

    def start(self, step: int) -> None:
        """Begins at `step`. The steps per second leave out earlier steps and the time until now."""
        if self._bar is not None:
            self._bar.initial = self._bar.n = step
            self._bar.unpause()
            self._bar.refresh()

    def advance(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Shows that steps were taken, and their last loss: for an ensemble, its mean."""
        if self._bar is not None:
            self._bar.set_postfix({"loss": f"{np.mean(metrics['loss'][-1]):.4g}", **self._evaluation}, refresh=False)
            self._bar.update(len(metrics["loss"]))

    def show_best(self, metric: str, value: float | None, step: int | None) -> None:
        """Shows the best value of a metric so far."""
        if value is not None:
            self._evaluation = {f"best {metric}": f"{value:.4g} at {step}"}

    def show_evaluation(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Shows the first numbers of an evaluation."""
        numbers = {name: f"{value:.4g}" for name, value in metrics.items() if np.ndim(value) == 0}
        self._evaluation = dict(list(numbers.items())[:_SHOWN])

    def close(self) -> None:
        """Removes the bar from the terminal's last line."""
        if self._bar is not None:
            self._bar.close()

"""Early stopping: training ends when a metric of the evaluation has not improved for a while, and the best parameters are kept."""

import math
from typing import Any, Literal, NamedTuple


class EarlyStopping(NamedTuple):
    """Keep the parameters with the best evaluation, and stop when there was no better one for `patience` evaluations.

    Attributes:
        metric: of what `evaluate` returns.
        patience: evaluations without improvement before training stops; None never stops, and only keeps the best.
        mode: whether less ("min") or more ("max") is better.
        min_delta: what counts as an improvement.
    """

    metric: str
    patience: int | None = None
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0

    def better(self, value: float, best: float | None) -> bool:
        """Whether `value` improves on `best`; a value that is not a number never does."""
        if math.isnan(value):
            return False
        return best is None or (best - value if self.mode == "min" else value - best) > self.min_delta


class Best(NamedTuple):
    """The best evaluation so far."""

    value: float | None = None
    step: int | None = None
    waited: int = 0  # evaluations since

    def after(self, rule: EarlyStopping, metrics: dict[str, Any], step: int) -> "Best":
        """With one evaluation more.

        Raises:
            ValueError: the metric is not among them.
        """
        if rule.metric not in metrics:
            raise ValueError(
                f"early_stopping: got the metric {rule.metric!r}, expected one of evaluate's: {', '.join(metrics)}."
            )
        value = float(metrics[rule.metric])
        return Best(value, step) if rule.better(value, self.value) else self._replace(waited=self.waited + 1)

    def is_over(self, rule: EarlyStopping) -> bool:
        """Whether patience has run out."""
        return rule.patience is not None and self.waited >= rule.patience

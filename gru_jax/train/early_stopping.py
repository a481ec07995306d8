"""Keeps the best parameters of a run, and ends the run when a metric stops improving."""

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from gru_jax.train.arguments import checked_count


@dataclass(frozen=True)
class EarlyStopping:
    """Keeps the parameters with the best evaluation, and stops training when it stops improving.

    Attributes:
        metric: The name of a metric that `evaluate` returns.
        patience: The number of evaluations without improvement after which training stops. Defaults
            to None, which never stops training and only keeps the best parameters.
        mode: "min" if smaller is better, "max" if larger is better. Defaults to "min".
        min_delta: The smallest change that counts as an improvement. Defaults to 0.

    Raises:
        TypeError: If `metric` is not a string, `patience` not an integer, or `min_delta` not a number.
        ValueError: If `mode` is neither "min" nor "max", or `patience` or `min_delta` is out of
            range.

    Example:
        >>> import jax, jax.numpy as jnp, optax, gru_jax as gj
        >>> loss_fn = lambda w, batch, key: (jnp.square(w * batch - 2).mean(), {})
        >>> evaluate = lambda w: {"error": jnp.abs(w - 1.9)}
        >>> result = gj.train.fit(
        ...     loss_fn, jnp.zeros(()), optax.sgd(0.05), jnp.ones(4), key=jax.random.key(0), steps=100,
        ...     evaluate=evaluate, evaluate_every=5, early_stopping=gj.train.EarlyStopping("error", patience=2))
        >>> result.stop_reason, result.best_step, result.steps
        ('early_stopping', 30, 40)
    """

    metric: str
    patience: int | None = None
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str):
            raise TypeError(f"metric: got {self.metric!r}, expected the name of a metric that evaluate returns.")
        if isinstance(self.min_delta, bool) or not isinstance(self.min_delta, int | float | np.number):
            raise TypeError(f"min_delta: got {self.min_delta!r}, expected a number of at least 0.")
        if self.patience is not None:
            object.__setattr__(self, "patience", checked_count("patience", self.patience))
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode: got {self.mode!r}, expected 'min' or 'max'.")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"min_delta: got {self.min_delta}, expected a finite number of at least 0.")

    def improves(self, value: float, best: float | None) -> bool:
        """Tells whether `value` improves on `best`. NaN never does."""
        if math.isnan(value):
            return False
        return best is None or (best - value if self.mode == "min" else value - best) > self.min_delta


class BestEvaluation(NamedTuple):
    """The best evaluation of a run so far."""

    value: float | None = None
    step: int | None = None
    evaluations_since: int = 0

    @classmethod
    def parsed(cls, values: Any) -> "BestEvaluation":
        """Parses what a checkpoint holds.

        Raises:
            TypeError, ValueError: If it is something else.
        """
        if set(values) != set(cls._fields):
            raise ValueError(f"got {', '.join(values)}, expected {', '.join(cls._fields)}")
        best = cls(**values)
        if best.value is not None:
            best = best._replace(value=float(best.value))
        for count in (best.step, best.evaluations_since):
            if count is not None and operator.index(count) < 0:
                raise ValueError(f"got {count}, expected a number of steps or evaluations")
        return best

    def updated(self, rule: EarlyStopping, metrics: dict[str, Any], step: int) -> "BestEvaluation":
        """Takes one more evaluation into account.

        Raises:
            ValueError: If the metric of `rule` is not among `metrics`, or is not a scalar.
        """
        if rule.metric not in metrics:
            raise ValueError(
                f"early_stopping: got the metric {rule.metric!r}, expected one that evaluate returns: {', '.join(metrics)}."
            )
        if np.ndim(metrics[rule.metric]):
            raise ValueError(
                f"early_stopping: got the metric {rule.metric!r} of shape {np.shape(metrics[rule.metric])}, expected a scalar. "
                "Let evaluate return its mean too, under another name."
            )
        value = float(metrics[rule.metric])
        if rule.improves(value, self.value):
            return BestEvaluation(value, step)
        return self._replace(evaluations_since=self.evaluations_since + 1)

    def patience_is_over(self, rule: EarlyStopping) -> bool:
        """Tells whether there have been `patience` evaluations without improvement."""
        return rule.patience is not None and self.evaluations_since >= rule.patience

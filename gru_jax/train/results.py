"""What training returns, and what a callback sees of it."""

from typing import Any, NamedTuple

import numpy as np


class Fit(NamedTuple):
    """What `fit` returns.

    Attributes:
        params: after the last step.
        opt_state: the optimiser's state after the last step.
        history: `"loss"` and every metric of `loss_fn`, each an array `(steps,)`; the loss of step i is taken before update i.
        evaluations: `"step"` and every metric of `evaluate`, each an array, one value per evaluation.
        steps: how many optimiser steps were taken, those before a resume included.
        skipped: how many of their updates were left out because something was not finite.
        carry: after the last step; None without one.
        best_params: the parameters with the best evaluation; None without `early_stopping`.
        best_step: after how many steps they were found.
        stopped: why training ended before all steps: "early_stopping" or "callback"; None where it did not.
    """

    params: Any
    opt_state: Any
    history: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    steps: int
    skipped: Any
    carry: Any = None
    best_params: Any = None
    best_step: int | None = None
    stopped: str | None = None


class Moment(NamedTuple):
    """What a callback sees after a dispatch.

    Attributes:
        step: optimiser steps so far.
        params: the parameters now; copy what is kept, the next dispatch reuses their memory.
        opt_state: the optimiser's state now.
        metrics: the loss and the metrics of the dispatch's steps, each `(steps,)`.
    """

    step: int
    params: Any
    opt_state: Any
    metrics: dict[str, np.ndarray]

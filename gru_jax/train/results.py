"""The types that users receive: the result of a run, and what a callback sees."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class FitResult(NamedTuple):
    """The result of `fit` and `fit_ensemble`.

    `fit_ensemble` adds an axis for the N models. It is the first axis of `params`, `opt_state` and
    `skipped_updates`, and the second axis of the arrays in `history` and `evaluations`, except
    `"step"`.

    Attributes:
        params: The parameters after the last step.
        opt_state: The optimiser's state after the last step.
        history: `"loss"` and every metric of `loss_fn`, each an array of shape `(steps, …)`. Entry i
            was computed before update i.
        evaluations: `"step"` and every metric of `evaluate`, each an array with one entry per
            evaluation.
        steps: The number of optimiser steps taken, including those before a resume.
        skipped_updates: The number of updates that were skipped because the loss, a gradient or a
            new parameter was not finite.
        carry: The carry after the last step. None without a carry.
        ema_params: The average of the parameters after the last step. None without `ema`.
        best_params: The parameters with the best evaluation. With `ema` or `eval_params`, these are
            averages. None without `early_stopping`.
        best_step: The number of steps that led to `best_params`. None without `early_stopping`.
        stop_reason: Why training stopped early: "early_stopping", "callback", or "data" if an
            iterator ended. None if it took all steps.
    """

    params: Any
    opt_state: Any
    history: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    steps: int
    skipped_updates: Any
    carry: Any = None
    ema_params: Any = None
    best_params: Any = None
    best_step: int | None = None
    stop_reason: str | None = None


class CallbackInfo(NamedTuple):
    """What a callback of `fit` receives after each execution of the compiled program.

    Attributes:
        step: The number of optimiser steps taken so far.
        params: The current parameters. They are a copy, which may be kept.
        opt_state: A copy of the optimiser's current state.
        metrics: The loss and the metrics of the steps since the last callback, each an array of
            shape `(steps, …)`.
        evaluation: The metrics of the evaluation after `step` steps. Empty if there was none.
        ema_params: A copy of the average of the parameters. None without `ema`.
    """

    step: int
    params: Any
    opt_state: Any
    metrics: dict[str, np.ndarray]
    evaluation: Mapping[str, np.ndarray] = MappingProxyType({})
    ema_params: Any = None

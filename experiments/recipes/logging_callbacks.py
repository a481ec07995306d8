"""Shows callbacks of `fit` that log to TensorBoard and to Weights & Biases.

    writer = tensorboardX.SummaryWriter("runs/1")  # or torch.utils.tensorboard.SummaryWriter
    gj.train.fit(…, callbacks=[to_tensorboard(writer)])

    run = wandb.init(project="counting")
    gj.train.fit(…, callbacks=[to_wandb(run)])

A callback receives the metrics of all steps since the last one, and the evaluation of its step if
there was one.
"""

from collections.abc import Callable
from typing import Any

import gru_jax as gj


def to_tensorboard(writer: Any) -> Callable[[gj.train.CallbackInfo], None]:
    """Returns a callback that writes every scalar to a `SummaryWriter`."""

    def log(info: gj.train.CallbackInfo) -> None:
        for name, values in info.metrics.items():
            for step, value in enumerate(values, start=info.step - len(values)):
                if value.ndim == 0:
                    writer.add_scalar(name, value, step)
        for name, value in info.evaluation.items():
            if value.ndim == 0:
                writer.add_scalar(name, value, info.step)

    return log


def to_wandb(run: Any) -> Callable[[gj.train.CallbackInfo], None]:
    """Returns a callback that logs the mean over its steps, and the evaluation, to a run."""

    def log(info: gj.train.CallbackInfo) -> None:
        means = {name: values.mean(0) for name, values in info.metrics.items()}
        run.log({**means, **info.evaluation}, step=info.step)

    return log

"""`fit`: trains one model."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from gru_jax._jax.keys import check_key
from gru_jax.train.arguments import check_optimizer, check_params, checked_count
from gru_jax.train.early_stopping import EarlyStopping
from gru_jax.train.host_loop import train
from gru_jax.train.make_plan import make_training_plan
from gru_jax.train.results import CallbackInfo, FitResult
from gru_jax.train.train_step import initial_model_state, starting_opt_state


def fit(
    loss_fn: Callable[..., Any],
    params: Any,
    optimizer: optax.GradientTransformation,
    data: Any,
    *,
    key: jax.Array,
    steps: int,
    batch_size: int | None = None,
    carry: Any = None,
    opt_state: Any = None,
    grad_accumulation_steps: int = 1,
    weight_fn: Callable[[Any], jax.Array] | None = None,
    per_example_keys: bool = False,
    max_consecutive_nonfinite: int = 10,
    ema: float | optax.GradientTransformation | None = None,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
    eval_params: Callable[[Any, Any], Any] | None = None,
    evaluate_every: int | None = None,
    early_stopping: EarlyStopping | None = None,
    callbacks: Sequence[Callable[[CallbackInfo], Any]] = (),
    progress: bool = False,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    max_to_keep: int = 2,
    config: Any = None,
    allow_changes: Sequence[str] = (),
    resume: bool = True,
    mesh: Mesh | None = None,
    steps_per_execution: int = 100,
) -> FitResult:
    """Trains a model for a number of optimiser steps.

        result = gj.train.fit(
            loss_fn, params, optax.adam(1e-3), (xs, ys), key=key, steps=1000, batch_size=32)
        result.params, result.history["loss"]

    The steps run in one compiled loop, which returns to Python only for evaluations, checkpoints
    and callbacks. The loop is compiled once for each batch shape. Later calls reuse it if they pass
    the same objects as `loss_fn`, `optimizer`, `weight_fn` and `data` function.

    Args:
        loss_fn: A function `loss_fn(params, batch, key) -> (loss, metrics)` that returns a scalar
            and a dict of numbers and arrays to record. Nested dicts give names such as "a/b". If
            `carry` is given, it must be a function
            `loss_fn(params, batch, key, carry) -> (loss, metrics, carry)`.
        params: The initial parameters, any pytree of arrays. They are copied, not changed. Integers
            and booleans are not trained.
        optimizer: An optax transformation, for example `optax.adam(1e-3)` or `optax.lbfgs()`.
            Transformations that need them receive `value`, `grad` and `value_fn` of the batch.
        data: One of the following.
            - A pytree of arrays whose leading axis counts examples. Sequences, for example, have
              shape `(N, T, D)`.
            - An iterable of batches on the host: a generator, a list, or a loader of grain or PyTorch.
              A thread prefetches them. See the guide Train and resume.
            - A function `data(key) -> batch`, which generates a batch inside the compiled loop.
            - `gj.train.bucketed(…)`, for sequences of different lengths.
            - `gj.train.windows(…)`, for long sequences with a `carry`.
        key: A `jax.random` key. It determines the order of the examples, and the keys that
            `loss_fn` and a `data` function receive.
        steps: The total number of optimiser steps. A resumed run takes only the steps that remain.

    Data:
        batch_size: The number of examples per step. In each epoch, the examples are drawn without
            replacement. Defaults to None, which uses all examples in every step.
        carry: The carry for the first batch, for example `cell.initial_state(params, batch_size)`.
            Each leaf has a leading batch axis. Gradients do not flow through the carry from one
            batch into the previous one. Defaults to None, for a `loss_fn` without a carry.

    Optimisation:
        opt_state: The optimiser's state to start from, for example that of an earlier result.
            Defaults to None, which is `optimizer.init(params)`.
        grad_accumulation_steps: The number of microbatches that each batch is split into, to save
            memory. Defaults to 1.
        weight_fn: A function `weight_fn(batch) -> scalar` that weights the parts of a batch
            (microbatches and shares of devices) when averaging. For example,
            `lambda batch: batch.mask.sum()` weights them by their number of valid steps. Defaults
            to None, which weights them equally.
        per_example_keys: If True, `loss_fn` receives an array of keys, one for each example of its
            part of the batch, instead of one key. Random numbers drawn from them are the same on
            any number of devices, and for any `grad_accumulation_steps`. Defaults to False.
        ema: A decay such as 0.999, for an exponential moving average of the parameters. Evaluations
            and `best_params` use the average, and `FitResult.ema_params` is its last value. The
            average is that of `optax.ema`, without a bias towards the initial parameters. Instead
            of a decay, pass any optax transformation that averages what it receives. Defaults to
            None, which keeps no average.
        max_consecutive_nonfinite: The number of consecutive skipped updates after which an error is
            raised. An update is skipped if the loss, a gradient or a new parameter is NaN or
            infinite. `FitResult.skipped_updates` counts them. Defaults to 10.

    Evaluation:
        evaluate: A function `evaluate(params) -> metrics` that returns a dict of numbers and
            arrays, for example a confusion matrix. It is compiled, and runs before the first and
            after the last step. Defaults to None, which evaluates nothing.
        eval_params: A function `eval_params(opt_state, params) -> params` that gives the parameters
            to evaluate, for optimisers that keep an average in their state. For example,
            `optax.contrib.schedule_free_eval_params`. Defaults to None.
        evaluate_every: The number of steps between further evaluations. Defaults to None, for no
            further evaluations.
        early_stopping: A `gj.train.EarlyStopping(metric, …)`. It keeps the parameters with the best
            evaluation in `FitResult.best_params`, and may stop the run. Defaults to None.
        callbacks: Functions `callback(info)` that receive a `CallbackInfo` after each execution of
            the compiled loop. If one returns True, training stops. Let a callback that only reports
            return None: `lambda info: bar.update()` returns what tqdm returns, which may be True.
            Defaults to none.
        progress: If True, shows a progress bar with the loss, the best evaluation, the steps per
            second and the time left. This needs tqdm. Defaults to False.

    Checkpoints:
        checkpoint_dir: A directory for checkpoints and `history.jsonl`. On SIGTERM or SIGINT, the
            run then saves a checkpoint before the process exits, with status 143 or 130. Defaults
            to None, which saves nothing.
        save_every: The number of steps between checkpoints. Defaults to None, which saves after the
            last step only.
        max_to_keep: The number of checkpoints to keep, at least 2. Older ones are deleted. Defaults
            to 2.
        config: JSON values that identify the run, for example hyperparameters. A run is resumed
            only with an equal `config`, and with the same data, key and batch size. Defaults to
            None.
        allow_changes: The names of what may differ from the run that is resumed, for example
            `["optimizer"]` for another learning rate. The history records the change. A resume
            otherwise raises if the optimizer or `loss_fn` differs, as far as its constants and its
            code tell. Defaults to none.
        resume: If True, continues the run that the directory contains. The result is bit for bit
            that of an uninterrupted run. If False, raises when the directory already contains a
            run. Defaults to True.

    Devices:
        mesh: A mesh with one axis, for example `gj.train.data_mesh()`. Each batch is spread over
            its devices, which exchange gradients once per step. The result equals that of one
            device up to rounding. If `loss_fn` draws random numbers, this needs `per_example_keys`,
            because its key otherwise differs between devices.
            Each device runs all of `evaluate`, unless `evaluate` applies
            `jax.lax.with_sharding_constraint`. With several processes, pass the same arguments in
            each. If one raises, the others end within 15 seconds; if one dies, after the heartbeat
            timeout of `jax.distributed`, by default 100 seconds. Defaults to None, for one device.
        steps_per_execution: The maximum number of steps in one execution of the compiled loop.
            Larger values reduce overhead but delay callbacks and the response to signals. Defaults
            to 100.

    Returns:
        A `FitResult` with `params`, `opt_state`, `history`, `evaluations` and more.

    Raises:
        TypeError: If an argument has the wrong type, or `loss_fn` or `evaluate` does not return
            what is described above.
        ValueError: If a number is out of range, or a batch cannot be split into equal microbatches
            or among the devices. Also if the directory contains a run with another configuration or
            arrays of other shapes. The message then lists the differences.
        FloatingPointError: If `max_consecutive_nonfinite` consecutive updates were skipped. The
            message states the step, the batch, and the norms of gradients and parameters.
        OSError: If a checkpoint cannot be written. Earlier checkpoints are unchanged.
        RuntimeError: If another process is training in `checkpoint_dir`.
        ImportError: If `progress` needs tqdm or `checkpoint_dir` needs Orbax:
            `pip install "gru_jax[train]"`.

    Example:
        >>> import jax, jax.numpy as jnp, optax, gru_jax as gj
        >>> cell, key = gj.gru(), jax.random.key(0)
        >>> xs = jax.random.normal(key, (64, 10, 3))  # (example, time, feature)
        >>> def loss_fn(params, batch, key):
        ...     _, hs = gj.unroll(cell, params, batch, time_major=False)
        ...     return jnp.square(hs - 0.5).mean(), {}
        >>> result = gj.train.fit(loss_fn, cell.init(key, 3, 8), optax.adam(1e-2), xs, key=key, steps=50, batch_size=16)
        >>> result.history["loss"].shape, bool(result.history["loss"][-1] < result.history["loss"][0])
        ((50,), True)
    """
    check_optimizer(optimizer)
    check_key("key", key)
    check_params(params)
    plan = make_training_plan(
        loss_fn=loss_fn, optimizer=optimizer, data=data, key=key, steps=steps,
        batch_size=batch_size, has_carry=carry is not None,
        grad_accumulation_steps=grad_accumulation_steps, weight_fn=weight_fn, per_example_keys=per_example_keys,
        max_consecutive_nonfinite=checked_count("max_consecutive_nonfinite", max_consecutive_nonfinite),
        ema=ema, evaluate=evaluate, eval_params=eval_params, evaluate_every=evaluate_every,
        early_stopping=early_stopping, callbacks=callbacks, progress=progress,
        checkpoint_dir=checkpoint_dir, save_every=save_every, max_to_keep=max_to_keep, config=config,
        allow_changes=allow_changes, resume=resume, mesh=mesh, steps_per_execution=steps_per_execution,
    )  # fmt: skip
    return train(
        plan, initial_model_state(params, starting_opt_state(optimizer.init, params, opt_state), carry, ema=plan.program.ema)
    )

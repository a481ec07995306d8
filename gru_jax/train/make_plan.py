"""Checks the arguments of `fit` and `fit_ensemble`, and turns them into a `TrainingPlan`."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from gru_jax._jax.partition import differentiable, fill
from gru_jax.train import data_parallel
from gru_jax.train.arguments import check_callable, checked_count, checked_directory, checked_flag, optional_count
from gru_jax.train.batch_sources import ShuffledData
from gru_jax.train.early_stopping import EarlyStopping
from gru_jax.train.make_source import make_batch_source
from gru_jax.train.plans import CheckpointPlan, EvaluationPlan, ProgramSpec, TrainingPlan
from gru_jax.train.results import CallbackInfo
from gru_jax.train.run_config import checked_changes, make_run_config
from gru_jax.train.user_functions import checked_metrics


def make_training_plan(
    *,
    loss_fn: Callable[..., Any],
    optimizer: Any,
    data: Any,
    key: jax.Array,
    steps: int,
    batch_size: int | None,
    grad_accumulation_steps: int,
    weight_fn: Callable[[Any], jax.Array] | None,
    per_example_keys: bool,
    evaluate: Callable[[Any], dict[str, jax.Array]] | None,
    evaluate_every: int | None,
    callbacks: Sequence[Callable[[CallbackInfo], Any]],
    progress: bool,
    checkpoint_dir: str | os.PathLike[str] | None,
    save_every: int | None,
    max_to_keep: int,
    config: Any,
    allow_changes: Sequence[str],
    resume: bool,
    mesh: Mesh | None,
    steps_per_execution: int,
    ema: Any = None,
    eval_params: Callable[[Any, Any], Any] | None = None,
    has_carry: bool = False,
    early_stopping: EarlyStopping | None = None,
    max_consecutive_nonfinite: int | None = None,
    models: int | None = None,
    hyperparameters: Mapping[str, jax.Array] | None = None,
) -> TrainingPlan:
    """Checks the arguments of `fit` or `fit_ensemble`, and describes the run.

    Two further arguments are set by the caller: `models` is the number of models of an ensemble, or
    None for `fit`, and `has_carry` says whether `fit` received a carry.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or needs another argument that is missing.
    """
    signature = "loss_fn(params, batch, key, carry)" if has_carry else "loss_fn(params, batch, key)"
    check_callable("loss_fn", loss_fn, signature, arguments=4 if has_carry else 3)
    if weight_fn is not None:
        check_callable("weight_fn", weight_fn, "weight_fn(batch) -> scalar", arguments=1)
    if mesh is not None:
        data_parallel.check_mesh(mesh)
    source = make_batch_source(data, batch_size)
    is_ensemble, hyperparameters = models is not None, dict(hyperparameters or {})
    spec = ProgramSpec(
        loss_fn=loss_fn,
        optimizer=optimizer,
        batch_makers=source.batch_makers(),
        grad_accumulation_steps=checked_count("grad_accumulation_steps", grad_accumulation_steps),
        weight_fn=weight_fn,
        has_carry=has_carry,
        per_example_keys=checked_flag("per_example_keys", per_example_keys),
        max_consecutive_nonfinite=optional_count("max_consecutive_nonfinite", max_consecutive_nonfinite),
        ema=averaging(ema),
        is_ensemble=is_ensemble,
        models_have_own_batches=is_ensemble and isinstance(source, ShuffledData),
        mesh=mesh,
    )

    def run_config() -> dict[str, Any]:
        settings: dict[str, Any] = {
            "grad_accumulation_steps": spec.grad_accumulation_steps,
            "per_example_keys": spec.per_example_keys,
            "models": models,
        }
        if is_ensemble:
            settings["hyperparameters"] = {name: values.tolist() for name, values in hyperparameters.items()}
        functions = {"loss_fn": loss_fn, "optimizer": optimizer, "weight_fn": weight_fn, "ema": spec.ema}
        return make_run_config(config, source, key, functions, **settings)

    return TrainingPlan(
        program=spec,
        source=source,
        key=key,
        hyperparameters=hyperparameters,
        steps=checked_count("steps", steps),
        steps_per_execution=checked_count("steps_per_execution", steps_per_execution),
        evaluation=_evaluation_plan(evaluate, evaluate_every, early_stopping, eval_params, ema, is_ensemble=is_ensemble),
        checkpoints=_checkpoint_plan(
            checkpoint_dir,
            save_every,
            max_to_keep=max_to_keep,
            resume=resume,
            config=config,
            run_config=run_config,
            allow_changes=allow_changes,
        ),
        callbacks=_checked_callbacks(callbacks),
        progress=checked_flag("progress", progress),
    )


def _evaluation_plan(
    evaluate: Callable[[Any], Any] | None, every: Any, early_stopping: Any, eval_params: Any, ema: Any, *, is_ensemble: bool
) -> EvaluationPlan | None:
    every = optional_count("evaluate_every", every)
    if eval_params is not None:
        check_callable("eval_params", eval_params, "eval_params(opt_state, params) -> params", arguments=2)
        if evaluate is None or ema is not None:
            other = "without evaluate, expected both" if evaluate is None else "with ema, expected one of them"
            raise ValueError(f"eval_params: got a function {other}.")
    if early_stopping is not None:
        if not isinstance(early_stopping, EarlyStopping):
            raise TypeError(f"early_stopping: got {type(early_stopping).__name__}, expected gj.train.EarlyStopping(metric, …).")
        if evaluate is None:
            raise ValueError(
                f"early_stopping: got the metric {early_stopping.metric!r} without evaluate, expected a function that returns "
                "this metric. Pass evaluate=…"
            )
        if early_stopping.patience is not None and every is None:
            raise ValueError(
                f"early_stopping: got patience={early_stopping.patience} without evaluate_every, so that only the first and the last "
                "parameters are evaluated, and training never stops early. Pass evaluate_every=…"
            )
    if evaluate is None:
        if every is not None:
            raise ValueError(f"evaluate_every: got {every} without evaluate, expected both or neither. Pass evaluate=…")
        return None
    check_callable("evaluate", evaluate, "evaluate(params) -> metrics", arguments=1)
    checked = _checked_evaluation(evaluate, is_ensemble=is_ensemble)
    if eval_params is not None:
        eval_params = _of_trained_leaves(eval_params, is_ensemble=is_ensemble)
    return EvaluationPlan(evaluate=checked, every=every, eval_params=eval_params, early_stopping=early_stopping)


@cache
def _of_trained_leaves(eval_params: Callable[[Any, Any], Any], *, is_ensemble: bool) -> Callable[[Any, Any], Any]:
    # cached for the same reason as _checked_evaluation
    of_one_model = lambda opt_state, params: fill(params, eval_params(opt_state, differentiable(params)))
    return jax.vmap(of_one_model) if is_ensemble else of_one_model


def averaging(ema: Any) -> Any:
    """Returns the transformation that the argument `ema` describes, or None.

    Raises:
        TypeError: If `ema` is neither a number nor an optax transformation.
        ValueError: If it is a number outside [0, 1).
    """
    if ema is None or (hasattr(ema, "init") and hasattr(ema, "update")):
        return ema
    if isinstance(ema, bool) or not isinstance(ema, int | float | np.number):
        raise TypeError(f"ema: got {type(ema).__name__}, expected a decay such as 0.999, or an optax transformation.")
    if not 0 <= ema < 1:
        raise ValueError(f"ema: got {ema}, expected a decay of at least 0 and below 1, for example 0.999.")
    return _ema(float(ema))


_ema = cache(optax.ema)  # equal decays give one object, so that the program is compiled only once


@cache
def _checked_evaluation(evaluate: Callable[[Any], Any], *, is_ensemble: bool) -> Callable[[Any], dict[str, jax.Array]]:
    # cached: the same `evaluate` gives the same object, which is therefore compiled only once
    of_one_model = lambda params: checked_metrics("evaluate", evaluate(params), reserved=("step",))
    return jax.vmap(of_one_model) if is_ensemble else of_one_model


def _checkpoint_plan(
    checkpoint_dir: Any,
    save_every: Any,
    *,
    max_to_keep: Any,
    resume: Any,
    config: Any,
    run_config: Callable[[], dict[str, Any]],
    allow_changes: Any,
) -> CheckpointPlan | None:
    save_every = optional_count("save_every", save_every)
    max_to_keep, resume = checked_count("max_to_keep", max_to_keep, least=2), checked_flag("resume", resume)
    if checkpoint_dir is None:
        for name, value in (("save_every", save_every), ("config", config), ("allow_changes", allow_changes or None)):
            if value is not None:
                raise ValueError(
                    f"{name}: got {value!r} without checkpoint_dir, expected both or neither. Pass checkpoint_dir=…"
                )
        return None
    directory = checked_directory("checkpoint_dir", checkpoint_dir)
    found = run_config()
    return CheckpointPlan(
        directory=directory,
        save_every=save_every,
        max_to_keep=max_to_keep,
        run_config=found,
        allow_changes=checked_changes(allow_changes, found),
        resume=resume,
    )


def _checked_callbacks(callbacks: Any) -> tuple[Callable[[CallbackInfo], Any], ...]:
    if not isinstance(callbacks, Sequence):
        raise TypeError(f"callbacks: got {type(callbacks).__name__}, expected a sequence of functions, for example [callback].")
    for i, callback in enumerate(callbacks):
        check_callable(f"callbacks[{i}]", callback, "callback(info)", arguments=1)
    return tuple(callbacks)

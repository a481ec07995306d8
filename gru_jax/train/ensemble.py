"""`fit_ensemble`: trains several models at once, with different seeds, hyperparameters or both."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gru_jax._jax.keys import check_key
from gru_jax.train.arguments import check_callable, check_optimizer, check_params, check_takes_keywords
from gru_jax.train.host_loop import train
from gru_jax.train.make_plan import make_training_plan
from gru_jax.train.results import CallbackInfo, FitResult
from gru_jax.train.train_step import initial_model_state, starting_opt_state


def fit_ensemble(  # noqa: D417 (the docstring of fit describes the other arguments)
    loss_fn: Callable[..., Any],
    params: Any,
    optimizer: Callable[..., optax.GradientTransformation] | optax.GradientTransformation,
    data: Any,
    *,
    keys: jax.Array,
    steps: int,
    hyperparameters: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    opt_state: Any = None,
    grad_accumulation_steps: int = 1,
    weight_fn: Callable[[Any], jax.Array] | None = None,
    per_example_keys: bool = False,
    ema: float | optax.GradientTransformation | None = None,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
    eval_params: Callable[[Any, Any], Any] | None = None,
    evaluate_every: int | None = None,
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
    """Trains N models at once, for example with different seeds or learning rates.

        rates = {"learning_rate": jnp.logspace(-4, -1, N)}
        result = gj.train.fit_ensemble(
            loss_fn, jax.vmap(init)(keys), optax.adam, data,
            keys=keys, hyperparameters=rates, steps=1000,
        )

    One compiled program trains all models, under `jax.vmap`. The result of each model equals that
    of `fit`, up to rounding. If the loss, the gradient or a new parameter of a model is NaN or
    infinite, that model skips the update, and the others continue. The arguments `carry`,
    `early_stopping` and `max_consecutive_nonfinite` exist only in `fit`.

    Args:
        loss_fn: The loss of one model, as for `fit`.
        params: The initial parameters of all models, each leaf with a leading axis of length N.
        optimizer: An optax transformation, used for all models. With `hyperparameters`, a function
            that takes them by name and returns a transformation, for example `optax.adam`.
        data: As for `fit`. If `data` is a function, or arrays with a `batch_size`, each model gets
            its own batches. If it comes from `bucketed` or `windows`, all models get the batches of
            the first key.
        keys: N `jax.random` keys, one per model, for example `jax.random.split(key, N)`.
        steps: The total number of optimiser steps, as for `fit`.
        hyperparameters: A dict from the name of each hyperparameter to an array of its N values.
            Defaults to None, which gives all models the same `optimizer`.
        batch_size, grad_accumulation_steps, weight_fn, per_example_keys: As for `fit`.
        opt_state: The optimiser's states to start from, with a leading axis for the N models.
            Defaults to None, which is `optimizer.init` of each model's parameters.
        ema, evaluate, eval_params, evaluate_every, callbacks: As for `fit`. `evaluate` and
            `eval_params` receive the parameters of one model. A callback receives the parameters of
            all models.
        progress: As for `fit`. The progress bar shows the mean loss.
        checkpoint_dir, save_every, max_to_keep, config, allow_changes, resume, mesh: As for `fit`.
        steps_per_execution: As for `fit`.

    Returns:
        A `FitResult` whose `params`, `opt_state` and `skipped_updates` have a leading axis of
        length N, and whose history has arrays of shape `(steps, N)`.

    Raises:
        ValueError: If the length of a leading axis differs from the number of keys, and as `fit`
            does.
        TypeError, OSError, RuntimeError, ImportError: As `fit` does.

    Example:
        >>> import jax, jax.numpy as jnp, optax, gru_jax as gj
        >>> loss_fn = lambda w, batch, key: (jnp.square(w - batch).mean(), {})
        >>> keys, rates = jax.random.split(jax.random.key(0), 3), jnp.array([0.01, 0.1, 0.5])
        >>> result = gj.train.fit_ensemble(
        ...     loss_fn, jnp.zeros(3), optax.sgd, jnp.ones(4), keys=keys, hyperparameters={"learning_rate": rates}, steps=10)
        >>> result.history["loss"].shape, int(result.history["loss"][-1].argmin())
        ((10, 3), 2)
    """
    check_key("keys", keys, axes=1)
    check_params(params)
    models = len(keys)
    if not isinstance(hyperparameters, Mapping | None):
        raise TypeError(
            f"hyperparameters: got {type(hyperparameters).__name__}, expected a dict of arrays, for example {{'learning_rate': rates}}."
        )
    values = {name: jnp.asarray(given) for name, given in (hyperparameters or {}).items()}
    if values:
        names = ", ".join(values)
        check_callable("optimizer", optimizer, f"of {names} that returns an optax transformation, for example optax.adam")
        check_takes_keywords("optimizer", optimizer, values)
    else:
        check_optimizer(optimizer)
    _check_leading_axes(models, {"params": params, **{f"hyperparameters[{name!r}]": array for name, array in values.items()}})
    plan = make_training_plan(
        loss_fn=loss_fn, optimizer=optimizer, data=data, key=keys, steps=steps, models=models, hyperparameters=values,
        batch_size=batch_size, grad_accumulation_steps=grad_accumulation_steps, weight_fn=weight_fn, per_example_keys=per_example_keys,
        ema=ema, evaluate=evaluate, eval_params=eval_params, evaluate_every=evaluate_every, callbacks=callbacks, progress=progress,
        checkpoint_dir=checkpoint_dir, save_every=save_every, max_to_keep=max_to_keep, config=config,
        allow_changes=allow_changes, resume=resume, mesh=mesh, steps_per_execution=steps_per_execution,
    )  # fmt: skip

    def init_optimizer(part: Any, values: dict[str, jax.Array]) -> Any:
        make: Any = optimizer
        return (make(**values) if values else make).init(part)

    init_all = lambda part: jax.vmap(init_optimizer)(part, values)
    return train(
        plan, initial_model_state(params, starting_opt_state(init_all, params, opt_state), ema=plan.program.ema, models=models)
    )


def _check_leading_axes(models: int, arguments: dict[str, Any]) -> None:
    """Checks that every array has a leading axis of length `models`.

    Raises:
        ValueError: If an array does not.
    """
    for name, tree in arguments.items():
        for leaf in jax.tree.leaves(tree):
            if jnp.shape(leaf)[:1] != (models,):
                raise ValueError(
                    f"{name}: got shape {jnp.shape(leaf)}, expected a first axis of length {models}, one entry for each key."
                )

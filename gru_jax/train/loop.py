"""`fit`: a jit-compiled training loop."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gru_jax.train.batches import batch_indices, count_examples
from gru_jax.train.progress import progress_bar

Metrics = dict[str, jax.Array]
LossFn = Callable[[Any, Any, jax.Array], tuple[jax.Array, Metrics]]


class State(NamedTuple):
    """What one optimiser step hands to the next; donated to the compiled program."""

    params: Any
    opt_state: Any
    step: jax.Array


class Fit(NamedTuple):
    """What `fit` returns.

    Attributes:
        params: after the last step.
        opt_state: the optimiser's state after the last step.
        history: `"loss"` and every metric of `loss_fn`, each an array `(steps,)`; the loss of step i is taken before update i.
        evaluations: `"step"` and every metric of `evaluate`, each an array, one value per evaluation.
    """

    params: Any
    opt_state: Any
    history: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]


def fit(
    loss_fn: LossFn,
    params: Any,
    optimizer: optax.GradientTransformation,
    data: Any,
    *,
    key: jax.Array,
    steps: int,
    batch_size: int | None = None,
    steps_per_dispatch: int = 100,
    evaluate: Callable[[Any], Metrics] | None = None,
    evaluate_every: int | None = None,
    progress: bool = False,
) -> Fit:
    """Trains by `steps` optimiser steps, many per dispatch: one compiled `lax.scan` takes `steps_per_dispatch` of them.

    Args:
        loss_fn: `loss_fn(params, batch, key) -> (loss, metrics)`: a scalar, and a dict of scalars to record.
        params: any pytree of arrays; left as it is, training works on a copy.
        optimizer: of optax, with its clipping and schedules.
        data: arrays whose leading axis counts examples (so that sequences are `(example, T, D)`: use `time_major=False`), held on
            the device; or a function `data(key) -> batch` that makes a batch inside the compiled program.
        key: a `jax.random` key. Shuffling and the keys of `loss_fn` and `data` are pure functions of it and the step.
        steps: the number of optimiser steps.
        batch_size: examples per step, drawn without replacement, epoch after epoch, none dropped; None for all of them, in order.
        steps_per_dispatch: steps per call of the compiled program. Each length that occurs is compiled once: this one, and that
            of what is left over.
        evaluate: `evaluate(params) -> metrics`, compiled too; called before the first step, every `evaluate_every` steps, and
            after the last.
        evaluate_every: in steps; None for before and after only.
        progress: True for a bar with the loss; needs tqdm.

    Returns:
        `Fit(params, opt_state, history, evaluations)`.

    Raises:
        TypeError: `loss_fn` or `evaluate` returns something else; `data` is neither arrays nor a function.
        ValueError: a count below 1, a batch larger than the data, or `batch_size` beside a function.
        ImportError: `progress` without tqdm.

    The same `loss_fn`, `optimizer`, `data` function and `evaluate` (the same objects) are compiled once over many calls.
    """
    for name, count in (("steps", steps), ("steps_per_dispatch", steps_per_dispatch), ("evaluate_every", evaluate_every or 1)):
        if count < 1:
            raise ValueError(f"{name}: got {count}, expected at least 1.")
    make_batch, examples = _source(data, batch_size)
    data = None if make_batch else jax.tree.map(jnp.asarray, data)  # on the device once, not at every dispatch
    state = State(jax.tree.map(partial(jnp.array, copy=True), params), optimizer.init(params), jnp.zeros((), jnp.int32))
    key_shuffle, key_steps = jax.random.split(key)
    history: dict[str, list[np.ndarray]] = defaultdict(list)
    evaluations: dict[str, list[Any]] = defaultdict(list)

    def record_evaluation(step: int) -> None:
        if evaluate is not None:
            evaluations["step"].append(step)
            for name, value in _evaluate(state.params, evaluate).items():
                evaluations[name].append(np.asarray(value))

    bar = progress_bar(progress, steps)
    try:
        done = 0
        while done < steps:
            if done % (evaluate_every or steps) == 0:
                record_evaluation(done)
            until = min(done + (evaluate_every or steps) - done % (evaluate_every or steps), steps)
            length = min(steps_per_dispatch, until - done)
            indices = None
            if batch_size is not None and examples is not None:
                indices = batch_indices(key_shuffle, done, examples=examples, batch_size=batch_size, steps=length)
            state, metrics = _dispatch(
                state,
                data,
                indices,
                key_steps,
                loss_fn=loss_fn,
                optimizer=optimizer,
                make_batch=make_batch,
                length=length,
            )
            for name, values in metrics.items():
                history[name].append(np.asarray(values))
            done += length
            bar.update(length)
            bar.set_postfix(loss=f"{history['loss'][-1][-1]:.4g}")
        record_evaluation(done)
    finally:
        bar.close()
    return Fit(
        params=state.params,
        opt_state=state.opt_state,
        history={name: np.concatenate(pieces) for name, pieces in history.items()},
        evaluations={name: np.asarray(values) for name, values in evaluations.items()},
    )


@partial(jax.jit, static_argnames=("loss_fn", "optimizer", "make_batch", "length"), donate_argnames=("state",))
def _dispatch(
    state: State,
    data: Any,
    indices: jax.Array | None,
    key: jax.Array,
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    make_batch: Callable[[jax.Array], Any] | None,
    length: int,
) -> tuple[State, Metrics]:
    """`length` optimiser steps, and the metrics of each."""

    def step(state: State, batch_of: jax.Array | None) -> tuple[State, Metrics]:
        key_batch, key_loss = jax.random.split(jax.random.fold_in(key, state.step))
        if make_batch is not None:
            batch = make_batch(key_batch)
        elif batch_of is not None:
            batch = jax.tree.map(lambda leaf: leaf[batch_of], data)
        else:
            batch = data
        gradient = jax.value_and_grad(partial(_checked_loss, loss_fn), has_aux=True)
        (loss, metrics), grads = gradient(state.params, batch, key_loss)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, opt_state, state.step + 1), {"loss": loss, **metrics}

    return jax.lax.scan(step, state, indices, length=length)


@partial(jax.jit, static_argnames=("evaluate",))
def _evaluate(params: Any, evaluate: Callable[[Any], Metrics]) -> Metrics:
    return _checked_metrics("evaluate", evaluate(params), reserved="step")


def _checked_loss(loss_fn: LossFn, params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
    result = loss_fn(params, batch, key)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"loss_fn: got {type(result).__name__}, expected (loss, metrics). Return (loss, {{}}) for no metrics.")
    loss, metrics = result
    if jnp.shape(loss) != ():
        raise TypeError(f"loss_fn: got a loss of shape {jnp.shape(loss)}, expected a scalar. Reduce it: loss.mean().")
    return loss, _checked_metrics("loss_fn", metrics, reserved="loss")


def _checked_metrics(name: str, metrics: Any, reserved: str) -> Metrics:
    if not isinstance(metrics, dict) or any(jnp.shape(value) != () for value in metrics.values()):
        raise TypeError(f"{name}: got metrics {type(metrics).__name__}, expected a dict of scalars.")
    if reserved in metrics:
        raise ValueError(f"{name}: got a metric named {reserved!r}, expected another name: this one is recorded already.")
    return metrics


def _source(data: Any, batch_size: int | None) -> tuple[Callable[[jax.Array], Any] | None, int | None]:
    """(the function that makes batches, None), or (None, the number of examples)."""
    if callable(data):
        if batch_size is not None:
            raise ValueError(f"batch_size: got {batch_size} beside a function, expected None: data(key) makes whole batches.")
        return data, None
    examples = count_examples(data)
    if batch_size is not None and not 1 <= batch_size <= examples:
        raise ValueError(f"batch_size: got {batch_size}, expected 1 to {examples}, the number of examples in data.")
    return None, examples

"""`fit` and `search`: the arguments checked, the state set up, and `training` run over it."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gru_jax.train import parallel
from gru_jax.train.folder import configuration
from gru_jax.train.program import Member, Setup, State, checked_metrics
from gru_jax.train.results import Fit, Moment
from gru_jax.train.sources import Rows, source_of
from gru_jax.train.stopping import EarlyStopping
from gru_jax.train.training import Plan, train

LossFn = Callable[..., Any]


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
    evaluate: Callable[[Any], dict[str, jax.Array]] | None = None,
    evaluate_every: int | None = None,
    early_stopping: EarlyStopping | None = None,
    carry: Any = None,
    accumulate: int = 1,
    weight: Callable[[Any], jax.Array] | None = None,
    max_nonfinite: int = 10,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    keep: int = 2,
    config: Any = None,
    resume: bool = True,
    callbacks: Sequence[Callable[[Moment], Any]] = (),
    progress: bool = False,
) -> Fit:
    """Trains by `steps` optimiser steps, many per dispatch: one compiled loop takes up to `steps_per_dispatch` of them.

    Compiled once for each shape of batch, whatever the number of steps, however often it is called or resumed, with the same
    `loss_fn`, `optimizer`, `data` function, `weight` and `evaluate` (the same objects).

    Args:
        loss_fn: `loss_fn(params, batch, key) -> (loss, metrics)`: a scalar, and a dict of scalars to record. With `carry`,
            `loss_fn(params, batch, key, carry) -> (loss, metrics, carry)`; no gradient goes through the carry.
        params: any pytree of arrays; left as it is, training works on a copy.
        optimizer: of optax, with its clipping, schedules and injected hyperparameters; one that asks for the loss (`value=`) gets it.
        data: arrays whose leading axis counts examples (so that sequences are `(example, T, D)`: use `time_major=False`), held on
            the device; a function `data(key) -> batch` that makes a batch inside the compiled program; `gj.train.bucketed(…)` for
            sequences of different lengths; `gj.train.windows(…)` for long ones.
        key: a `jax.random` key. Shuffling and the keys of `loss_fn` and `data` are pure functions of it and the step.
        steps: the number of optimiser steps, those before a resume included.
        batch_size: examples per step, drawn without replacement, epoch after epoch, none dropped; None for all of them, in order.
        steps_per_dispatch: at most so many steps per call of the compiled program. More take longer to react to a signal.
        evaluate: `evaluate(params) -> metrics`, compiled too; called before the first step, every `evaluate_every` steps, and
            after the last.
        evaluate_every: in steps; None for before and after only.
        early_stopping: keeps the parameters with the best evaluation (`Fit.best_params`), and may stop.
        carry: what the first window starts from, such as `cell.initial_state(params, batch_size)`; its leading axis is the batch.
        accumulate: compute each gradient in so many parts of the batch one after another, in as much less memory.
        weight: `weight(batch) -> scalar`, what the loss is a mean over, such as `batch.mask.sum()`: parts of a batch, of
            `accumulate` and of a mesh, count by it. None counts them equally, right for a mean over examples.
        max_nonfinite: an update with a loss, gradient or new parameter that is not finite is left out, and counted in
            `Fit.skipped`; after so many in a row training stops with an error.
        mesh: spreads each batch over the devices of a mesh with one axis, `gj.train.data_mesh()`: one reduction of gradients per
            step, the result of a single device to rounding (but for `loss_fn`'s random numbers, which differ between devices). Each
            device computes the whole of `evaluate`; to share that, constrain the shardings inside it.
        folder: where checkpoints and `history.jsonl` go. SIGTERM and SIGINT then finish the dispatch, save, and exit with 143 or 130.
        save_every: in steps; None for after the last only. A checkpoint holds parameters, optimiser state, carry, step, key and
            data position, and the best so far.
        keep: how many checkpoints to keep, at least 2.
        config: what JSON can hold; a checkpoint of another `config`, data, key, batch size or model is refused.
        resume: whether a run in `folder` is continued, bit for bit as if it had not been interrupted; else one there is an error.
        callbacks: each called with a `Moment` after every dispatch; one that returns True stops training.
        progress: True for a bar with the loss; needs tqdm.

    Returns:
        `Fit(params, opt_state, history, evaluations, …)`.

    Raises:
        TypeError: `loss_fn` or `evaluate` returns something else; `data` is no source; `mesh` has several axes; `config` is no JSON.
        ValueError: counts below 1 or that do not divide; `folder` holds a run of another configuration, or arrays of other
            shapes: with the differences.
        FloatingPointError: `max_nonfinite` updates in a row were not finite: with the step, the batch and the norms of the leaves.
        OSError: a checkpoint could not be written: nothing that was saved is lost.
        RuntimeError: another process is training in `folder`.
        ImportError: `progress` without tqdm, `folder` without Orbax (the extra `train`).
    """
    source = _checked_source(
        data, batch_size, mesh, folder, config, save_every=save_every, steps=steps, steps_per_dispatch=steps_per_dispatch,
        evaluate_every=evaluate_every, accumulate=accumulate, keep=keep, max_nonfinite=max_nonfinite,
    )  # fmt: skip
    if early_stopping is not None:
        _check_stopping(early_stopping, evaluate)
    setup = Setup(loss_fn, optimizer, source.kinds(), accumulate, weight, carry is not None, max_nonfinite, False, False, mesh)
    zero = lambda: jnp.zeros((), jnp.int32)
    copy = partial(jax.tree.map, _copied)
    member = Member(copy(params), copy(optimizer.init(params)), copy(carry), zero(), zero())
    run_config = None if folder is None else configuration(config, source, key, accumulate=accumulate, members=None)
    plan = Plan(
        setup, source, key, steps, steps_per_dispatch, _checked(evaluate), evaluate_every, early_stopping,
        folder, save_every, keep, run_config, resume, tuple(callbacks), progress, {},
    )  # fmt: skip
    return train(plan, State(member, zero()))


def search(  # noqa: D417 (the options of fit are told there)
    loss_fn: LossFn,
    params: Any,
    optimizer: Callable[..., optax.GradientTransformation] | optax.GradientTransformation,
    data: Any,
    *,
    keys: jax.Array,
    steps: int,
    hyperparameters: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    steps_per_dispatch: int = 100,
    evaluate: Callable[[Any], dict[str, jax.Array]] | None = None,
    evaluate_every: int | None = None,
    accumulate: int = 1,
    weight: Callable[[Any], jax.Array] | None = None,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    keep: int = 2,
    config: Any = None,
    resume: bool = True,
    callbacks: Sequence[Callable[[Moment], Any]] = (),
    progress: bool = False,
) -> Fit:
    """Trains N models at once in one program, `vmap`ped: several seeds, learning rates, or both. Each becomes what `fit` makes of it.

        params = jax.vmap(init)(keys)
        gj.train.search(loss_fn, params, optax.adam, data, keys=keys, hyperparameters={"learning_rate": rates}, steps=1000)

    Args:
        loss_fn: as for `fit`, of one model.
        params: with a leading axis N on every leaf.
        optimizer: of optax, for all models; with `hyperparameters` a function of them that makes one, such as `optax.adam`.
        data: as for `fit`.
        keys: N keys; each model has its own order of examples and its own noise. Of `bucketed` and `windows` all have the order
            of the first key, and of a function `data(key)` each its own batches.
        steps: the number of optimiser steps.
        hyperparameters: for each name N values, such as `{"learning_rate": jnp.logspace(-4, -1, N)}`.
        **options: the others are those of `fit`: batch_size, steps_per_dispatch, evaluate, evaluate_every, accumulate, weight, mesh,
            folder, save_every, keep, config, resume, callbacks, progress. The progress bar shows the mean loss.

    Returns:
        `Fit` with a leading axis N on `params` and `opt_state`, and `(steps, N)` in `history`; `skipped` is `(N,)`. A model whose
        loss is not finite keeps its parameters, and the others go on.

    Raises:
        As `fit`, but for FloatingPointError; ValueError where leading axes are not N.
    """
    source = _checked_source(
        data, batch_size, mesh, folder, config, save_every=save_every, steps=steps, steps_per_dispatch=steps_per_dispatch,
        evaluate_every=evaluate_every, accumulate=accumulate, keep=keep,
    )  # fmt: skip
    number = len(keys)
    hyper = {name: jnp.asarray(values) for name, values in (hyperparameters or {}).items()}
    for name, leaf in [("params", leaf) for leaf in jax.tree.leaves(params)] + [
        (f"hyperparameters[{n!r}]", v) for n, v in hyper.items()
    ]:
        if jnp.shape(leaf)[:1] != (number,):
            raise ValueError(f"{name}: got shape {jnp.shape(leaf)}, expected {number} on its first axis, one for each of keys.")
    make: Any = optimizer
    start = lambda params, hyper: (make(**hyper) if hyper else make).init(params)
    own_order = isinstance(source, Rows)
    setup = Setup(loss_fn, optimizer, source.kinds(), accumulate, weight, False, 0, True, own_order, mesh)
    zeros = lambda: jnp.zeros(number, jnp.int32)
    copy = partial(jax.tree.map, _copied)
    member = Member(copy(params), copy(jax.vmap(start)(params, hyper)), None, zeros(), zeros())
    told = {name: values.tolist() for name, values in hyper.items()}
    run_config = (
        None
        if folder is None
        else configuration(config, source, keys, accumulate=accumulate, members=number, hyperparameters=told)
    )
    plan = Plan(
        setup, source, keys, steps, steps_per_dispatch, _checked(evaluate, members=True), evaluate_every, None,
        folder, save_every, keep, run_config, resume, tuple(callbacks), progress, hyper,
    )  # fmt: skip
    return train(plan, State(member, jnp.zeros((), jnp.int32)))


def _checked_source(
    data: Any, batch_size: int | None, mesh: Any, folder: Any, config: Any, *, save_every: int | None, **counts: int | None
) -> Any:
    """The source of batches, after what `fit` and `search` have in common was checked."""
    for name, count in {"save_every": save_every, **counts}.items():
        least = 2 if name == "keep" else 1
        if count is not None and count < least:
            raise ValueError(f"{name}: got {count}, expected at least {least}.")
    for name, value in (("save_every", save_every), ("config", config)):
        if value is not None and folder is None:
            raise ValueError(f"{name}: got {value!r} without a folder, expected folder=… beside it.")
    if mesh is not None:
        parallel.check_mesh(mesh)
    return source_of(data, batch_size)


def _copied(leaf: Any) -> jax.Array:
    """In memory of its own, and never weakly typed, as `jnp.full(8, -3.0)` is: the program's results are not, and it compiled again."""
    return jnp.array(leaf, jnp.result_type(leaf), copy=True)


def _check_stopping(rule: Any, evaluate: Any) -> None:
    """Raises unless the rule can be followed."""
    if not isinstance(rule, EarlyStopping):
        raise TypeError(f"early_stopping: got {type(rule).__name__}, expected gj.train.EarlyStopping(metric, …).")
    if evaluate is None:
        raise ValueError("early_stopping: got a rule without evaluate, expected evaluate=… that returns its metric.")
    if rule.mode not in ("min", "max"):
        raise ValueError(f"early_stopping: got mode={rule.mode!r}, expected 'min' or 'max'.")


@cache
def _checked(evaluate: Callable[[Any], Any] | None, members: bool = False) -> Callable[[Any], Any] | None:
    """`evaluate` with its metrics checked, of every member; the same object for the same function, so that it is compiled once."""
    if evaluate is None:
        return None
    alone = lambda params: checked_metrics("evaluate", evaluate(params), reserved=("step",))
    return jax.vmap(alone) if members else alone

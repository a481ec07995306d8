"""The compiled program: many optimiser steps in one `while_loop`.

Each iteration makes a batch, computes its gradient, and updates the parameters. An update is
skipped unless the loss, the gradients and the new parameters are all finite. The number of
iterations is an argument, so that one compiled program can take any number of steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gru_jax._jax.partition import differentiable, fill
from gru_jax._jax.precision import at_least_float32
from gru_jax.train.batch_sources import StepIndices
from gru_jax.train.finite import all_finite
from gru_jax.train.gradients import BatchAddress, BatchGradient, batch_gradient
from gru_jax.train.plans import ProgramSpec
from gru_jax.train.tree_paths import differences_of_leaves, leaves_by_path


class AverageState(NamedTuple):
    """An average of the parameters, as `ema` keeps it."""

    params: Any  # the average so far; the initial parameters before the first update
    state: Any  # the state of the transformation, in at least float32


class ModelState(NamedTuple):
    """The state of one model in training.

    In an ensemble each leaf has a leading axis for the models.
    """

    params: Any
    opt_state: Any
    carry: Any  # what loss_fn passes to the next batch, such as a recurrent state; may be None
    skipped_updates: jax.Array  # the number of updates in which something was not finite
    consecutive_skipped: jax.Array  # the number of these since the last update that was applied
    average: AverageState | None = None  # None without `ema`


class TrainState(NamedTuple):
    """The state between executions of the program. Its memory is donated to the next execution."""

    model: ModelState
    step: jax.Array


def initial_model_state(
    params: Any, opt_state: Any, carry: Any = None, *, ema: Any = None, models: int | None = None
) -> ModelState:
    """Makes the state before the first step, from copies of the arguments.

    `models` is the number of models of an ensemble, or None for a single model.
    """
    zeros = lambda: jnp.zeros(() if models is None else models, jnp.int32)
    params, opt_state, carry = jax.tree.map(_strongly_typed_copy, (params, opt_state, carry))
    state = ModelState(params, opt_state, carry, zeros(), zeros())
    if ema is None:
        return state
    init = ema.init if models is None else jax.vmap(ema.init)
    average = AverageState(params, init(_wide(differentiable(params))))
    return state._replace(average=jax.tree.map(_strongly_typed_copy, average))


def starting_opt_state(init: Callable[..., Any], params: Any, opt_state: Any) -> Any:
    """Returns `opt_state`, or `init` of the trained parameters if it is None.

    Raises:
        ValueError: If `opt_state` has other names, shapes or dtypes than `init` gives. The message
            lists the differences.
    """
    part = differentiable(params)
    if opt_state is None:
        return init(part)
    different = differences_of_leaves(leaves_by_path(opt_state), leaves_by_path(jax.eval_shape(init, part)), "given")
    if different:
        raise ValueError(f"opt_state: {different}. Pass a state of the same optimizer, for parameters of the same shapes.")
    return opt_state


def _strongly_typed_copy(leaf: Any) -> jax.Array:
    # The program returns strongly typed arrays. A weakly typed input, such as jnp.full(8, -3.0),
    # would make the second execution compile the program again.
    return jnp.array(leaf, jnp.result_type(leaf), copy=True)


@partial(jax.jit, static_argnames=("spec",), donate_argnames=("state",))
def run_steps(
    state: TrainState,
    data: tuple[Any, ...],
    indices: StepIndices,
    steps: jax.Array,
    key: jax.Array,
    hyperparameters: dict[str, jax.Array],
    *,
    spec: ProgramSpec,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes `steps` optimiser steps, or fewer if too many consecutive updates were skipped.

    Args:
        state: The state to start from.
        data: The data of each bucket.
        indices: The batch indices of at least `steps` steps.
        steps: The number of steps to take.
        key: The key of the run's steps, or one per model.
        hyperparameters: The hyperparameters of an ensemble, one value per model and name.
        spec: The static settings that the program is compiled for.

    Returns:
        The new state, and the metrics of each step. The metrics are padded to the number of steps
        in `indices`.
    """
    train_one = partial(_train_step, spec)
    batch_axes = BatchAddress(None, 0) if spec.models_have_own_batches else None  # type: ignore[arg-type]
    train_all = jax.vmap(train_one, in_axes=(0, None, None, batch_axes, 0, 0)) if spec.is_ensemble else train_one
    train_step = jax.jit(train_all)  # so that eval_shape and the loop share one trace

    def take_step(i: Any, step: jax.Array, model: ModelState) -> tuple[ModelState, dict[str, jax.Array]]:
        batch = BatchAddress(*jax.tree.map(lambda leaf: leaf[i], indices))
        return train_step(model, step, data, batch, key, hyperparameters)

    _, metric_shapes = jax.eval_shape(take_step, 0, state.step, state.model)
    capacity = len(indices.bucket_index)
    no_metrics = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), metric_shapes)

    def should_continue(loop: tuple[jax.Array, TrainState, Any]) -> jax.Array:
        i, state, _ = loop
        limit = spec.max_consecutive_nonfinite
        return (i < steps) if limit is None else (i < steps) & (state.model.consecutive_skipped < limit)

    def body(loop: tuple[jax.Array, TrainState, Any]) -> tuple[jax.Array, TrainState, Any]:
        i, state, metrics = loop
        model, new_metrics = take_step(i, state.step, state.model)
        metrics = jax.tree.map(lambda rows, row: rows.at[i].set(row), metrics, new_metrics)
        return i + 1, TrainState(model, state.step + 1), metrics

    _, state, metrics = jax.lax.while_loop(should_continue, body, (jnp.zeros((), jnp.int32), state, no_metrics))
    return state, metrics


def _train_step(
    spec: ProgramSpec,
    model: ModelState,
    step: jax.Array,
    data: tuple[Any, ...],
    batch: BatchAddress,
    key: jax.Array,
    hyperparameters: dict[str, jax.Array],
) -> tuple[ModelState, dict[str, jax.Array]]:
    """Takes one optimiser step of one model."""
    optimizer = optax.with_extra_args_support(spec.optimizer(**hyperparameters) if hyperparameters else spec.optimizer)
    gradient_at = lambda params: batch_gradient(spec, params, model.carry, step, data, batch, key)
    found, part = gradient_at(model.params), differentiable(model.params)
    value_fn = _value_fn(lambda part: gradient_at(fill(model.params, part)))
    updates, opt_state = optimizer.update(
        found.grads, model.opt_state, part, value=found.loss, grad=found.grads, value_fn=value_fn
    )
    params = fill(model.params, optax.apply_updates(part, updates))
    is_finite = jnp.isfinite(found.loss) & all_finite(found.grads) & all_finite(params)
    new_if_finite = partial(jax.tree.map, partial(jnp.where, is_finite))
    new_model = ModelState(
        params=new_if_finite(params, model.params),
        opt_state=new_if_finite(opt_state, model.opt_state),
        carry=new_if_finite(found.carry, model.carry),
        skipped_updates=jnp.where(is_finite, model.skipped_updates, model.skipped_updates + 1),
        consecutive_skipped=jnp.where(is_finite, 0, model.consecutive_skipped + 1),
        average=new_if_finite(_updated_average(spec.ema, model.average, params), model.average),
    )
    return new_model, {"loss": found.loss, **found.metrics}


def _updated_average(ema: Any, average: AverageState | None, params: Any) -> AverageState | None:
    """Returns the average with `params` included."""
    if average is None:
        return None
    part = differentiable(params)
    averaged, state = ema.update(_wide(part), average.state, _wide(part))
    return AverageState(fill(params, jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), averaged, part)), state)


def _wide(tree: Any) -> Any:
    # in half precision, an average with a decay near 1 would stand still
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, at_least_float32(leaf.dtype)), tree)


def _value_fn(gradient_at: Callable[[Any], BatchGradient]) -> Callable[[Any], jax.Array]:
    """Returns the loss of the batch as a function of the parameters, for line searches.

    Its derivative is the gradient that training uses, with microbatches, devices and weights.
    """

    @jax.custom_jvp
    def value_fn(part: Any) -> jax.Array:
        return gradient_at(part).loss

    @value_fn.defjvp
    def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[jax.Array, jax.Array]:
        found = gradient_at(*primals)
        products = jax.tree.map(lambda g, dot: (g * dot).sum().real, found.grads, *tangents)
        return found.loss, jnp.asarray(sum(jax.tree.leaves(products)), found.loss.dtype)

    return value_fn

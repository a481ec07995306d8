"""Writes the error message for too many consecutive skipped updates."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax.partition import differentiable
from gru_jax.train.batch_streams import STREAMED
from gru_jax.train.gradients import BatchAddress, BatchGradient, batch_gradient
from gru_jax.train.plans import ProgramSpec
from gru_jax.train.train_step import ModelState
from gru_jax.train.tree_paths import named_leaves


def nonfinite_report(
    spec: ProgramSpec, model: ModelState, step: int, data: tuple[Any, ...], batch: BatchAddress, key: jax.Array
) -> str:
    """Describes the last step: its loss, its batch, and the norms of gradients and parameters.

    Computes the gradient again, because the compiled program does not return it.
    """
    found = _gradient_again(model, jnp.asarray(step), data, jax.tree.map(jnp.asarray, batch), key, spec=spec)
    gradient_norms = {name: float(norm) for name, norm in named_leaves(jax.tree.map(_norm, found.grads)).items()}
    parameter_norms = {
        name: float(norm) for name, norm in named_leaves(jax.tree.map(_norm, differentiable(model.params))).items()
    }
    norms = [
        f"{name or 'params'}: gradient {gradient_norms[name]:.3g}, parameter {parameter_norms[name]:.3g}"
        for name in gradient_norms
    ]
    return (
        f"loss_fn: got {spec.max_consecutive_nonfinite} consecutive updates, up to step {step}, with a "
        "loss, gradient or parameter that is NaN or infinite, expected finite numbers. These updates were "
        f"skipped. At step {step} the loss was {float(found.loss):.6g}, and the batch was {_batch_name(spec, batch, step)}. "
        f"Norms: {'; '.join(norms)}. The parameters are those after the last finite update. Lower the learning "
        "rate, clip the gradients, or raise max_consecutive_nonfinite."
    )


def _batch_name(spec: ProgramSpec, batch: BatchAddress, step: int) -> str:
    if spec.batch_makers[0].indices_name == STREAMED:
        return f"number {step} of data, counted from 0"
    index_leaves = jax.tree.leaves(batch.batch_indices)
    indices = np.asarray(index_leaves[0]) if index_leaves else np.zeros(0)
    if not indices.size:
        return "all of data, or generated from the step's key"
    bucket = int(batch.bucket_index)
    of_bucket = f" of bucket {bucket}" if len(spec.batch_makers) > 1 else ""
    return f"{spec.batch_makers[bucket].indices_name} {indices.tolist()}{of_bucket}"


@partial(jax.jit, static_argnames=("spec",))
def _gradient_again(
    model: ModelState, step: Any, data: tuple[Any, ...], batch: BatchAddress, key: jax.Array, *, spec: ProgramSpec
) -> BatchGradient:
    return batch_gradient(spec, model.params, model.carry, step, data, batch, key)


def _norm(leaf: jax.Array) -> jax.Array:
    # in half precision the squares would overflow
    return jnp.linalg.norm(leaf.astype(jnp.float32) if leaf.dtype.itemsize < 4 else leaf)

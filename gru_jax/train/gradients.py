"""Computes the loss and the gradient of one batch.

On a mesh, each device handles its own shard of the batch. A device splits its shard into
microbatches, and sums their weighted losses and gradients. One reduction per step adds the sums of
all devices. The total is then divided by the total weight.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from gru_jax._jax.partition import differentiable, fill
from gru_jax._jax.precision import at_least_float32
from gru_jax._jax.sharding import varying
from gru_jax.train.batch_sources import BatchMaker, Shard
from gru_jax.train.data_parallel import partition_of_axis
from gru_jax.train.plans import ProgramSpec
from gru_jax.train.user_functions import call_loss_fn, checked_weight


class BatchAddress(NamedTuple):
    """The batch of one step: its bucket, and its batch indices within the bucket."""

    bucket_index: jax.Array
    batch_indices: Any


class BatchGradient(NamedTuple):
    """The loss, metrics, gradients and new carry of one batch."""

    loss: jax.Array
    metrics: dict[str, jax.Array]
    grads: Any
    carry: Any


class WeightedSum(NamedTuple):
    """Weighted sums over microbatches and shards, to be divided by the total weight.

    The carry is not summed: it has an entry for each example.
    """

    loss: Any
    metrics: Any
    grads: Any
    weight: Any  # None if all microbatches have the same weight
    carry: Any


class BatchKeys(NamedTuple):
    """The random keys of one step."""

    data: jax.Array
    loss: jax.Array


class DeviceInputs(NamedTuple):
    """What a device needs to compute the gradient of its shard."""

    params: Any
    carry: Any
    data: Any
    batch_indices: Any
    keys: BatchKeys


def keys_of_step(key: jax.Array, step: Any) -> BatchKeys:
    """Returns the keys of one step, from the key of the run's steps."""
    return BatchKeys(*jax.random.split(jax.random.fold_in(key, step)))


def batch_gradient(
    spec: ProgramSpec, params: Any, carry: Any, step: jax.Array, data: tuple[Any, ...], batch: BatchAddress, key: jax.Array
) -> BatchGradient:
    """Computes loss, metrics, gradients and carry for the whole batch of a step."""
    keys = keys_of_step(key, step)

    def from_bucket(maker: BatchMaker, bucket: Any) -> Callable[[], BatchGradient]:
        inputs = DeviceInputs(params, carry, bucket, batch.batch_indices, keys)
        if spec.mesh is None:
            sums = partial(_sum_on_device, spec, maker, inputs, Shard())
            return lambda: _mean(sums(), microbatches=spec.grad_accumulation_steps)
        return partial(_mean_over_mesh, spec, spec.mesh, maker, inputs)

    branches = [from_bucket(maker, bucket) for maker, bucket in zip(spec.batch_makers, data, strict=True)]
    return branches[0]() if len(branches) == 1 else jax.lax.switch(batch.bucket_index, branches)


def _mean(total: WeightedSum, *, microbatches: int) -> BatchGradient:
    """Divides the sums by the total weight, or by the number of microbatches without weights."""
    if total.weight is None and microbatches == 1:
        return BatchGradient(total.loss, total.metrics, total.grads, total.carry)

    def divide(leaf: jax.Array) -> jax.Array:
        dtype = _inexact(leaf.dtype)
        if total.weight is None:
            return leaf.astype(dtype) / microbatches
        wide = at_least_float32(dtype)
        return (leaf.astype(wide) / total.weight.astype(wide)).astype(dtype)

    loss, metrics, grads = jax.tree.map(divide, (total.loss, total.metrics, total.grads))
    return BatchGradient(loss, metrics, grads, total.carry)


def _mean_over_mesh(spec: ProgramSpec, mesh: Mesh, maker: BatchMaker, inputs: DeviceInputs) -> BatchGradient:
    """Sums over each device's shard, and then over the devices in one reduction."""
    (axis,) = mesh.axis_names

    def on_each_device(inputs: DeviceInputs) -> tuple[WeightedSum, Any]:
        shard = Shard(jax.lax.axis_index(axis), mesh.size)
        if mesh.size > 1 and not spec.per_example_keys:
            key_loss = jax.random.fold_in(inputs.keys.loss, shard.shard_index)
            inputs = inputs._replace(keys=inputs.keys._replace(loss=key_loss))
        inputs = inputs._replace(params=varying(inputs.params, axis))  # keeps gradients local until the psum below
        sums = _sum_on_device(spec, maker, inputs, shard)
        return jax.lax.psum(varying(sums._replace(carry=()), axis), axis), varying(sums.carry, axis)

    in_specs = DeviceInputs(
        params=P(),
        carry=P(axis),
        data=partition_of_axis(mesh, maker.data_axis) if maker.data_is_sharded else P(),
        batch_indices=P(axis) if maker.indices_are_sharded else P(),
        keys=P(),  # type: ignore[arg-type]
    )
    total, carry = jax.shard_map(on_each_device, mesh=mesh, in_specs=(in_specs,), out_specs=(P(), P(axis)))(inputs)
    return _mean(total._replace(carry=carry), microbatches=mesh.size * spec.grad_accumulation_steps)


def _sum_on_device(spec: ProgramSpec, maker: BatchMaker, inputs: DeviceInputs, shard: Shard) -> WeightedSum:
    """Makes one shard of the batch, and sums over its microbatches, in at least float32."""
    params, carry, data, batch_indices, keys = inputs
    batch = maker.make(data, batch_indices, keys.data, shard)
    weighted = partial(_weighted, spec, params)
    key = _keys_of_examples(batch, keys.loss, shard) if spec.per_example_keys else keys.loss
    if spec.grad_accumulation_steps == 1:
        return weighted(batch, carry, key)
    split = partial(jax.tree.map, partial(_split, spec.grad_accumulation_steps))
    microbatches, carries = split((batch, carry))
    microbatch_keys = split(key) if spec.per_example_keys else jax.random.split(key, spec.grad_accumulation_steps)
    first = jax.tree.map(lambda leaf: leaf[0], (microbatches, carries))
    form = jax.eval_shape(weighted, *first, microbatch_keys[0])._replace(carry=None)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, at_least_float32(leaf.dtype)), form)
    axes = spec.mesh.axis_names if spec.mesh else ()

    def add(total: WeightedSum, microbatch: Any) -> tuple[WeightedSum, Any]:
        part = varying(weighted(*microbatch), *axes)
        total = jax.tree.map(lambda leaf, new: leaf + new.astype(leaf.dtype), total, part._replace(carry=None))
        return total, part.carry

    total, carries = jax.lax.scan(add, varying(zeros, *axes), (microbatches, carries, microbatch_keys))
    total = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), total, form)
    return total._replace(carry=jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), carries))


def _keys_of_examples(batch: Any, key: jax.Array, shard: Shard) -> jax.Array:
    """Returns a key for each example of a shard.

    A key depends only on the example's place in the whole batch.

    Raises:
        ValueError: If the leaves of the batch do not share a leading axis.
    """
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes == {()}:
        shapes = ", ".join(sorted({str(leaf.shape) for leaf in jax.tree.leaves(batch)}))
        raise ValueError(
            f"per_example_keys: got True for a batch of arrays of shapes {shapes}, expected a leading axis that all share and that "
            "counts examples."
        )
    ((size,),) = sizes
    places = shard.shard_index * size + jnp.arange(size)
    return jax.vmap(partial(jax.random.fold_in, key))(places)


def _weighted(spec: ProgramSpec, params: Any, batch: Any, carry: Any, key: jax.Array) -> WeightedSum:
    """Computes the loss, metrics and gradients of one microbatch, multiplied by its weight."""

    def loss_and_rest(part: Any) -> tuple[jax.Array, Any]:
        output = call_loss_fn(spec.loss_fn, fill(params, part), batch, key, carry, has_carry=spec.has_carry)
        return output.loss, (output.metrics, output.carry)

    (loss, (metrics, new_carry)), grads = jax.value_and_grad(loss_and_rest, has_aux=True)(differentiable(params))
    if spec.weight_fn is None:
        return WeightedSum(loss, metrics, grads, None, new_carry)
    weight = checked_weight(spec.weight_fn(batch)).astype(at_least_float32(loss.dtype))

    def times_weight(leaf: jax.Array) -> jax.Array:
        dtype = _inexact(leaf.dtype)
        wide = at_least_float32(dtype)
        return (leaf.astype(wide) * weight.astype(wide)).astype(dtype)

    loss, metrics, grads = jax.tree.map(times_weight, (loss, metrics, grads))
    return WeightedSum(loss, metrics, grads, weight, new_carry)


def _split(microbatches: int, leaf: jax.Array) -> jax.Array:
    if leaf.ndim == 0 or leaf.shape[0] % microbatches:
        raise ValueError(
            f"grad_accumulation_steps: got {microbatches} for a batch of shape {leaf.shape}, expected a divisor of the length of "
            "its first axis."
        )
    return leaf.reshape(microbatches, -1, *leaf.shape[1:])


def _inexact(dtype: Any) -> Any:
    """Returns the dtype of a mean: `dtype` if floating, otherwise the default floating dtype."""
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.result_type(float)

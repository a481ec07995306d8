"""The compiled program: many optimiser steps in one `while_loop`, whose number of turns is not part of its shape.

One turn is a batch, its gradient, and an update that happens only where loss, gradient and new parameters are finite. With a mesh each
device computes the gradient of its part of the batch, and one reduction per step adds them up.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from gru_jax._jax.sharding import varying
from gru_jax.train.sources import Kind


class Member(NamedTuple):
    """One model in training; a search has several, on a leading axis."""

    params: Any
    opt_state: Any
    carry: Any  # the recurrent state that goes from window to window; None without windows
    skipped: jax.Array  # updates left out so far because something was not finite
    in_a_row: jax.Array  # and of these, those since the last update


class State(NamedTuple):
    """What one dispatch hands to the next; donated to the compiled program."""

    member: Member
    step: jax.Array


class Setup(NamedTuple):
    """All that the program is compiled for; hashable."""

    loss_fn: Callable[..., Any]
    optimizer: Any  # a GradientTransformation, or with hyperparameters a function of them that makes one
    kinds: tuple[Kind, ...]
    accumulate: int
    weight: Callable[[Any], jax.Array] | None
    carries: bool
    patience: int
    members: bool  # several models, vmapped
    own_order: bool  # each with its own order of examples
    mesh: Mesh | None


@partial(jax.jit, static_argnames=("setup",), donate_argnames=("state",))
def dispatch(
    state: State, data: Any, which: jax.Array, addresses: Any, steps: jax.Array, key: jax.Array, hyper: Any, *, setup: Setup
) -> tuple[State, dict[str, jax.Array]]:
    """`steps` optimiser steps, at most as many as there are addresses; fewer where too many in a row were not finite.

    Returns the state and the metrics of each step, with room for all addresses.
    """
    alone = partial(_advance, setup)
    own_order = 0 if setup.own_order else None
    # jit: traced once, for its shapes and inside the loop
    advance = jax.jit(jax.vmap(alone, in_axes=(0, None, None, None, own_order, 0, 0)) if setup.members else alone)

    def at(i: Any, step: jax.Array, member: Member) -> tuple[Member, dict[str, jax.Array]]:
        return advance(member, step, data, which[i], jax.tree.map(lambda leaf: leaf[i], addresses), key, hyper)

    _, shapes = jax.eval_shape(at, 0, state.step, state.member)
    room = jax.tree.map(lambda leaf: jnp.zeros((len(which), *leaf.shape), leaf.dtype), shapes)

    def goes_on(turn: tuple[jax.Array, State, Any]) -> jax.Array:
        i, state, _ = turn
        return (i < steps) & (setup.members | (state.member.in_a_row < setup.patience).all())

    def turn(turn: tuple[jax.Array, State, Any]) -> tuple[jax.Array, State, Any]:
        i, state, room = turn
        member, metrics = at(i, state.step, state.member)
        room = jax.tree.map(lambda rows, row: rows.at[i].set(row), room, metrics)
        return i + 1, State(member, state.step + 1), room

    _, state, metrics = jax.lax.while_loop(goes_on, turn, (jnp.zeros((), jnp.int32), state, room))
    return state, metrics


def _advance(
    setup: Setup, member: Member, step: jax.Array, data: Any, which: jax.Array, address: Any, key: jax.Array, hyper: Any
) -> tuple[Member, dict[str, jax.Array]]:
    """One optimiser step."""
    optimizer = setup.optimizer(**hyper) if hyper else setup.optimizer
    (loss, metrics, carry), grads = gradient(setup, member, step, data, which, address, key)
    update = optax.with_extra_args_support(optimizer).update
    updates, opt_state = update(grads, member.opt_state, member.params, value=loss)
    params = optax.apply_updates(member.params, updates)
    finite = jnp.isfinite(loss) & all_finite(grads) & all_finite(params)
    choose = partial(jax.tree.map, partial(jnp.where, finite))
    chosen = Member(
        params=choose(params, member.params),
        opt_state=choose(opt_state, member.opt_state),
        carry=choose(carry, member.carry),
        skipped=member.skipped + ~finite,
        in_a_row=jnp.where(finite, 0, member.in_a_row + 1),
    )
    return chosen, {"loss": loss, **metrics}


def gradient(
    setup: Setup, member: Member, step: jax.Array, data: Any, which: jax.Array, address: Any, key: jax.Array
) -> tuple[tuple[jax.Array, dict[str, jax.Array], Any], Any]:
    """((loss, metrics, carry), gradient) of a step's whole batch: over all devices, over all its parts."""
    key_batch, key_loss = jax.random.split(jax.random.fold_in(key, step))

    def of_kind(kind: Kind, index: int) -> Callable[[], Any]:
        own = data[index] if len(setup.kinds) > 1 else data
        here = partial(_on_a_device, setup, kind)
        if setup.mesh is None:
            alone = partial(here, member.params, member.carry, own, address, key_batch, key_loss, 1, 0)
            return lambda: _mean(alone(), setup.accumulate)
        return lambda: _on_the_mesh(setup, kind, member.params, member.carry, own, address, key_batch, key_loss)

    branches = [of_kind(kind, index) for index, kind in enumerate(setup.kinds)]
    (loss, metrics), grads, carry = branches[0]() if len(branches) == 1 else jax.lax.switch(which, branches)
    return (loss, metrics, carry), grads


class Sum(NamedTuple):
    """Weighted sums over parts of a batch: what is divided by `weight` in the end."""

    loss: Any  # (loss, metrics)
    grads: Any
    weight: Any  # None where all parts count the same
    carry: Any


def _mean(total: Sum, parts: int) -> tuple[Any, Any, Any]:
    if total.weight is None and parts == 1:
        return total.loss, total.grads, total.carry
    weight = parts if total.weight is None else total.weight

    def divided(leaf: jax.Array) -> jax.Array:
        mean = leaf / weight
        return mean.astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else mean  # the mean of counts is no count

    over = partial(jax.tree.map, divided)
    return over(total.loss), over(total.grads), total.carry


def _on_the_mesh(setup: Setup, kind: Kind, params: Any, carry: Any, data: Any, address: Any, *keys: jax.Array) -> Any:
    """Each device its part, and one reduction of all sums."""
    assert setup.mesh is not None
    (axis,) = setup.mesh.axis_names
    shards = setup.mesh.size

    def here(params: Any, carry: Any, data: Any, address: Any, key_batch: jax.Array, key_loss: jax.Array) -> Any:
        shard = jax.lax.axis_index(axis)
        params = varying(params, axis)  # so that gradients stay local until the one reduction
        key_loss = key_loss if shards == 1 else jax.random.fold_in(key_loss, shard)
        part = _on_a_device(setup, kind, params, carry, data, address, key_batch, key_loss, shards, shard)
        return jax.lax.psum(varying(part._replace(carry=()), axis), axis), varying(part.carry, axis)

    split = lambda yes: P(axis) if yes else P()
    total, carry = jax.shard_map(
        here,
        mesh=setup.mesh,
        in_specs=(P(), P(axis), split(kind.data_is_split), split(kind.address_is_split), P(), P()),
        out_specs=(P(), P(axis)),
    )(params, carry, data, address, *keys)
    return _mean(total._replace(carry=carry), shards * setup.accumulate)


def _on_a_device(
    setup: Setup,
    kind: Kind,
    params: Any,
    carry: Any,
    data: Any,
    address: Any,
    key_batch: jax.Array,
    key_loss: jax.Array,
    shards: int,
    shard: Any,
) -> Sum:
    """The sums over one device's part of the batch, in `accumulate` pieces one after another."""
    batch = kind.make(data, address, key_batch, shards, shard)
    weighed = partial(_weighed, setup)
    if setup.accumulate == 1:
        return weighed(params, carry, batch, key_loss)
    pieces = jax.tree.map(partial(_pieces, setup.accumulate), (batch, carry))
    keys = jax.random.split(key_loss, setup.accumulate)
    shapes = jax.eval_shape(weighed, params, *jax.tree.map(lambda leaf: leaf[0], (pieces[1], pieces[0])), keys[0])
    own = shapes._replace(carry=None)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), own)
    axes = setup.mesh.axis_names if setup.mesh else ()

    def add(total: Sum, piece: Any) -> tuple[Sum, Any]:
        (batch, carry), key = piece
        part = varying(weighed(params, carry, batch, key), *axes)
        return jax.tree.map(jnp.add, total, part._replace(carry=None)), part.carry

    total, carries = jax.lax.scan(add, varying(zeros, *axes), (pieces, keys))
    total = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), total, own)  # summed in at least float32
    return total._replace(carry=jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), carries))


def _weighed(setup: Setup, params: Any, carry: Any, batch: Any, key: jax.Array) -> Sum:
    """Loss, metrics and gradient of one part, times its weight."""

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        loss, metrics, after = checked_loss(setup.loss_fn, setup.carries, params, carry, batch, key)
        return loss, (metrics, after)

    (loss, (metrics, after)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    if setup.weight is None:
        return Sum((loss, metrics), grads, None, after)
    weight = jnp.asarray(setup.weight(batch), loss.dtype)
    times = lambda tree: jax.tree.map(lambda leaf: leaf * weight.astype(jnp.result_type(leaf, 0.0)), tree)
    return Sum(times((loss, metrics)), times(grads), weight, after)


def _pieces(parts: int, leaf: jax.Array) -> jax.Array:
    if leaf.ndim == 0 or leaf.shape[0] % parts:
        raise ValueError(f"accumulate: got {parts} for a batch of shape {leaf.shape}, expected a divisor of its first axis.")
    return leaf.reshape(parts, -1, *leaf.shape[1:])


def all_finite(tree: Any) -> jax.Array:
    """Whether every floating-point entry is finite."""
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack(leaves).all() if leaves else jnp.array(True)


def checked_loss(
    loss_fn: Callable[..., Any], carries: bool, params: Any, carry: Any, batch: Any, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """(loss, metrics, carry) of the user's function.

    Raises:
        TypeError, ValueError: it returns something else.
    """
    result = loss_fn(params, batch, key, carry) if carries else loss_fn(params, batch, key)
    size, form = (3, "(loss, metrics, carry)") if carries else (2, "(loss, metrics)")
    if not (isinstance(result, tuple) and len(result) == size):
        raise TypeError(f"loss_fn: got {type(result).__name__}, expected {form}. Return {{}} for no metrics.")
    loss, metrics, after = result if carries else (*result, carry)
    if jnp.shape(loss) != ():
        raise TypeError(f"loss_fn: got a loss of shape {jnp.shape(loss)}, expected a scalar. Reduce it: loss.mean().")
    if jax.tree.map(_form, after) != jax.tree.map(_form, carry):
        raise TypeError(
            f"loss_fn: got a carry of {jax.tree.map(_form, after)}, expected {jax.tree.map(_form, carry)}, the given one's."
        )
    return loss, checked_metrics("loss_fn", metrics, reserved=("loss", "step", "evaluation")), jax.lax.stop_gradient(after)


def _form(leaf: Any) -> str:
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"


def checked_metrics(name: str, metrics: Any, reserved: tuple[str, ...]) -> dict[str, jax.Array]:
    """Metrics as a dict of scalars.

    Raises:
        TypeError: something else.
        ValueError: a name that is taken.
    """
    if not isinstance(metrics, dict) or any(jnp.shape(value) != () for value in metrics.values()):
        raise TypeError(f"{name}: got metrics {type(metrics).__name__}, expected a dict of scalars.")
    for taken in reserved:
        if taken in metrics:
            raise ValueError(f"{name}: got a metric named {taken!r}, expected another name: this one is recorded already.")
    return {name: jnp.asarray(value) for name, value in metrics.items()}

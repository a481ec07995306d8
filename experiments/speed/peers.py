"""Implements the benchmark problem in other JAX libraries, as their users would write it.

There is one function per library, `name(problem, checkpointed) -> Candidate`. With `checkpointed`,
the step of the loop is wrapped in `jax.checkpoint`. `gj.convert` converts the weights, so all
candidates compute the same numbers.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

import gru_jax as gj
from experiments.speed.problem import Candidate, Problem

Maker = Callable[..., Candidate]


def _scanned(step: Callable[[Any, Any], Any], h0: Any, xs: jax.Array, checkpointed: bool) -> jax.Array:
    """Scans a step `(h, x) -> (h, y)` over time, and returns its outputs."""
    return jax.lax.scan(jax.checkpoint(step) if checkpointed else step, h0, xs)[1]


def flax_nnx_step(problem: Problem) -> tuple[Callable[[Any], Callable[[Any, Any], Any]], Any]:
    """Returns a function from Flax weights to a step `(h, x) -> (h, y)`, and the weights."""
    from flax import nnx

    cell, params, xs, weights = problem
    # The GRU of NNX has no bias inside the product with the reset gate. The problem sets that bias to zero.
    flax_params = params._replace(c_h=None) if hasattr(params, "c_h") else params
    name = {gj.gru(reset_after=True): "GRUCell", gj.lstm(): "OptimizedLSTMCell", gj.elman(): "SimpleCell"}[cell]
    # Sets `dtype` and not `param_dtype`, because NNX's orthogonal initialiser does not support
    # bfloat16.
    module = getattr(nnx, name)(xs.shape[-1], weights.shape[-1], dtype=xs.dtype, rngs=nnx.Rngs(0))
    options = {"optimized": True} if name.startswith("Optimized") else {}
    nnx.update(module, gj.convert.to_flax_nnx(cell, flax_params, **options))
    graph = nnx.graphdef(module)
    state, rest = nnx.state(module, nnx.Param), nnx.state(module, nnx.Not(nnx.Param))
    return (lambda state: nnx.merge(graph, state, rest)), state


def flax_nnx(problem: Problem, checkpointed: bool) -> Candidate:
    """Returns the loss of Flax NNX: `nnx.RNN` of its cell."""
    from flax import nnx

    step_of, state = flax_nnx_step(problem)

    def loss(state, xs, weights):
        step: Any = step_of(state)
        if not checkpointed:
            return (nnx.RNN(step, time_major=True, rngs=nnx.Rngs(0))(xs) * weights).sum()
        h0 = step.initialize_carry(xs.shape[1:], nnx.Rngs(0))
        return (_scanned(lambda h, x: step_of(state)(h, x), h0, xs, True) * weights).sum()

    def as_params(tree):
        found = gj.convert.from_flax_nnx(problem.cell, tree)
        return found._replace(c_h=None) if hasattr(found, "c_h") else found

    return Candidate(loss, state, as_params)


def equinox_cell(problem: Problem) -> tuple[Any, Callable[[Any], Any]]:
    """Returns the arrays of Equinox's cell, and a function that makes the cell from such arrays."""
    import equinox as eqx

    cell, params, xs, weights = problem
    name = {gj.gru(reset_after=True): "GRUCell", gj.lstm(): "LSTMCell"}[cell]
    module = getattr(eqx.nn, name)(xs.shape[-1], weights.shape[-1], key=jax.random.key(0), dtype=xs.dtype)
    fields = gj.convert.to_equinox(cell, params)
    module = eqx.tree_at(lambda m: [getattr(m, field) for field in fields], module, list(fields.values()))
    arrays, static = eqx.partition(module, eqx.is_array)
    return arrays, lambda arrays: eqx.combine(arrays, static)


def equinox(problem: Problem, checkpointed: bool) -> Candidate:
    """Returns the loss of Equinox: a scan of its cell under `vmap`, as in its documentation."""
    cell = problem.cell
    arrays, cell_of = equinox_cell(problem)

    def loss(arrays, xs, weights):
        def step(h, x):
            h = jax.vmap(cell_of(arrays))(x, h)
            return h, h[0] if isinstance(h, tuple) else h

        zeros = jnp.zeros(weights.shape[1:], xs.dtype)
        return (_scanned(step, (zeros, zeros) if cell == gj.lstm() else zeros, xs, checkpointed) * weights).sum()

    return Candidate(loss, arrays, lambda tree: gj.convert.from_equinox(cell, tree))


def haiku(problem: Problem, checkpointed: bool) -> Candidate:
    """Returns the loss of Haiku: `hk.dynamic_unroll` of its core."""
    import haiku

    hk: Any = haiku
    cell, params, _, weights = problem
    name = {gj.gru(): "GRU", gj.lstm(): "LSTM"}[cell]
    make = lambda: getattr(hk, name)(weights.shape[-1], name="core")
    whole = hk.without_apply_rng(hk.transform(lambda xs: hk.dynamic_unroll(make(), xs, make().initial_state(xs.shape[1]))[0]))
    single = hk.without_apply_rng(hk.transform(lambda x, h: make()(x, h)))
    start = hk.without_apply_rng(hk.transform(lambda batch: make().initial_state(batch)))

    def loss(tree, xs, weights):
        if not checkpointed:
            return (whole.apply(tree, xs) * weights).sum()

        def step(h, x):
            y, h = single.apply(tree, x, h)
            return h, y

        return (_scanned(step, start.apply({}, xs.shape[1]), xs, True) * weights).sum()

    return Candidate(loss, gj.convert.to_haiku(cell, params, "core"), lambda tree: gj.convert.from_haiku(cell, tree, "core"))


def keras(problem: Problem, checkpointed: bool) -> Candidate:
    """Returns the loss of Keras: the stateless call of its layer, or a checkpointed scan of its cell."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    cell, params, xs, weights = problem
    kinds = {gj.gru(): ("GRU", {"reset_after": False}), gj.gru(reset_after=True): ("GRU", {"reset_after": True})}
    name, options = (kinds | {gj.lstm(): ("LSTM", {}), gj.elman(): ("SimpleRNN", {})})[cell]
    units = weights.shape[-1]
    layer: Any = getattr(keras.layers, name)(units, return_sequences=True, dtype="float32", **options)
    T, B, D = xs.shape
    layer.build((B, T, D))
    layer.set_weights(gj.convert.to_keras(cell, params))
    others, others_of_cell = ([variable.value for variable in part.non_trainable_variables] for part in (layer, layer.cell))

    def loss(tree, xs, weights):
        if not checkpointed:
            return (layer.stateless_call(tree, others, xs)[0] * weights).sum()

        def step(h, x):
            (y, h), _ = layer.cell.stateless_call(tree, others_of_cell, x, h)
            return h, y

        zeros = [jnp.zeros((xs.shape[1], units), xs.dtype)] * (2 if name == "LSTM" else 1)
        return (_scanned(step, zeros, xs, True) * weights).sum()

    tree = [variable.value for variable in layer.trainable_variables]
    return Candidate(loss, tree, lambda tree: gj.convert.from_keras(cell, tree), batch_major=not checkpointed)


def cudnn_lstm(problem: Problem) -> Candidate:
    """Returns the loss of `jax.experimental.rnn`: cuDNN's LSTM on a GPU, and its reference
    implementation elsewhere.

    Its weights are those of PyTorch, concatenated.
    """
    from jax.experimental import rnn

    cell, run = problem.cell, cast(Any, rnn)

    def loss(tree, xs, weights):
        zeros, sizes = jnp.zeros((1, xs.shape[0], weights.shape[-1]), xs.dtype), (xs.shape[-1], weights.shape[-1], 1)
        lengths = jnp.full(xs.shape[0], xs.shape[1], jnp.int32)
        parts = [tree[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if jax.default_backend() == "gpu":
            flat = jnp.concatenate([part.ravel() for part in parts])
            ys, _, _ = run.lstm(xs, zeros, zeros, flat, lengths, *sizes, 0.0, False)
        else:
            ys, _, _ = run.lstm_ref(xs, zeros, zeros, *({0: part} for part in parts), lengths, *sizes, 0.0, False)
        return (ys * weights).sum()

    tree = jax.tree.map(jnp.asarray, gj.convert.to_pytorch(cell, problem.params))
    return Candidate(loss, tree, partial(gj.convert.from_pytorch, cell), batch_major=True)


PEERS: dict[str, tuple[Maker, tuple[gj.Cell, ...]]] = {
    "Flax NNX": (flax_nnx, (gj.gru(reset_after=True), gj.lstm(), gj.elman())),
    "Equinox": (equinox, (gj.gru(reset_after=True), gj.lstm())),
    "Haiku": (haiku, (gj.gru(), gj.lstm())),
    "Keras": (keras, (gj.gru(), gj.gru(reset_after=True), gj.lstm(), gj.elman())),
}


def peers_of(cell: gj.Cell, names: Sequence[str]) -> dict[str, Callable[[Problem], Candidate]]:
    """Returns the candidates of the libraries that have this cell, plain and checkpointed."""
    makers = {name: PEERS[name][0] for name in names if name in PEERS and cell in PEERS[name][1]}
    plain = {name: partial(maker, checkpointed=False) for name, maker in makers.items()}
    return plain | {f"{name}, checkpointed": partial(maker, checkpointed=True) for name, maker in makers.items()}


def ours(problem: Problem, **options: Any) -> Candidate:
    """Returns the loss of this library: `gj.unroll` with these options."""

    def loss(params, xs, weights):
        return (gj.unroll(problem.cell, params, xs, **options)[1] * weights).sum()

    return Candidate(loss, problem.params, lambda params: params)

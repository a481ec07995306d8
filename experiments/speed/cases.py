"""What stands around the gradient of one batch: a reinforcement learner's update of many networks, and a single step."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gru_jax as gj
from experiments.speed.measure import Program, compiled
from experiments.speed.peers import flax_nnx_step
from experiments.speed.problem import Shape, posed


def policy_updates(steps: int, actors: int, networks: int, units: int, peers: Sequence[str]) -> dict[str, Program]:
    """One Adam step of each of several networks on episodes that begin anew here and there, as recurrent PPO makes it: by
    `gj.unroll(resets=…)`, by autodiff of the same, and by Flax' cell in a scan with a `where`, as PureJaxRL writes it."""
    cell, inputs = gj.gru(reset_after=True), 32
    problem = posed(cell, Shape(steps, actors, inputs, units))
    resets = jax.random.bernoulli(jax.random.key(3), 0.02, (steps, actors))
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(3e-4))

    def update_of(loss: Any, tree: Any) -> Program:
        def update(tree: Any, state: Any) -> Any:
            updates, state = optimizer.update(jax.grad(loss)(tree, problem.xs, problem.weights, resets), state, tree)
            return optax.apply_updates(tree, updates), state

        many = jax.tree.map(lambda leaf: jnp.stack([leaf] * networks), tree)
        return compiled(jax.vmap(update), many, jax.vmap(optimizer.init)(many))

    def ours(how: Any) -> Program:
        def loss(params: Any, xs: Any, weights: Any, resets: Any) -> jax.Array:
            return (gj.unroll(cell, params, xs, resets=resets, derivative=how)[1] * weights).sum()

        return update_of(loss, problem.params)

    found = {"ours": ours("adjoint"), "autodiff": ours("autodiff")}
    if "Flax NNX" in peers:
        step_of, state = flax_nnx_step(problem)

        def loss(state: Any, xs: Any, weights: Any, resets: Any) -> jax.Array:
            step = lambda h, at: step_of(state)(jnp.where(at[1][:, None], 0, h), at[0])
            return (jax.lax.scan(step, jnp.zeros(weights.shape[1:]), (xs, resets))[1] * weights).sum()

        found["Flax NNX"] = update_of(loss, state)
    return found


def single_steps(sequences: int, units: int, peers: Sequence[str]) -> dict[str, Program]:
    """One step of a cell, as an actor or a server calls it."""
    cell = gj.gru(reset_after=True)
    problem = posed(cell, Shape(1, sequences, 16, units))
    h, x = problem.weights[0], problem.xs[0]
    found = {"ours": compiled(cell.step, problem.params, h, x)}
    if "Flax NNX" in peers:
        step_of, state = flax_nnx_step(problem)
        found["Flax NNX"] = compiled(lambda state, h, x: step_of(state)(h, x), state, h, x)
    if "Equinox" in peers:
        import equinox as eqx

        arrays, static = eqx.partition(eqx.nn.GRUCell(16, units, key=jax.random.key(0)), eqx.is_array)
        found["Equinox"] = compiled(lambda arrays, h, x: jax.vmap(eqx.combine(arrays, static))(x, h), arrays, h, x)
    return found

"""What stands around the gradient of one batch: a reinforcement learner's update of many networks, and a single step."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from experiments.speed.measure import Program, compiled, difference
from experiments.speed.peers import equinox_cell, flax_nnx, flax_nnx_step
from experiments.speed.problem import Candidate, Shape, posed


def policy_updates(steps: int, actors: int, networks: int, units: int, peers: Sequence[str]) -> dict[str, Program]:
    """One Adam step of each of several networks on episodes that begin anew here and there, as recurrent PPO makes it: by
    `gj.unroll(resets=…)`, by autodiff of the same, and by Flax' cell in a scan with a `where`, as PureJaxRL writes it. Their
    gradients are compared first."""
    cell, inputs = gj.gru(reset_after=True), 32
    problem = posed(cell, Shape(steps, actors, inputs, units))
    resets = jax.random.bernoulli(jax.random.key(3), 0.02, (steps, actors))
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(3e-4))

    def ours(how: Any) -> Candidate:
        def loss(params: Any, xs: Any, weights: Any) -> jax.Array:
            return (gj.unroll(cell, params, xs, resets=resets, derivative=how)[1] * weights).sum()

        return Candidate(loss, problem.params, lambda params: params)

    candidates = {"ours": ours("adjoint"), "autodiff": ours("autodiff")}
    if "Flax NNX" in peers:
        step_of, _ = flax_nnx_step(problem)

        def loss(state: Any, xs: Any, weights: Any) -> jax.Array:
            step = lambda h, at: step_of(state)(jnp.where(at[1][:, None], 0, h), at[0])
            return (jax.lax.scan(step, jnp.zeros(weights.shape[1:]), (xs, resets))[1] * weights).sum()

        candidates["Flax NNX"] = flax_nnx(problem, checkpointed=False)._replace(loss=loss)

    def update_of(candidate: Candidate) -> Program:
        def update(tree: Any, state: Any) -> Any:
            updates, state = optimizer.update(jax.grad(candidate.loss)(tree, problem.xs, problem.weights), state, tree)
            return optax.apply_updates(tree, updates), state

        many = jax.tree.map(lambda leaf: jnp.stack([leaf] * networks), candidate.tree)
        return compiled(jax.vmap(update), many, jax.vmap(optimizer.init)(many))

    gradient = lambda candidate: jax.jit(jax.grad(candidate.loss))(candidate.tree, problem.xs, problem.weights)
    reference = gradient(candidates["autodiff"])
    differences = {name: difference(candidate, gradient(candidate), reference) for name, candidate in candidates.items()}
    assert max(differences.values()) < 1e-3, differences
    return {name: update_of(candidate) for name, candidate in candidates.items()}


def single_steps(sequences: int, units: int, peers: Sequence[str]) -> dict[str, Program]:
    """One step of a cell, as an actor or a server calls it. The new states are compared first."""
    cell = gj.gru(reset_after=True)
    problem = posed(cell, Shape(1, sequences, 16, units))
    h, x = problem.weights[0], problem.xs[0]
    found = {"ours": compiled(cell.step, problem.params, h, x)}
    if "Flax NNX" in peers:
        step_of, state = flax_nnx_step(problem)
        found["Flax NNX"] = compiled(lambda state, h, x: step_of(state)(h, x), state, h, x)
    if "Equinox" in peers:
        arrays, cell_of = equinox_cell(problem)
        found["Equinox"] = compiled(lambda arrays, h, x: jax.vmap(cell_of(arrays))(x, h), arrays, h, x)
    states = [jax.tree.leaves(program.call(*program.arguments))[0] for program in found.values()]
    for state in states:
        np.testing.assert_allclose(state, states[0], rtol=1e-5, atol=1e-5)
    return found

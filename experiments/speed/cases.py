"""What stands around the gradient of one batch: a reinforcement learner's update of many networks, and a single step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from experiments.speed.measure import Program, compiled, difference
from experiments.speed.peers import equinox_cell, flax_nnx, flax_nnx_step
from experiments.speed.problem import Candidate, Shape, posed


def policy_updates(steps: int, actors: int, networks: int, units: int, peers: Sequence[str], seed: int) -> dict[str, Program]:
    """One Adam step of each of several networks, on its own episodes that begin anew here and there, as recurrent PPO makes it: by
    `gj.unroll(resets=…)`, by autodiff of the same, and by Flax' cell in a scan with a `where`, as PureJaxRL writes it. The first
    network's gradients are compared first."""
    cell, inputs = gj.gru(reset_after=True), 32
    problems = [posed(cell, Shape(steps, actors, inputs, units), networks * seed + network) for network in range(networks)]
    resets = jax.random.bernoulli(jax.random.key(networks + seed), 0.02, (networks, steps, actors))
    data = jnp.stack([problem.xs for problem in problems]), jnp.stack([problem.weights for problem in problems]), resets
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(3e-4))

    def ours(how: Any) -> list[Candidate]:
        def loss(params: Any, xs: Any, weights: Any, resets: Any) -> jax.Array:
            return (gj.unroll(cell, params, xs, resets=resets, derivative=how)[1] * weights).sum()

        return [Candidate(loss, problem.params, lambda params: params) for problem in problems]

    candidates = {"ours": ours("adjoint"), "autodiff": ours("autodiff")}
    if "Flax NNX" in peers:
        step_of, _ = flax_nnx_step(problems[0])

        def loss(state: Any, xs: Any, weights: Any, resets: Any) -> jax.Array:
            step = lambda h, at: step_of(state)(jnp.where(at[1][:, None], 0, h), at[0])
            return (jax.lax.scan(step, jnp.zeros(weights.shape[1:]), (xs, resets))[1] * weights).sum()

        candidates["Flax NNX"] = [flax_nnx(problem, checkpointed=False)._replace(loss=loss) for problem in problems]

    def update_of(loss: Any, trees: Sequence[Any]) -> Program:
        def update(tree: Any, state: Any, *data: Any) -> Any:
            updates, state = optimizer.update(jax.grad(loss)(tree, *data), state, tree)
            return optax.apply_updates(tree, updates), state

        many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        return compiled(jax.vmap(update), many, jax.vmap(optimizer.init)(many), *data)

    first = [part[0] for part in data]
    gradients = {name: jax.jit(jax.grad(each[0].loss))(each[0].tree, *first) for name, each in candidates.items()}
    differences = {name: difference(candidates[name][0], one, gradients["autodiff"]) for name, one in gradients.items()}
    assert all(error < 1e-3 for error in differences.values()), differences
    return {name: update_of(each[0].loss, [candidate.tree for candidate in each]) for name, each in candidates.items()}


def single_steps(sequences: int, units: int, peers: Sequence[str], seed: int) -> dict[str, Program]:
    """One step of a cell, as an actor or a server calls it: with its weights as arguments, of which each costs time, or fixed in the
    program. The new states are compared first."""
    cell = gj.gru(reset_after=True)
    problem = posed(cell, Shape(1, sequences, 16, units), seed)
    h, x = problem.weights[0], problem.xs[0]
    fixed = "weights fixed"
    found = {
        "ours": compiled(cell.step, problem.params, h, x),
        f"ours, {fixed}": compiled(partial(cell.step, problem.params), h, x),
    }
    if "Flax NNX" in peers:
        step_of, state = flax_nnx_step(problem)
        of_flax = lambda state, h, x: step_of(state)(h, x)
        found |= {"Flax NNX": compiled(of_flax, state, h, x), f"Flax NNX, {fixed}": compiled(partial(of_flax, state), h, x)}
    if "Equinox" in peers:
        arrays, cell_of = equinox_cell(problem)
        of_equinox = lambda arrays, h, x: jax.vmap(cell_of(arrays))(x, h)
        found |= {
            "Equinox": compiled(of_equinox, arrays, h, x),
            f"Equinox, {fixed}": compiled(partial(of_equinox, arrays), h, x),
        }
    states = [jax.tree.leaves(program.call(*program.arguments))[0] for program in found.values()]
    for state in states:
        np.testing.assert_allclose(state, states[0], rtol=1e-5, atol=1e-5)
    return found

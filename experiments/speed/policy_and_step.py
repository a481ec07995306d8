"""Programs other than the gradient of one batch: a policy update, and a single step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from experiments.speed.measure import Program, compile_program, difference
from experiments.speed.peers import equinox_cell, flax_nnx, flax_nnx_step
from experiments.speed.problem import Candidate, Shape, random_problem


def policy_updates(steps: int, actors: int, networks: int, units: int, peers: Sequence[str], seed: int) -> dict[str, Program]:
    """Compiles one Adam step of several recurrent policies, as recurrent PPO makes it.

    Each network has its own episodes, which restart at random steps. The programs are
    `gj.unroll(resets=…)`, autodiff of the same, and Flax's cell in a scan with a `where`, as
    PureJaxRL writes it. The gradients of the first network are compared first.

    Args:
        steps: Steps of an episode.
        actors: Sequences per network.
        networks: Number of networks.
        units: Units of each network.
        peers: Names of the libraries to compare with.
        seed: Seed of all random numbers.
    """
    cell, inputs = gj.gru(reset_after=True), 32
    problems = [
        random_problem(cell, Shape(steps, actors, inputs, units), networks * seed + network) for network in range(networks)
    ]
    resets = jax.random.bernoulli(jax.random.key(networks + seed), 0.02, (networks, steps, actors))
    data = jnp.stack([problem.xs for problem in problems]), jnp.stack([problem.weights for problem in problems]), resets
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(3e-4))

    def ours(derivative: Any) -> list[Candidate]:
        def loss(params: Any, xs: Any, weights: Any, resets: Any) -> jax.Array:
            return (gj.unroll(cell, params, xs, resets=resets, derivative=derivative)[1] * weights).sum()

        return [Candidate(loss, problem.params, lambda params: params) for problem in problems]

    candidates = {"ours": ours(gj.CustomVJP()), "autodiff": ours(gj.Autodiff())}
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
        return compile_program(jax.vmap(update), many, jax.vmap(optimizer.init)(many), *data)

    first = [part[0] for part in data]
    gradients = {name: jax.jit(jax.grad(each[0].loss))(each[0].tree, *first) for name, each in candidates.items()}
    differences = {name: difference(candidates[name][0], one, gradients["autodiff"]) for name, one in gradients.items()}
    assert all(error < 1e-3 for error in differences.values()), differences
    return {name: update_of(each[0].loss, [candidate.tree for candidate in each]) for name, each in candidates.items()}


def single_steps(sequences: int, units: int, peers: Sequence[str], seed: int) -> dict[str, Program]:
    """Compiles one step of a cell, as an actor or a server calls it.

    There are two kinds of programs. In one the weights are arguments, each of which costs time, and
    in the other they are constants. The new states are compared first.

    Args:
        sequences: Number of sequences.
        units: Units of the cell.
        peers: Names of the libraries to compare with.
        seed: Seed of all random numbers.
    """
    cell = gj.gru(reset_after=True)
    problem = random_problem(cell, Shape(1, sequences, 16, units), seed)
    h, x = problem.weights[0], problem.xs[0]
    fixed = "weights fixed"
    found = {
        "ours": compile_program(cell.step, problem.params, h, x),
        f"ours, {fixed}": compile_program(partial(cell.step, problem.params), h, x),
    }
    if "Flax NNX" in peers:
        step_of, state = flax_nnx_step(problem)
        flax_step = lambda state, h, x: step_of(state)(h, x)
        found |= {
            "Flax NNX": compile_program(flax_step, state, h, x),
            f"Flax NNX, {fixed}": compile_program(partial(flax_step, state), h, x),
        }
    if "Equinox" in peers:
        arrays, cell_of = equinox_cell(problem)
        equinox_step = lambda arrays, h, x: jax.vmap(cell_of(arrays))(x, h)
        found |= {
            "Equinox": compile_program(equinox_step, arrays, h, x),
            f"Equinox, {fixed}": compile_program(partial(equinox_step, arrays), h, x),
        }
    states = [jax.tree.leaves(program.call(*program.arguments))[0] for program in found.values()]
    for state in states:
        np.testing.assert_allclose(state, states[0], rtol=1e-5, atol=1e-5)
    return found

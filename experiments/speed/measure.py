"""Compiles, compares and times programs.

The programs take turns, so that other load on the machine affects all of them.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.problem import Candidate, Problem

MIN_SECONDS = 0.02  # A measurement repeats the program until it takes at least this long.


class Program(NamedTuple):
    """A compiled function and its arguments.

    Attributes:
        call: The compiled function.
        arguments: Its arguments.
        compile_seconds: Time to trace and compile it.
        temp_mib: Memory for temporaries in MiB, without arguments and results.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    compile_seconds: float
    temp_mib: float


def compile_program(function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles `jax.jit(function)` for these arguments."""
    began = time.perf_counter()
    call = function if hasattr(function, "lower") else jax.jit(function)
    program = call.lower(*arguments).compile()
    seconds = time.perf_counter() - began
    analysis = program.memory_analysis()
    return Program(program, arguments, seconds, analysis.temp_size_in_bytes / 2**20)


def gradient_program(candidate: Candidate, problem: Problem, argnums: Any = 0) -> Program:
    """Compiles the gradient of a candidate's loss with respect to its arguments `argnums`."""
    return compile_program(jax.grad(candidate.loss, argnums), *_arguments(candidate, problem))


def forward_program(candidate: Candidate, problem: Problem) -> Program:
    """Compiles the loss alone."""
    return compile_program(candidate.loss, *_arguments(candidate, problem))


def _arguments(candidate: Candidate, problem: Problem) -> tuple[Any, jax.Array, jax.Array]:
    """Returns the arguments of a candidate's loss, in the candidate's layout."""
    to_layout = (lambda a: jnp.swapaxes(a, 0, 1)) if candidate.batch_major else (lambda a: a)
    return candidate.tree, to_layout(problem.xs), to_layout(problem.weights)


def difference(candidate: Candidate, gradient: Any, reference: Any) -> float:
    """Returns the error of a candidate's gradient, relative to the largest entry of each array.

    The candidate's gradient has the candidate's tree, and the reference has the tree of our params.
    The transpose of the weight conversion maps the reference to the candidate's tree. That is right
    also where the conversion adds two biases of the candidate.
    """
    params, transpose = jax.vjp(candidate.as_params, candidate.tree)
    (expected,) = transpose(type(params)(*map(_if_present, params, reference)))
    return relative_difference(gradient, expected)


def relative_difference(tree: Any, reference: Any) -> float:
    """Returns the largest error of an entry relative to the largest entry of its array.

    NaN if either tree holds a NaN.
    """
    one, other = ([jnp.asarray(leaf, jnp.float32) for leaf in jax.tree.leaves(part)] for part in (tree, reference))
    assert [leaf.shape for leaf in one] == [leaf.shape for leaf in other]
    worst = lambda one, other: jnp.abs(one - other).max() / jnp.maximum(jnp.abs(other).max(), 1e-30)
    return float(np.max([worst(*pair) for pair in zip(one, other, strict=True)]))  # unlike Python's max, np.max returns NaN


def _if_present(field: Any, gradient: Any) -> Any:
    """Returns the gradient of a field, or None if the candidate lacks the field.

    Some libraries have no such bias.
    """
    return None if field is None else gradient


def seconds_per_call(program: Program, calls: int = 1, *, queued: bool = True) -> float:
    """Times a program.

    With `queued`, the next call is dispatched while the previous one runs, as in a training loop.
    """
    began = time.perf_counter()
    for _ in range(calls):
        result = program.call(*program.arguments)
        if not queued:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / calls


def interleaved(programs: Mapping[str, Program], rounds: int, queued: bool = True) -> dict[str, dict[str, float]]:
    """Times programs in turns.

    Args:
        programs: The programs by name.
        rounds: Number of rounds. Long programs get fewer, but at least five.
        queued: Whether to dispatch the next call while the previous one runs. Must be False for
            programs with collectives between CPU devices, which would wait for each other's
            threads. Defaults to True.

    Returns:
        For each program, the median milliseconds over the rounds with their quartiles, the seconds
        to compile, the MiB of temporaries, and the number of rounds.
    """
    for program in programs.values():
        seconds_per_call(program)
    first = {name: seconds_per_call(program) for name, program in programs.items()}
    rounds = min(rounds, max(5, int(10 / sum(max(seconds, MIN_SECONDS) for seconds in first.values()))))
    times: dict[str, list[float]] = {name: [] for name in programs}
    names = list(programs)
    order = np.random.default_rng(0)  # Random, so that no program always follows one that leaves the cache warm.
    for _ in range(rounds):
        for name in order.permutation(names):
            times[name].append(seconds_per_call(programs[name], max(1, int(MIN_SECONDS / first[name])), queued=queued))
    found = {}
    for name, program in programs.items():
        low, _, high = statistics.quantiles(times[name], n=4)
        ms = {"ms": statistics.median(times[name]), "ms_low": low, "ms_high": high}
        found[name] = {key: round(1e3 * value, 5) for key, value in ms.items()} | {
            "compile_s": round(program.compile_seconds, 3),
            "temp_mib": round(program.temp_mib, 4),
            "rounds": rounds,
        }
    return found


def matmul_rate() -> float:
    """Measures the operations per second of a 2048³ matmul in float32."""
    size = 2048
    a, b = (jax.random.normal(jax.random.key(seed), (size, size)) for seed in (0, 1))
    program = compile_program(lambda a, b: a @ b, a, b)
    seconds_per_call(program)
    return 2 * size**3 / min(seconds_per_call(program) for _ in range(9))

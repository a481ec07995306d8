"""Compiling, comparing and timing: candidates take turns, so that what slows the machine slows them all."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.problem import Candidate, Problem

LEAST = 0.02  # seconds of one measurement: as many calls as it takes


class Program(NamedTuple):
    """A compiled function and what it is called with."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    compile_seconds: float  # tracing and compiling
    temp_mib: float  # what it needs beside arguments and results


def compiled(function: Callable[..., Any], *arguments: Any) -> Program:
    """`jax.jit(function)` for these arguments."""
    began = time.perf_counter()
    call = function if hasattr(function, "lower") else jax.jit(function)
    program = call.lower(*arguments).compile()
    seconds = time.perf_counter() - began
    analysis = program.memory_analysis()
    return Program(program, arguments, seconds, analysis.temp_size_in_bytes / 2**20)


def gradient_program(candidate: Candidate, problem: Problem, argnums: Any = 0) -> Program:
    """The gradient of a candidate's loss by its weights, or by what `argnums` says."""
    return compiled(jax.grad(candidate.loss, argnums), *_arguments(candidate, problem))


def forward_program(candidate: Candidate, problem: Problem) -> Program:
    """The loss alone."""
    return compiled(candidate.loss, *_arguments(candidate, problem))


def _arguments(candidate: Candidate, problem: Problem) -> tuple[Any, jax.Array, jax.Array]:
    """Of its loss, laid out as it wants them."""
    turned = (lambda a: jnp.swapaxes(a, 0, 1)) if candidate.batch_major else (lambda a: a)
    return candidate.tree, turned(problem.xs), turned(problem.weights)


def difference(candidate: Candidate, gradient: Any, reference: Any) -> float:
    """How far a candidate's gradient, in its own tree, is from a reference in our params: the largest error of an entry over its
    array's largest. Our gradient goes over by the transpose of the weights' way here, for two biases may have become one."""
    params, pull = jax.vjp(candidate.as_params, candidate.tree)
    (expected,) = pull(type(params)(*map(_where, params, reference)))
    return relative_difference(gradient, expected)


def relative_difference(tree: Any, reference: Any) -> float:
    """The largest error of an entry over its array's largest; NaN where there is one in either."""
    one, other = ([jnp.asarray(leaf, jnp.float32) for leaf in jax.tree.leaves(part)] for part in (tree, reference))
    assert [leaf.shape for leaf in one] == [leaf.shape for leaf in other]
    worst = lambda one, other: jnp.abs(one - other).max() / jnp.maximum(jnp.abs(other).max(), 1e-30)
    return float(np.max([worst(*pair) for pair in zip(one, other, strict=True)]))  # Python's max would pass over a NaN


def _where(own: Any, bar: Any) -> Any:
    """The gradient of a field that the library has too; some lack a bias."""
    return None if own is None else bar


def once(program: Program, calls: int = 1, queued: bool = True) -> float:
    """Seconds per call, the next one queued while one runs, as in a training loop."""
    began = time.perf_counter()
    for _ in range(calls):
        result = program.call(*program.arguments)
        if not queued:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / calls


def interleaved(programs: Mapping[str, Program], rounds: int, queued: bool = True) -> dict[str, dict[str, float]]:
    """Milliseconds by name: the median over rounds, quartiles; compile time and temporaries beside them. Long ones get fewer rounds.
    Programs with collectives between CPU devices must not be queued: two of them wait for each other's threads."""
    for program in programs.values():
        once(program)
    first = {name: once(program) for name, program in programs.items()}
    rounds = min(rounds, max(5, int(10 / sum(max(seconds, LEAST) for seconds in first.values()))))
    times: dict[str, list[float]] = {name: [] for name in programs}
    names = list(programs)
    order = np.random.default_rng(0)  # so that nobody always runs after a program that leaves the cache as it likes it
    for _ in range(rounds):
        for name in order.permutation(names):
            times[name].append(once(programs[name], max(1, int(LEAST / first[name])), queued))
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
    """Floating-point operations per second of a 2048³ matmul in float32 on this device."""
    size = 2048
    a, b = (jax.random.normal(jax.random.key(seed), (size, size)) for seed in (0, 1))
    program = compiled(lambda a, b: a @ b, a, b)
    once(program)
    return 2 * size**3 / min(once(program) for _ in range(9))

"""Compiles a function once per set of shapes, and runs it with results on the host."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax import config
from gru_jax.verify import budget
from gru_jax.verify.errors import VALUE_NEEDED
from gru_jax.verify.function import Arrays
from gru_jax.verify.precision import Precision


class Program(NamedTuple):
    """A compiled program.

    Attributes:
        run: The compiled function, or the function itself if it cannot be compiled.
        key: Identifies equal programs in this process. Empty if the program must not be shared.
    """

    run: Any
    key: str


class Runner:
    """Runs a function of (leaves, non-differentiable arguments, …) in one precision.

    The first call with a set of shapes compiles the function for them.
    """

    def __init__(self, function: Callable[..., Any], precision: Precision) -> None:
        self.function, self.precision, self.nondiff_args = function, precision, precision.nondiff_args
        self._programs: dict[str, Program] = {}

    def __call__(self, leaves: Sequence[Any], *rest: Any) -> Any:
        """Casts the float64 `leaves` to the precision, runs, and returns results in float64."""
        return self.run(self.program(leaves, *rest), leaves, *rest)

    def run(self, program: Program, leaves: Sequence[Any], *rest: Any) -> Any:
        """Runs `program`, which takes the arguments of the function, like a call of the runner."""
        budget.check()
        with self.precision.active():
            leaves, rest = self._cast(leaves, rest)
            return jax.tree.map(to_host, program.run(leaves, self.nondiff_args, *rest))

    def program(self, leaves: Sequence[Any], *rest: Any) -> Program:
        """Returns the compiled program for the shapes of these arguments."""
        shapes = str(jax.tree.map(np.shape, (leaves, rest)))
        if shapes not in self._programs:
            with self.precision.active():
                leaves, rest = self._cast(leaves, rest)
                self._programs[shapes] = compile_program(self.function, leaves, self.nondiff_args, *rest)
        return self._programs[shapes]

    def _cast(self, leaves: Sequence[Any], rest: Any) -> tuple[Arrays, Any]:
        cast_leaves = tuple(np.asarray(leaf, dtype) for leaf, dtype in zip(leaves, self.precision.leaf_dtypes, strict=True))
        return cast_leaves, jax.tree.map(lambda x: np.asarray(x, np.float64 if config.x64() else np.float32), rest)


def to_host(x: Any) -> Any:
    """Moves an array to the host. Floating arrays become float64, and PRNG keys their key data."""
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return np.asarray(jax.random.key_data(x))
    x = np.asarray(x)
    return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def compile_program(function: Callable[..., Any], *args: Any) -> Program:
    """Compiles `function` for the shapes of `args`. A process compiles equal programs only once.

    Programs are equal if they lower to the same text, constants included. It is not enough that the
    function is the same object, because the values that it closes over may have changed. A program
    that calls back into Python is never shared, because its text does not identify the callback.

    A function with a rule that needs the values of arrays, for example for a call of NumPy, cannot be
    compiled. It runs without `jit`.
    """
    with budget.compiling():
        try:
            lowered = jax.jit(function).lower(*args)
        except VALUE_NEEDED:
            return Program(function, "")
        text = lowered.as_text()
        if "callback" in text or config.constants_are_arguments():
            return Program(lowered.compile(), "")
        key = hashlib.sha256(f"{text} {jax.tree.structure(args)} {lowered.out_tree}".encode()).hexdigest()
        return _cached(key, lambda: Program(lowered.compile(), key))


def derive_program(program: Program, name: str, make: Callable[[], Program]) -> Program:
    """Returns `make()`, a program derived from `program`. Equal programs share the result.

    Args:
        program: The original program.
        name: Distinguishes this derived program from others of the same original.
        make: Makes the derived program.
    """
    return _cached(f"{name} of {program.key}", make) if program.key else make()


_CACHE_SIZE = 256
_cache: OrderedDict[str, Program] = OrderedDict()  # the least recently used program comes first


def clear() -> None:
    """Forgets all compiled programs, for example to measure how long a verification takes."""
    _cache.clear()


def _cached(key: str, make: Callable[[], Program]) -> Program:
    if key not in _cache:
        _cache[key] = make()
        if len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return _cache[key]

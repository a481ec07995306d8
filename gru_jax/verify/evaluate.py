"""Running a function and its derivative in one precision: compiled once per shape, results in float64 on the host."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax import config
from gru_jax.verify.subject import Arrays

Flat = Callable[[Sequence[Any], Sequence[Any]], tuple[Arrays, Arrays]]


class Precision(NamedTuple):
    """The precision of a run: what it is called, whether it needs x64, its rounding unit."""

    name: str
    x64: bool
    eps: float

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Everything is traced and run in here; the caller's settings are as before afterwards."""
        with jax.enable_x64(self.x64), jax.default_matmul_precision("highest"), jax.debug_nans(False), jax.disable_jit(False):
            yield


class Evaluated(NamedTuple):
    """What one run of a gradient gives, all in float64 on the host but `others`."""

    outputs: Arrays  # of the function
    others: Arrays  # its outputs of integers and booleans
    forward: Arrays  # the outputs as the forward rule returns them
    bars: Arrays  # the cotangents of the leaves


def value_and_gradient(flat: Flat) -> Callable[..., tuple[Arrays, Arrays]]:
    """(leaves, passengers, cotangents) ↦ (outputs of the forward rule, cotangents of the leaves)."""

    def run(leaves, passengers, cotangents):
        forward, pull = jax.vjp(lambda *leaves: flat(leaves, passengers)[0], *leaves)
        return forward, pull(tuple(u.astype(y.dtype) for u, y in zip(cotangents, forward, strict=True)))

    return run


def gradient(flat: Flat) -> Callable[..., tuple[Arrays, Arrays, Arrays, Arrays]]:
    """(leaves, passengers, cotangents) ↦ what `Evaluated` holds."""
    return lambda leaves, passengers, us: (*flat(leaves, passengers), *value_and_gradient(flat)(leaves, passengers, us))


def gradient_alone(flat: Flat) -> Callable[..., Arrays]:
    """(leaves, passengers, cotangents) ↦ cotangents of the leaves."""
    return lambda leaves, passengers, cotangents: value_and_gradient(flat)(leaves, passengers, cotangents)[1]


class Program(NamedTuple):
    """A compiled program, and what it is known by if equal ones may share it."""

    run: Any
    key: str


class Runner:
    """A function of (leaves, passengers, …) in one precision; compiled at the first call with each set of shapes."""

    def __init__(self, function: Callable[..., Any], precision: Precision, dtypes: Sequence[Any], passengers: Arrays) -> None:
        self.function, self.precision, self.dtypes, self.passengers = function, precision, dtypes, passengers
        self.programs: dict[str, Program] = {}

    def __call__(self, leaves: Sequence[Any], *rest: Any) -> Any:
        """The function at float64 `leaves`, which are rounded to the precision's dtypes; its results in float64."""
        return self.run(self.program(leaves, *rest), leaves, *rest)

    def run(self, program: Program, leaves: Sequence[Any], *rest: Any) -> Any:
        """The same by another program of the same arguments."""
        with self.precision():
            leaves, rest = self._prepared(leaves, rest)
            return jax.tree.map(to_host, program.run(leaves, self.passengers, *rest))

    def program(self, leaves: Sequence[Any], *rest: Any) -> Program:
        """The program that a call with these arguments runs."""
        shapes = str(jax.tree.map(np.shape, (leaves, rest)))
        if shapes not in self.programs:
            with self.precision():
                leaves, rest = self._prepared(leaves, rest)
                self.programs[shapes] = compiled(self.function, leaves, self.passengers, *rest)
        return self.programs[shapes]

    def _prepared(self, leaves: Sequence[Any], rest: Any) -> tuple[Arrays, Any]:
        return tuple(np.asarray(leaf, dtype) for leaf, dtype in zip(leaves, self.dtypes, strict=True)), jax.tree.map(
            _float, rest
        )


def _float(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64 if config.x64() else np.float32)


def to_host(x: Any) -> Any:
    """A floating array in float64, any other as it is, on the host."""
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return np.asarray(jax.random.key_data(x))
    x = np.asarray(x)
    return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


_programs: OrderedDict[str, Program] = OrderedDict()
_PROGRAMS_KEPT = 256


def compiled(function: Callable[..., Any], *args: Any) -> Program:
    """`function` compiled for the shapes of `args`. Equal programs are compiled once in a process.

    Equal by the text they lower to, constants included: what a function closes over may have changed since the last call, so its
    identity would not do. A program that calls back into Python is never shared: its text does not tell which function it calls.
    """
    lowered = jax.jit(function).lower(*args)
    text = lowered.as_text()
    if "callback" in text or config.constants_are_arguments():
        return Program(lowered.compile(), "")
    key = hashlib.sha256(f"{text} {jax.tree.structure(args)} {lowered.out_tree}".encode()).hexdigest()
    return _kept(key, lambda: Program(lowered.compile(), key))


def derived(program: Program, what: str, make: Callable[[], Program]) -> Program:
    """A program that is made from another: once for equal ones."""
    return _kept(f"{what} of {program.key}", make) if program.key else make()


def _kept(key: str, make: Callable[[], Program]) -> Program:
    if key not in _programs:
        _programs[key] = make()
        if len(_programs) > _PROGRAMS_KEPT:
            _programs.popitem(last=False)
    _programs.move_to_end(key)
    return _programs[key]

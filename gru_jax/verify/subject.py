"""What is verified: a function and its arguments, seen as a function of a flat tuple of real arrays.

Leaves of the arguments are of three kinds: differentiable (floating or complex), passengers (arrays of integers, booleans or
keys, traced but not differentiated) and statics (all else, and passengers whose values the function needs in Python).
A complex array stands as its real and imaginary parts, on a new last axis: its derivative is then that of real arrays.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Arrays = tuple[Any, ...]


class Subject(NamedTuple):
    """A function as `flat(leaves, passengers) → (outputs, other outputs)`, with the names of its leaves and outputs."""

    fun: Callable[..., Any]
    structure: Any  # of the arguments
    kinds: tuple[str, ...]  # of each leaf of the arguments
    statics: tuple[Any, ...]
    leaves: Arrays  # differentiable, in the caller's dtypes, complex ones as given
    passengers: Arrays
    names: tuple[str, ...]  # of the differentiable leaves
    output_names: tuple[str, ...]  # of the differentiable outputs

    def flat(self, leaves: Sequence[Any], passengers: Sequence[Any]) -> tuple[Arrays, Arrays]:
        """The function of real leaves: its floating outputs, real, and its other outputs."""
        complex_ones = [jnp.iscomplexobj(given) for given in self.leaves]
        leaves = [jax.lax.complex(x[..., 0], x[..., 1]) if z else x for x, z in zip(leaves, complex_ones, strict=True)]
        outputs = jax.tree.leaves(self.call(leaves, passengers))
        inexact = [jnp.issubdtype(jnp.result_type(y), jnp.inexact) for y in outputs]
        return (
            tuple(_as_real(y) for y, is_inexact in zip(outputs, inexact, strict=True) if is_inexact),
            tuple(y for y, is_inexact in zip(outputs, inexact, strict=True) if not is_inexact),
        )

    def call(self, leaves: Sequence[Any], passengers: Sequence[Any]) -> Any:
        """The function as the user wrote it."""
        feeds = {"leaf": iter(leaves), "passenger": iter(passengers), "static": iter(self.statics)}
        return self.fun(*jax.tree.unflatten(self.structure, [next(feeds[kind]) for kind in self.kinds]))

    def arguments(self) -> list[str]:
        """The name of the argument each leaf belongs to."""
        return [name.replace("[", ".").split(".")[0] for name in self.names]


def subject(fun: Callable[..., Any], args: tuple[Any, ...]) -> Subject:
    """`fun` at `args`. Raises TypeError or ValueError where there is nothing to differentiate or the inputs are not finite."""
    if not callable(fun):
        raise TypeError(
            f"fun must be a function, got {fun!r}; pass the function and its arguments apart: verify_vjp(fun, *args)"
        )
    paths_and_leaves, structure = jax.tree.flatten_with_path(args)
    everything = [leaf for _, leaf in paths_and_leaves]
    names = _names(fun, [path for path, _ in paths_and_leaves])
    kinds = [_kind(leaf) for leaf in everything]
    if "leaf" not in kinds:
        raise ValueError(f"no argument of {describe(fun)} is a floating array, so there is no derivative; got {args!r}")
    pick = lambda kind: tuple(leaf for leaf, k in zip(everything, kinds, strict=True) if k == kind)
    made = Subject(
        fun,
        structure,
        tuple(kinds),
        pick("static"),
        tuple(jnp.asarray(leaf) for leaf in pick("leaf")),
        tuple(jnp.asarray(leaf) for leaf in pick("passenger")),
        tuple(name for name, kind in zip(names, kinds, strict=True) if kind == "leaf"),
        (),
    )
    for name, leaf in zip(made.names, made.leaves, strict=True):
        if not np.isfinite(_exactly_wide(leaf)).all():
            raise ValueError(
                f"{name} holds NaN or infinity; verify at finite inputs (the check `edges` plants NaN and infinity itself)"
            )
    made, outputs = _trace(made, everything)
    found = [
        "out" + jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(outputs)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    if not found:
        raise ValueError(f"{describe(fun)} returns no floating array, so there is no derivative; it returned {outputs}")
    return made._replace(output_names=tuple(found))


def widened(leaves: Sequence[Any]) -> Arrays:
    """The leaves in float64, exactly, complex ones as pairs."""
    return tuple(_exactly_wide(leaf) for leaf in leaves)


def describe(fun: Any) -> str:
    """A name for a function, partial, bound method or jitted function."""
    while hasattr(fun, "func"):
        fun = fun.func
    return getattr(fun, "__qualname__", None) or getattr(fun, "__name__", None) or repr(fun)


def _trace(made: Subject, everything: list[Any]) -> tuple[Subject, Any]:
    """The subject and the shapes of its outputs; passengers whose values Python needs become statics."""
    try:
        return made, jax.eval_shape(made.call, made.leaves, made.passengers)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerIntegerConversionError,
        jax.errors.NonConcreteBooleanIndexError,
    ):
        if not made.passengers:
            raise
    kinds = tuple("static" if kind == "passenger" else kind for kind in made.kinds)
    statics = tuple(leaf for leaf, kind in zip(everything, kinds, strict=True) if kind == "static")
    made = made._replace(kinds=kinds, statics=statics, passengers=())
    return made, jax.eval_shape(made.call, made.leaves, ())


def _kind(leaf: Any) -> str:
    if isinstance(leaf, bool | int):
        return "static"
    if isinstance(leaf, float | complex):
        return "leaf"
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return "static"
    return "leaf" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "passenger"


def _names(fun: Any, paths: list[Any]) -> list[str]:
    """A leaf's argument by the name in the signature, and its path inside: params.U_h, xs, args[2]['w']."""
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    argument = lambda i: positional[i] if i < len(positional) else f"args[{i}]"
    return [argument(path[0].idx) + jax.tree_util.keystr(path[1:]) for path in paths]


def _as_real(x: Any) -> Any:
    return jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x


def _exactly_wide(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    if np.iscomplexobj(leaf):
        leaf = np.stack([leaf.real, leaf.imag], axis=-1)
    return leaf.astype(np.float64)

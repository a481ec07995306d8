"""The function to verify and its arguments, as a function of a flat tuple of real arrays.

`flatten_function` sorts the leaves of the arguments into three kinds:

    differentiable       floating and complex arrays, and Python floats and complex numbers
    non-differentiable   arrays of integers, booleans or PRNG keys, which JAX traces
    static               everything else, and integer arrays whose values Python code needs

A complex array is represented by its real and imaginary parts on a new last axis. So all
derivatives are taken with respect to real arrays.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Arrays = tuple[Any, ...]
Kind = Literal["differentiable", "non-differentiable", "static"]

# Raised by JAX where Python code needs the value of a traced array.
_VALUE_NEEDED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class Outputs(NamedTuple):
    """The outputs of a function, split by whether they have a derivative.

    Attributes:
        floating: Floating outputs. Complex ones are pairs of real numbers on a last axis.
        other: Integer, boolean and key outputs.
    """

    floating: Arrays
    other: Arrays


RealFunction = Callable[[Sequence[Any], Sequence[Any]], Outputs]  # (leaves, non-differentiable arguments) ↦ outputs


@dataclass(frozen=True)
class FlatFunction:
    """A function together with its arguments, split by kind.

    Attributes:
        fun: The function as the user wrote it.
        structure: Tree structure of the arguments.
        kinds: Kind of each leaf of the arguments.
        leaves: Differentiable leaves, in the dtypes that the user passed.
        nondiff_args: Non-differentiable arrays.
        static_args: Static arguments.
        leaf_names: Names of the differentiable leaves, for example "params.U_h".
        output_names: Names of the floating outputs, for example "out[1]".
    """

    fun: Callable[..., Any]
    structure: Any
    kinds: tuple[Kind, ...]
    leaves: Arrays
    nondiff_args: Arrays
    static_args: tuple[Any, ...]
    leaf_names: tuple[str, ...]
    output_names: tuple[str, ...] = ()

    def call(self, leaves: Sequence[Any], nondiff_args: Sequence[Any]) -> Any:
        """Calls the function with these leaves and its own static arguments."""
        by_kind: dict[Kind, Any] = {
            "differentiable": iter(leaves),
            "non-differentiable": iter(nondiff_args),
            "static": iter(self.static_args),
        }
        return self.fun(*jax.tree.unflatten(self.structure, [next(by_kind[kind]) for kind in self.kinds]))

    def call_real(self, leaves: Sequence[Any], nondiff_args: Sequence[Any]) -> Outputs:
        """Calls the function with complex leaves and outputs as pairs of real numbers."""
        is_complex = [jnp.iscomplexobj(given) for given in self.leaves]
        leaves = [jax.lax.complex(x[..., 0], x[..., 1]) if z else x for x, z in zip(leaves, is_complex, strict=True)]
        outputs = jax.tree.leaves(self.call(leaves, nondiff_args))
        return Outputs(
            floating=tuple(_as_real(y) for y in outputs if is_floating(y)),
            other=tuple(y for y in outputs if not is_floating(y)),
        )

    def argument_names(self) -> list[str]:
        """Returns, for each differentiable leaf, the name of the argument that contains it."""
        return [name.replace("[", ".").split(".")[0] for name in self.leaf_names]

    @property
    def name(self) -> str:
        """The name of the function."""
        return function_name(self.fun)


def flatten_function(fun: Callable[..., Any], args: tuple[Any, ...]) -> FlatFunction:
    """Sorts the leaves of `args` by kind, names them, and traces `fun` once to name its outputs.

    Raises:
        TypeError: If `fun` is not callable.
        ValueError: If no argument or no output is a floating array, or if an argument contains NaN
            or infinity.
    """
    if not callable(fun):
        raise TypeError(f"fun must be a function, got {fun!r}; call verify_vjp(fun, *args), not verify_vjp(fun(*args))")
    paths_and_leaves, structure = jax.tree.flatten_with_path(args)
    everything = [leaf for _, leaf in paths_and_leaves]
    names = _leaf_names(fun, [path for path, _ in paths_and_leaves])
    kinds = tuple(_kind(leaf) for leaf in everything)
    if "differentiable" not in kinds:
        raise ValueError(
            f"args must contain a floating array, got {args!r:.300}; "
            f"cast the argument of {function_name(fun)} that needs a gradient to float32"
        )
    function = FlatFunction(
        fun=fun,
        structure=structure,
        kinds=kinds,
        leaves=tuple(jnp.asarray(leaf) for leaf in _of_kind("differentiable", everything, kinds)),
        nondiff_args=tuple(jnp.asarray(leaf) for leaf in _of_kind("non-differentiable", everything, kinds)),
        static_args=_of_kind("static", everything, kinds),
        leaf_names=_of_kind("differentiable", names, kinds),
    )
    for name, leaf in zip(function.leaf_names, function.leaves, strict=True):
        if not np.isfinite(_in_float64(leaf)).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity; the check `edges` inserts NaN and infinity itself")
    function, outputs = _trace(function, everything)
    output_names = tuple(
        "out" + jax.tree_util.keystr(path) for path, y in jax.tree_util.tree_leaves_with_path(outputs) if is_floating(y)
    )
    if not output_names:
        raise ValueError(
            f"fun must return a floating array to differentiate, but {function.name} returned {outputs}; "
            "integer and boolean outputs have no gradient"
        )
    return dataclasses.replace(function, output_names=output_names)


def in_float64(leaves: Sequence[Any]) -> Arrays:
    """Returns the leaves exactly, in float64. Complex entries become pairs of real numbers."""
    return tuple(_in_float64(leaf) for leaf in leaves)


def is_floating(x: Any) -> bool:
    """Returns whether `x` is floating or complex, so that it has a derivative."""
    return bool(jnp.issubdtype(x.dtype if hasattr(x, "dtype") else jnp.result_type(x), jnp.inexact))


def function_name(fun: Any) -> str:
    """Returns a name for a function, a partial, a bound method or a jitted function."""
    while hasattr(fun, "func"):
        fun = fun.func
    return getattr(fun, "__qualname__", None) or getattr(fun, "__name__", None) or repr(fun)


def _trace(function: FlatFunction, everything: Sequence[Any]) -> tuple[FlatFunction, Any]:
    """Returns the function and the shapes of its outputs.

    If Python code needs the value of a non-differentiable array, all such arrays become static.
    """
    try:
        return function, jax.eval_shape(function.call, function.leaves, function.nondiff_args)
    except _VALUE_NEEDED:
        if not function.nondiff_args:
            raise
    kinds = tuple("static" if kind == "non-differentiable" else kind for kind in function.kinds)
    function = dataclasses.replace(function, kinds=kinds, nondiff_args=(), static_args=_of_kind("static", everything, kinds))
    return function, jax.eval_shape(function.call, function.leaves, ())


def _of_kind(kind: Kind, items: Sequence[Any], kinds: Sequence[Kind]) -> tuple[Any, ...]:
    return tuple(item for item, own in zip(items, kinds, strict=True) if own == kind)


def _kind(leaf: Any) -> Kind:
    if isinstance(leaf, bool | int):
        return "static"
    if isinstance(leaf, float | complex):
        return "differentiable"
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return "static"
    return "differentiable" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "non-differentiable"


def _leaf_names(fun: Any, paths: Sequence[Any]) -> list[str]:
    """Names each leaf by its argument and its path in it, as in params.U_h, xs, args[2]['w']."""
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    argument = lambda i: positional[i] if i < len(positional) else f"args[{i}]"
    return [argument(path[0].idx) + jax.tree_util.keystr(path[1:]) for path in paths]


def _as_real(x: Any) -> Any:
    return jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x


def _in_float64(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    if np.iscomplexobj(leaf):
        leaf = np.stack([leaf.real, leaf.imag], axis=-1)
    return leaf.astype(np.float64)

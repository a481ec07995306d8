"""The function to verify and its arguments, as a function of a flat tuple of real arrays.

A complex array is represented by its real and imaginary parts on a new last axis. So all
derivatives are taken with respect to real arrays.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.verify.arguments import Kind, argument_of, sort_arguments
from gru_jax.verify.errors import VALUE_NEEDED

Arrays = tuple[Any, ...]


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
        structure: Tree structure of the arguments, (positional, keyword).
        kinds: Kind of each leaf of the arguments.
        leaves: Differentiable leaves, in the dtypes that the user passed.
        nondiff_args: Non-differentiable arrays.
        static_args: Static arguments.
        leaf_names: Names of the differentiable leaves, for example "params.U_h".
        nondiff_names: Names of the non-differentiable arrays.
        output_names: Names of the floating outputs, for example "out[1]".
        output_structure: Tree structure of the outputs.
    """

    fun: Callable[..., Any]
    structure: Any
    kinds: tuple[Kind, ...]
    leaves: Arrays
    nondiff_args: Arrays
    static_args: tuple[Any, ...]
    leaf_names: tuple[str, ...]
    nondiff_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    output_structure: Any = None

    def arguments(self, leaves: Sequence[Any], nondiff_args: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the positional and keyword arguments with these leaves."""
        by_kind: dict[Kind, Any] = {
            "differentiable": iter(leaves),
            "non-differentiable": iter(nondiff_args),
            "static": iter(self.static_args),
        }
        return jax.tree.unflatten(self.structure, [next(by_kind[kind]) for kind in self.kinds])

    def call(self, leaves: Sequence[Any], nondiff_args: Sequence[Any]) -> Any:
        """Calls the function with these leaves and its own static arguments."""
        args, kwargs = self.arguments(leaves, nondiff_args)
        return self.fun(*args, **kwargs)

    def call_real(self, leaves: Sequence[Any], nondiff_args: Sequence[Any]) -> Outputs:
        """Calls the function with complex leaves and outputs as pairs of real numbers."""
        outputs = jax.tree.leaves(self.call(self.as_given(leaves), nondiff_args))
        return Outputs(
            floating=tuple(as_real(y) for y in outputs if is_floating(y)),
            other=tuple(y for y in outputs if not is_floating(y)),
        )

    def as_given(self, leaves: Sequence[Any]) -> Arrays:
        """Returns real leaves with pairs of real numbers as complex ones, where they were given so."""
        is_complex = [jnp.iscomplexobj(given) for given in self.leaves]
        return tuple(jax.lax.complex(x[..., 0], x[..., 1]) if z else x for x, z in zip(leaves, is_complex, strict=True))

    def argument_names(self) -> list[str]:
        """Returns, for each differentiable leaf, the name of the argument that contains it."""
        return [argument_of(name) for name in self.leaf_names]

    @property
    def name(self) -> str:
        """The name of the function."""
        return function_name(self.fun)


def flatten_function(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    wrt: Sequence[str] | None = None,
    static: Sequence[str] = (),
) -> FlatFunction:
    """Sorts the leaves of the arguments by kind, names them, and traces `fun` once.

    Raises:
        TypeError: If `fun` is not callable.
        ValueError: If no argument or no output is a floating array, or if an argument contains NaN.
    """
    if not callable(fun):
        raise TypeError(f"fun must be a function, got {fun!r}; call verify_vjp(fun, *args), not verify_vjp(fun(*args))")
    given = sort_arguments(fun, args, kwargs or {}, wrt, static)
    if "differentiable" not in given.kinds:
        raise ValueError(
            f"args must contain a floating array, got {args!r:.300}; "
            f"cast the argument of {function_name(fun)} that needs a gradient to float32"
        )
    function = FlatFunction(
        fun=fun,
        structure=given.structure,
        kinds=given.kinds,
        leaves=tuple(jnp.asarray(leaf) for leaf in given.of_kind("differentiable")),
        nondiff_args=tuple(jnp.asarray(leaf) for leaf in given.of_kind("non-differentiable")),
        static_args=given.of_kind("static"),
        leaf_names=given.names_of_kind("differentiable"),
        nondiff_names=given.names_of_kind("non-differentiable"),
    )
    for name, leaf in zip(function.leaf_names, function.leaves, strict=True):
        if np.isnan(_in_float64(leaf)).any():
            raise ValueError(f"{name} must not contain NaN; the check `edges` inserts NaN itself")
    function, outputs = _trace(function, given.everything)
    output_names = tuple(
        "out" + jax.tree_util.keystr(path) for path, y in jax.tree_util.tree_leaves_with_path(outputs) if is_floating(y)
    )
    if not output_names:
        raise ValueError(
            f"fun must return a floating array to differentiate, but {function.name} returned {outputs}; "
            "integer and boolean outputs have no gradient"
        )
    return dataclasses.replace(function, output_names=output_names, output_structure=jax.tree.structure(outputs))


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


def as_real(x: Any) -> Any:
    """Returns a complex array as pairs of real numbers on a new last axis, and others unchanged."""
    return jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x


def _trace(function: FlatFunction, everything: Sequence[Any]) -> tuple[FlatFunction, Any]:
    """Returns the function and the shapes of its outputs.

    If Python code needs the value of a non-differentiable array, all such arrays become static.
    """
    try:
        return function, jax.eval_shape(function.call, function.leaves, function.nondiff_args)
    except VALUE_NEEDED:
        if not function.nondiff_args:
            raise
    kinds: tuple[Kind, ...] = tuple("static" if kind == "non-differentiable" else kind for kind in function.kinds)
    static = tuple(leaf for leaf, kind in zip(everything, kinds, strict=True) if kind == "static")
    function = dataclasses.replace(function, kinds=kinds, nondiff_args=(), nondiff_names=(), static_args=static)
    return function, jax.eval_shape(function.call, function.leaves, ())


def _in_float64(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    if np.iscomplexobj(leaf):
        leaf = np.stack([leaf.real, leaf.imag], axis=-1)
    return leaf.astype(np.float64)

"""Reads traced programs: the loops, matmuls and carries of a jaxpr, at any depth."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from gru_jax._jax.jaxprs import map_jaxprs


class Loop(NamedTuple):
    """A `lax.scan` in a program."""

    steps: int
    has_inner_loop: bool
    steps_around: int  # the product of the lengths of all loops around it
    carry_shapes: list[tuple[int, ...]]


def loops(jaxpr: Any, steps_around: int = 1) -> list[Loop]:
    """Returns every `lax.scan` of a jaxpr."""
    found: list[Loop] = []
    for equation in jaxpr.eqns:
        is_loop = equation.primitive.name == "scan"
        steps = equation.params["length"] if is_loop else 1
        inner = [loop for each in inner_jaxprs(equation) for loop in loops(each, steps_around * steps)]
        found += inner
        if is_loop:
            found.append(Loop(steps, bool(inner), steps_around, _carry_shapes(equation)))
    return found


def matmul_dtypes(jaxpr: Any) -> Iterator[tuple[str, ...]]:
    """Yields the dtypes of the operands and of the result of every matmul."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(str(variable.aval.dtype) for variable in (*equation.invars, *equation.outvars))
        for inner in inner_jaxprs(equation):
            yield from matmul_dtypes(inner)


def matmuls_per_loop(jaxpr: Any) -> list[int]:
    """Returns the number of matmuls in the body of every loop without an inner loop."""
    found: list[int] = []
    for equation in jaxpr.eqns:
        inner = list(inner_jaxprs(equation))
        if equation.primitive.name == "scan" and not any(loops(each) for each in inner):
            found.append(sum(len(list(matmul_dtypes(each))) for each in inner))
        else:
            found += [number for each in inner for number in matmuls_per_loop(each)]
    return found


def inner_jaxprs(equation: Any) -> list[Any]:
    """Returns the jaxprs among the parameters of an equation."""
    found: list[Any] = []

    def visit(jaxpr: Any) -> Any:
        found.append(jaxpr)
        return jaxpr

    for value in equation.params.values():
        map_jaxprs(visit, value)
    return found


def _carry_shapes(equation: Any) -> list[tuple[int, ...]]:
    """Returns the shapes of what a loop carries from step to step."""
    body = getattr(equation.params["jaxpr"], "jaxpr", equation.params["jaxpr"])
    pairs = zip(equation.outvars, body.outvars, strict=True)
    return [outer.aval.shape for outer, inner in pairs if outer.aval.shape == inner.aval.shape]

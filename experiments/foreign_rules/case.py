"""What a case is: a function with a rule, its arguments, and the truth about the rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

Function = Callable[..., Any]
Label = Literal["right", "no rule", "intended", "wrong", "invisible"]


@dataclass(frozen=True)
class Case:
    """A call of `verify_vjp`, and what it must say.

    Attributes:
        fun: The function.
        args: Its arguments.
        label: "right"; "no rule" if autodiff alone computes a right gradient; "intended" if the
            gradient is right only because the options say what is intended; "wrong"; or "invisible"
            if the rule is wrong and these arguments hide it.
        options: Options of `verify_vjp` that its user would pass.
        reveal: Arguments at which an invisible fault shows.
        tolerance: Relative error of differences that counts as agreement.
        exact: The exact gradients for cotangents of ones, by a formula or mpmath, in place of differences.
    """

    fun: Function
    args: tuple[Any, ...]
    label: Label
    options: Mapping[str, Any] = field(default_factory=dict)
    reveal: tuple[Any, ...] | None = None
    tolerance: float = 1e-5
    exact: Callable[..., Any] | None = None


def rule(primal: Function, backward: Function) -> Function:
    """Returns `primal` with the rule `backward(args, y, u)`, which returns a tuple of gradients."""
    is_plain = hasattr(primal, "__code__")  # functions of jax.numpy have static keyword arguments
    fun = jax.custom_vjp(primal if is_plain else lambda *args: primal(*args))
    fun.defvjp(lambda *args: ((y := primal(*args)), (args, y)), lambda saved, u: tuple(backward(*saved, u)))
    return fun


def family(
    name: str,
    primal: Function,
    backward: Function,
    args: tuple[Any, ...],
    wrong: Mapping[str, Function] | None = None,
    invisible: Mapping[str, tuple[Function, tuple[Any, ...]]] | None = None,
    **options: Any,
) -> dict[str, Case]:
    """Returns the case of a right rule, and one for each wrong one.

    Args:
        name: Name of the right case. Wrong ones are named "name, fault".
        primal: The function.
        backward: Its right rule.
        args: The arguments.
        wrong: Wrong rules by fault.
        invisible: Wrong rules that `args` hide, each with arguments that show it.
        **options: Options of `verify_vjp`, and `tolerance` and `exact` of a case.
    """
    tolerance, exact = options.pop("tolerance", 1e-5), options.pop("exact", None)
    make = lambda backward, label, reveal=None: Case(rule(primal, backward), args, label, options, reveal, tolerance, exact)
    found = {name: make(backward, "right")}
    found |= {f"{name}, {fault}": make(faulty, "wrong") for fault, faulty in (wrong or {}).items()}
    return found | {f"{name}, {fault}": make(f, "invisible", shows) for fault, (f, shows) in (invisible or {}).items()}


def numbers(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Returns standard normal numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns numbers between 0.3 and 2."""
    return np.random.default_rng([seed, *shape]).uniform(0.3, 2, shape).astype(np.float32)

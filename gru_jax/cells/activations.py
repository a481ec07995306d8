"""The elementwise functions of the cells, each with its derivative as a function of its value.

    y = f(a),   ȧ → f′ ⊙ ȧ,   ȳ → f′ ⊙ ȳ

The backward pass has the values y of all steps and needs f′ there. Every function here has an f′
that y determines, so no pre-activation is saved or computed again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class _Formula(NamedTuple):
    """y as a function of the pre-activation a, and f′ as a function of y, with α and β if f has them."""

    value: Callable[..., Any]
    slope: Callable[..., Any]
    defaults: tuple[float, ...] = ()  # of α, β


def _hard_sigmoid(a: Any, alpha: float, beta: float) -> Any:
    """min(1, max(0, α a + β)). At both kinks autodiff too has the derivative 0."""
    line = alpha * a + beta
    return jnp.where(line <= 0, 0, jnp.where(line >= 1, 1, line))


# ReLU's derivative at 0 is 0, and leaky ReLU's is 1, as in jax.nn.
_FORMULAS = {
    "tanh": _Formula(jnp.tanh, lambda y: 1 - y**2),
    "sigmoid": _Formula(jax.nn.sigmoid, lambda y: y * (1 - y)),
    "relu": _Formula(jax.nn.relu, lambda y: (y > 0).astype(y.dtype)),
    "identity": _Formula(lambda a: a, jnp.ones_like),
    "softsign": _Formula(jax.nn.soft_sign, lambda y: (1 - jnp.abs(y)) ** 2),
    "softplus": _Formula(jax.nn.softplus, lambda y: -jnp.expm1(-y)),
    "elu": _Formula(jax.nn.elu, lambda y, alpha: jnp.where(y > 0, 1, y + alpha), (1.0,)),
    "leaky_relu": _Formula(jax.nn.leaky_relu, lambda y, alpha: jnp.where(y >= 0, jnp.ones_like(y), alpha), (0.01,)),
    "hard_sigmoid": _Formula(
        _hard_sigmoid, lambda y, alpha, beta: jnp.where((y > 0) & (y < 1), alpha, jnp.zeros_like(y)), (1 / 6, 0.5)
    ),
    "scaled_tanh": _Formula(
        lambda a, alpha, beta: alpha * jnp.tanh(beta * a),
        lambda y, alpha, beta: beta * (alpha - y**2 / alpha),
        (1.7159, 2 / 3),
    ),
}
_ALIASES = {"hard_sigmoid_onnx": ("hard_sigmoid", 0.2, 0.5)}
NAMES = (*_FORMULAS, *_ALIASES)
_EXPECTED = f"expected one of {', '.join(map(repr, NAMES))}, or gj.cells.Activation(name, alpha=…, beta=…)"


@dataclass(frozen=True)
class Activation:
    """An activation and its parameters, for the arguments `activation` and `gate_activation`.

    | name                  | value                                            | defaults of α, β |
    |-----------------------|--------------------------------------------------|------------------|
    | `"tanh"`              | tanh a                                           |                  |
    | `"sigmoid"`           | 1 / (1 + e⁻ᵃ)                                    |                  |
    | `"relu"`              | max(0, a)                                        |                  |
    | `"identity"`          | a                                                |                  |
    | `"softsign"`          | a / (1 + abs a)                                  |                  |
    | `"softplus"`          | log(1 + eᵃ)                                      |                  |
    | `"elu"`               | a where a > 0, otherwise α (eᵃ − 1)              | 1                |
    | `"leaky_relu"`        | a where a ≥ 0, otherwise α a                     | 0.01             |
    | `"hard_sigmoid"`      | min(1, max(0, α a + β)), as JAX, PyTorch, Keras 3 | 1/6, 1/2         |
    | `"hard_sigmoid_onnx"` | the same, as ONNX and Keras 2                    | 0.2, 1/2         |
    | `"scaled_tanh"`       | α tanh(β a), as LeCun et al. 1998                | 1.7159, 2/3      |

    Instead of an `Activation` these arguments also take a name, which uses the defaults of α and β.

    Example:
        >>> import gru_jax as gj
        >>> cell = gj.elman(gj.cells.Activation("leaky_relu", alpha=0.3))
        >>> gj.elman("leaky_relu") == gj.elman(gj.cells.Activation("leaky_relu", alpha=0.01))
        True

    Args:
        name: A name of the table.
        alpha: α, above 0. Defaults to None: the value of the table.
        beta: β. Defaults to None: the value of the table.

    Raises:
        ValueError: If the name is unknown, or a parameter is not finite, is not above 0 for α, or
            belongs to another activation.
        TypeError: If the name is not a string, or a parameter is not a number.
    """

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        name, *of_alias = _ALIASES.get(_checked_name("name", self.name), (self.name,))
        defaults = of_alias or _FORMULAS[name].defaults
        object.__setattr__(self, "name", name)
        for i, field in enumerate(("alpha", "beta")):
            given = getattr(self, field)
            if i >= len(defaults):
                if given is not None:
                    raise ValueError(f"{field}: got {given!r}, expected None: {name} has no such parameter.")
                continue
            number = defaults[i] if given is None else _checked_number(field, given)
            object.__setattr__(self, field, number)

    def __repr__(self) -> str:
        known = next((name for name, own in _NAMED.items() if own == self), None)
        if known is not None:
            return repr(known)
        parameters = (f"{field}={value}" for field, value in zip(("alpha", "beta"), self.parameters, strict=False))
        return f"Activation({', '.join((repr(self.name), *parameters))})"

    def __call__(self, a: Float[Array, "*t_b H"]) -> Float[Array, "*t_b H"]:
        """Computes the value from the pre-activation."""
        return _FORMULAS[self.name].value(a, *self.parameters)

    def slope(self, y: Float[Array, "*t_b H"]) -> Float[Array, "*t_b H"]:
        """Computes the derivative from the value."""
        return _FORMULAS[self.name].slope(y, *self.parameters)

    def times_slope(self, x: Float[Array, "*t_b H"], y: Float[Array, "*t_b H"]) -> Float[Array, "*t_b H"]:
        """Multiplies a tangent or cotangent x by the derivative."""
        # the sigmoid's two factors one after the other, as the equations have them
        return x * y * (1 - y) if self.name == "sigmoid" else x * self.slope(y)

    @property
    def parameters(self) -> tuple[float, ...]:
        """The parameters that the activation has, of α and β."""
        return tuple(value for value in (self.alpha, self.beta) if value is not None)


ActivationLike = str | Activation


def checked_activation(argument: str, value: Any) -> Activation:
    """Returns an `Activation` for a name or an `Activation`.

    Raises:
        TypeError, ValueError: If it is neither, or the name is unknown.
    """
    return value if isinstance(value, Activation) else _NAMED[_checked_name(argument, value)]


def options(**activations: tuple[Activation, str]) -> str:
    """Writes the arguments that differ from their defaults, for the name of a cell."""
    return ", ".join(f"{name}={own}" for name, (own, default) in activations.items() if own != _NAMED[default])


def _checked_name(argument: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(
            f"{argument}: got {value!r}, {_EXPECTED}. For another function write your own gj.Cell: it needs no derivation."
        )
    if value not in NAMES:
        raise ValueError(f"{argument}: got {value!r}, {_EXPECTED}.")
    return value


def _checked_number(field: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{field}: got {value!r}, expected a number.")
    if not math.isfinite(value) or (field == "alpha" and value <= 0):
        raise ValueError(f"{field}: got {value!r}, expected a finite number{' above 0' if field == 'alpha' else ''}.")
    return float(value)


_NAMED = {name: Activation(name) for name in NAMES}

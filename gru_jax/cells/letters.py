"""Parameters by the first letter of their field: W input weight, U recurrent weight, R projection,
b and c biases, p peephole.

A parameter's shape, its initializer, and the check of it follow from the letter. Every cell of this
package keeps to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from gru_jax._engine.arguments import check_flag, checked_dtype, describe
from gru_jax._jax.keys import check_key
from gru_jax._jax.precision import at_least_float32

Initializer = Callable[..., jax.Array]

_OPTIONAL = ("b", "c", "p")  # fields that may be None: the tutorials' cells have weights only


@dataclass(frozen=True)
class LetteredInit:
    """The `init` of a cell: draws parameters of `params_type`, with the fields `absent` always
    None, and an output of `proj_size` units where that is not None.
    """

    params_type: Any
    absent: tuple[str, ...] = ()
    proj_size: int | None = None

    def __call__(
        self,
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dtype: Any = jnp.float32,
        kernel_init: Initializer = initializers.glorot_uniform(),
        recurrent_init: Initializer = initializers.orthogonal(),
        bias_init: Initializer = initializers.zeros,
    ) -> Any:
        """Draws the parameters of the cell.

        Example:
            >>> import jax, gru_jax as gj
            >>> uniform = gj.initializers.symmetric_uniform(0.1)     # as Chung et al. 2014
            >>> params = gj.gru().init(jax.random.key(0), 3, 4, kernel_init=uniform, recurrent_init=uniform)
            >>> bool(abs(params.U_h).max() <= 0.1)
            True

        Args:
            key: A `jax.random` key, consumed here.
            input_size: D, the last axis of the inputs. It is 0 for a network without input.
            hidden_size: H, the last axis of the state; for a projected LSTM that of its memory.
            bias: If False, the biases are None, as in the tutorials. Defaults to True.
            dtype: float64 (with x64 enabled), float32, bfloat16 or float16. The numbers are drawn
                in at least float32. Defaults to float32.
            kernel_init: The initializer of the input weights W, (D, H), any of
                `jax.nn.initializers`. Defaults to `glorot_uniform()`.
            recurrent_init: The initializer of the recurrent weights U, (H, H), and of the
                projection of an LSTM with `proj_size`. Defaults to `orthogonal()`.
            bias_init: The initializer of the biases and peepholes, (H,). Defaults to `zeros`.

        Returns:
            The parameters, a NamedTuple with one array per gate.

        Raises:
            ValueError: If a size is negative, `hidden_size` is 0, or an initializer returns another shape.
            TypeError: If `key` is not a key, a size is not an int, or `dtype` is not one of the four.
        """
        check_key("key", key)
        D, H = _checked_size("input_size", input_size, least=0), _checked_size("hidden_size", hidden_size, least=1)
        bias = check_flag("bias", bias)
        dtype = checked_dtype("dtype", dtype)
        initializer = {"W": ("kernel_init", kernel_init)} | dict.fromkeys("UR", ("recurrent_init", recurrent_init))

        def draw(field: str, key: jax.Array) -> jax.Array | None:
            if field in self.absent or (not bias and field[0] in "bc"):
                return None
            name, function = initializer.get(field[0], ("bias_init", bias_init))
            if not callable(function):
                raise TypeError(f"{name}: got {describe(function)}, expected a function such as jax.nn.initializers.zeros.")
            shape = shape_of(field, D, H, self.proj_size)
            if 0 in shape:  # some initializers divide by the number of inputs
                return jnp.zeros(shape, dtype)
            drawn = function(key, shape, at_least_float32(dtype))  # orthogonal has no half-precision QR
            if jnp.shape(drawn) != shape:
                raise ValueError(f"{name}: got an array of shape {jnp.shape(drawn)} for {field}, expected {shape}.")
            return drawn.astype(dtype)

        fields = self.params_type._fields
        return self.params_type(*map(draw, fields, jax.random.split(key, len(fields))))


@dataclass(frozen=True)
class LetteredCheck:
    """The `check_params` of a cell: shapes, fields in `absent` None, fields in `required` not None.

    Returns the input size.
    """

    params_type: Any
    absent: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    proj_size: int | None = None

    def __call__(self, params: Any) -> int:
        """Returns the input size of `params`.

        Raises:
            TypeError: If a field is None that must not be, or the other way around.
            ValueError: If a shape does not fit the others.
        """
        D, H = _sizes(params)
        for field, leaf in zip(params._fields, params, strict=True):
            expected = shape_of(field, D, H, self.proj_size)
            if leaf is None:
                if field in self.required or field[0] not in _OPTIONAL:
                    raise TypeError(f"params.{field}: got None, expected an array of shape {expected}.")
            elif field in self.absent:
                raise TypeError(f"params.{field}: got an array, expected None: this cell has no such term.")
            elif leaf.shape != expected:
                projected = "" if self.proj_size is None else f" and proj_size {self.proj_size}"
                raise ValueError(
                    f"params.{field}: got shape {leaf.shape}, expected {expected} for input size {D} and hidden "
                    f"size {H}{projected}. Vectors are rows: W is (input, hidden), U (hidden, hidden). Transpose weights of PyTorch."
                )
        return D


def shape_of(field: str, D: int, H: int, P: int | None = None) -> tuple[int, ...]:
    """Returns the shape of a field, for an output of P units where it is projected."""
    P = H if P is None else P
    return {"W": (D, H), "U": (P, H), "R": (H, P)}.get(field[0], (H,))


def _sizes(params: Any) -> tuple[int, int]:
    """(D, H), from the first input weight."""
    name, W = next((field, leaf) for field, leaf in zip(params._fields, params, strict=True) if field[0] == "W")
    if W is None:
        raise TypeError(f"params.{name}: got None, expected a matrix (input_size, hidden_size). Make params with cell.init.")
    if W.ndim != 2:
        raise ValueError(
            f"params.{name}: got shape {W.shape}, expected a matrix (input_size, hidden_size). Make params with cell.init."
        )
    return W.shape


def _checked_size(name: str, size: Any, least: int) -> int:
    if isinstance(size, bool) or not isinstance(size, Integral):
        raise TypeError(f"{name}: got {size!r}, expected an int of at least {least}.")
    if size < least:
        raise ValueError(f"{name}: got {size}, expected at least {least}.")
    return int(size)

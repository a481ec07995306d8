"""The first letter of a field says what it is: W input weight, U recurrent weight, b and c biases, p peephole.

From the letter follow a parameter's shape, its initializer, and what a wrong one is told. Every cell of this package keeps to it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

Initializer = Callable[..., jax.Array]

_OPTIONAL = ("b", "c", "p")  # fields that may be None: the tutorials' cells have weights only


def initializer_for(params_type: Any, absent: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The `init` of a cell whose parameters are `params_type`, with the fields `absent` always None."""

    def init(
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

        Args:
            key: a `jax.random` key, consumed here.
            input_size: D, the last axis of the inputs.
            hidden_size: H, the last axis of the state.
            bias: False leaves the biases None, as in the tutorials.
            dtype: float64 (with x64 enabled), float32, bfloat16 or float16; drawn in at least float32.
            kernel_init: for the input weights W, (D, H); any of `jax.nn.initializers`.
            recurrent_init: for the recurrent weights U, (H, H).
            bias_init: for the biases and peepholes, (H,).

        Returns:
            The parameters, a NamedTuple with one array per gate.

        Raises:
            ValueError: a size below 1.
            TypeError: a dtype that is not one of the four.

        Chung et al. 2014 draw uniformly: `gj.initializers.symmetric_uniform(0.1)` for all three. For long memories see
        `gj.initializers.chrono`.
        """
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ValueError(f"{name}: got {size}, expected at least 1.")
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"dtype: got {dtype}, expected float64, float32, bfloat16 or float16.")
        initializer = {"W": kernel_init, "U": recurrent_init}

        def draw(field: str, key: jax.Array) -> jax.Array | None:
            if field in absent or (not bias and field[0] in "bc"):
                return None
            shape = shape_of(field, input_size, hidden_size)
            wide = jnp.promote_types(dtype, jnp.float32)  # orthogonal has no half-precision QR
            return initializer.get(field[0], bias_init)(key, shape, wide).astype(dtype)

        fields = params_type._fields
        return params_type(*map(draw, fields, jax.random.split(key, len(fields))))

    return init


def check_for(params_type: Any, absent: tuple[str, ...] = (), required: tuple[str, ...] = ()) -> Callable[[Any], int]:
    """The `check` of a cell whose parameters are `params_type`: type, shapes, `absent` fields None, `required` ones not.
    It returns the input size."""

    def check(params: Any) -> int:
        if not isinstance(params, params_type):
            raise TypeError(
                f"params: got {type(params).__name__}, expected {params_type.__name__}. "
                "Use the cell that made them, or make new ones with cell.init(key, input_size, hidden_size)."
            )
        D, H = _sizes(params)
        for field, leaf in zip(params._fields, params, strict=True):
            if leaf is None:
                if field in required or field[0] not in _OPTIONAL:
                    raise TypeError(f"params.{field}: got None, expected an array of shape {shape_of(field, D, H)}.")
            elif field in absent:
                raise TypeError(f"params.{field}: got an array, expected None: this cell has no such term.")
            elif leaf.shape != shape_of(field, D, H):
                raise ValueError(
                    f"params.{field}: got shape {leaf.shape}, expected {shape_of(field, D, H)} for input size {D} and hidden "
                    f"size {H}. Row vectors here: W is (input, hidden), U (hidden, hidden); transpose weights of PyTorch's."
                )
        return D

    return check


def _sizes(params: Any) -> tuple[int, int]:
    """(D, H), from the first input weight."""
    name, W = next((field, leaf) for field, leaf in zip(params._fields, params, strict=True) if field[0] == "W")
    if W is None:
        raise TypeError(f"params.{name}: got None, expected a matrix (input size, hidden size).")
    if W.ndim != 2:
        raise ValueError(f"params.{name}: got shape {W.shape}, expected a matrix (input size, hidden size).")
    return W.shape


def shape_of(field: str, D: int, H: int) -> tuple[int, ...]:
    """The shape of a field."""
    return {"W": (D, H), "U": (H, H)}.get(field[0], (H,))

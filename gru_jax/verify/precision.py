"""The precisions in which a function runs: the dtypes of its arguments, and float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax._jax import config
from gru_jax.verify.errors import short_message
from gru_jax.verify.function import Arrays, FlatFunction


@dataclass(frozen=True)
class Precision:
    """A precision to run in.

    Attributes:
        name: The names of the dtypes, for example "float64" or "bfloat16/float32".
        x64: Whether `jax_enable_x64` is on during a run.
        eps: The rounding unit of the least precise dtype.
        leaf_dtypes: The dtype of each differentiable leaf. A complex leaf has that of its parts.
        nondiff_args: The non-differentiable arguments. Floating ones have the dtype of this
            precision.
    """

    name: str
    x64: bool
    eps: float
    leaf_dtypes: tuple[Any, ...]
    nondiff_args: Arrays

    @contextmanager
    def active(self) -> Iterator[None]:
        """Traces and runs everything inside in this precision. Restores all settings afterwards."""
        with jax.enable_x64(self.x64), jax.default_matmul_precision("highest"), jax.debug_nans(False), jax.disable_jit(False):
            yield

    def cast(self, leaves: Arrays) -> Arrays:
        """Casts real leaves to the dtypes of this precision, which must be active."""
        return tuple(jnp.asarray(leaf, dtype) for leaf, dtype in zip(leaves, self.leaf_dtypes, strict=True))


@dataclass(frozen=True)
class Precisions:
    """The precisions of one verification.

    Attributes:
        given: The precision of the arguments.
        comparison: The precision in which the rule and the reference are compared. It is float64,
            or `given` if the function raises in float64.
        why_not_float64: A message with the error that the function raises in float64. Empty if it
            runs.
    """

    given: Precision
    comparison: Precision
    why_not_float64: str


def choose_precisions(function: FlatFunction, leaves: Arrays) -> Precisions:
    """Returns the precisions for a function. `leaves` are its real leaves in float64."""
    given = Precision(
        name="/".join(sorted({str(leaf.dtype) for leaf in function.leaves})),
        x64=config.x64(),
        eps=max(float(jnp.finfo(leaf.dtype).eps) for leaf in function.leaves),
        leaf_dtypes=tuple(jnp.finfo(leaf.dtype).dtype for leaf in function.leaves),
        nondiff_args=function.nondiff_args,
    )
    float64 = Precision(
        name="float64",
        x64=True,
        eps=float(jnp.finfo(jnp.float64).eps),
        leaf_dtypes=(np.float64,) * len(function.leaves),
        nondiff_args=tuple(map(_widened, function.nondiff_args)),
    )
    try:
        with float64.active():
            jax.eval_shape(function.call_real, float64.cast(leaves), float64.nondiff_args)
    except Exception as error:
        return Precisions(given, given, f"in float64 {function.name} raises {short_message(error)}")
    return Precisions(given, float64, "")


def _widened(array: Any) -> Any:
    """Returns a floating array in float64 or complex128, and any other array unchanged."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return array
    return np.asarray(array).astype(np.complex128 if jnp.iscomplexobj(array) else np.float64)

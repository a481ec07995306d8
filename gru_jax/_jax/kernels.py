"""GPU kernels written with Pallas, on its Triton backend."""

from collections.abc import Callable, Sequence

import jax
from jax.experimental import pallas
from jax.experimental.pallas import triton

BlockSpec = pallas.BlockSpec
ds = pallas.ds


def call_kernel(
    body: Callable[..., None],
    grid: int,
    in_blocks: Sequence[pallas.BlockSpec],
    out_blocks: Sequence[pallas.BlockSpec],
    out_shapes: Sequence[jax.ShapeDtypeStruct],
    operands: Sequence[jax.Array],
    *,
    warps: int,
    interpret: bool,
    name: str,
) -> list[jax.Array]:
    """Runs `body` once for each program of a grid with one axis."""
    return pallas.pallas_call(
        body,
        grid=(grid,),
        in_specs=list(in_blocks),
        out_specs=list(out_blocks),
        out_shape=list(out_shapes),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=interpret,
        name=name,
    )(*operands)

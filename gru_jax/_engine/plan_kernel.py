"""How the fused loop is run: the part of the plan that concerns its kernel.

Chosen by the registers, spills and shared memory of kernels compiled for an H100 and an A100. No
time was taken on one.
"""

from dataclasses import dataclass
from typing import Any

import jax

FUSED_TILE = 16  # sequences per program of the kernel: the fewest rows that a matmul takes
FUSED_CHUNK = 64  # most units per chunk of its arrays: with 32 or 128 of them, 256 units in float32 spill more
LEAST_UNITS = 16  # fewest units per chunk: a matmul takes no fewer
SHARED_MEMORY = {"H100": 232_448, "H200": 232_448, "A100": 166_912}  # bytes per block of threads, of devices that are not here
LEAST_SHARED_MEMORY = 101_376  # bytes that a block of threads may share on any NVIDIA GPU since 2020


@dataclass(frozen=True)
class Kernel:
    """How the loop over steps is run as one GPU kernel.

    Attributes:
        shared_memory: Bytes that a block of threads may share on this device.
        interpret: Whether JAX interprets the kernel, which shows on any device what it computes.
        chunk: Most units per chunk of its arrays.
        warps: How many warps share the work of a tile. If None, `fused_warps` decides.
    """

    shared_memory: int = 232_448
    interpret: bool = False
    chunk: int = FUSED_CHUNK
    warps: int | None = None

    def for_operands(self, units: int) -> int:
        """The shared memory that a product needs for its left operand, beside the weights."""
        return 2 * 4 * FUSED_TILE * units


def fused_warps(units: int, resident: bool) -> int:
    """The warps of 32 threads that share the work of a tile in the fused loop.

    Chosen by the registers that the compiled kernels spill. `resident` is whether the weights stay
    in the shared memory.
    """
    if units <= 32:
        return 4
    return 16 if resident else 8


def shared_memory(abstract_device: Any) -> int:
    """The bytes that a block of threads may share on the device that is compiled for."""
    if abstract_device is None:
        return getattr(jax.local_devices()[0], "shared_memory_per_block_optin", LEAST_SHARED_MEMORY)
    return next((size for name, size in SHARED_MEMORY.items() if name in abstract_device.device_kind), LEAST_SHARED_MEMORY)

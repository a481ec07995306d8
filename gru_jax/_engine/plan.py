"""How one call of the recursion is carried out: every rule that was measured, every question asked
of a device.

`probe` asks JAX about the devices and the arrays, once per call of `unroll`. `make_plan` turns
shapes, device and request into a `Plan`. Nothing else in the package holds a threshold or looks at
a device, so a test or a sweep passes a plan of its own. `python -m experiments.plan_rules` measures
each rule against its absence.
"""

import math
import os
from dataclasses import dataclass
from typing import Any, Literal

import jax

from gru_jax._jax.sharding import replicated
from gru_jax._jax.tracing import is_traced, vmapped
from gru_jax.derivative import CustomVJP

# Measured on two cores by `experiments.plan_rules`, in float32, on shapes drawn at random too.
ONE_BLOCK = 2**19  # states T·B·H: a sequence of fewer, 2 MiB in float32, stays in a cache, and blocks only add overhead
BLOCK = 2**16  # states per block otherwise
LEAST_ROWS = 512  # rows of time times batch per block, so that a weight gradient pays for being added to the sum
MANY_UNITS = 256  # units from which recomputing the gates costs more than storing them
WIDE_STEP = 512  # states B·H of a step from which a sequence in one block stores its gates
FEW_UNITS = 64  # units up to which one matmul for all gates is faster than one each

# A bound for jaxlib 0.11.1, whose loops take a time quadratic in their steps where a step has few
# states (jax#40101).
LONGEST_BLOCK = 4_096


@dataclass(frozen=True)
class Device:
    """What a plan depends on besides shapes. The defaults are a single CPU device.

    Attributes:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        vmapped: How many calls `jax.vmap` runs at once, of all its axes together.
        batch_shards: Over how many devices the batch is spread.
        explicit_batch: Whether the batch is sharded over Explicit mesh axes.
        one_core: Whether the device is a CPU device with a single core of its own.
        slow_half_precision_loops: Whether a step in half precision takes longer the longer its loop
            is.
    """

    platform: str = "cpu"
    vmapped: int = 1
    batch_shards: int = 1
    explicit_batch: bool = False
    one_core: bool = False
    slow_half_precision_loops: bool = False


@dataclass(frozen=True)
class Shapes:
    """The sizes that a plan depends on: T, all batch axes together, H, and the bytes of a number.

    T may be symbolic.
    """

    steps: Any
    sequences: Any
    units: int
    itemsize: int = 4


@dataclass(frozen=True)
class Plan:
    """Decisions for one call of the recursion. None of them changes a result beyond rounding.

    Attributes:
        residuals: What the forward pass saves for the backward pass: all states, the gates too, or
            only the state that each block starts from.
        block_size: Steps per block. None stands for all of them.
        forward_block_size: The same where nothing is differentiated.
        join_in_loop: Whether products of one operand are taken as one matmul inside the loop over
            steps.
        join_outside: The same outside it, where they are taken for all steps of a block at once.
    """

    residuals: Literal["states", "gates", "block_starts"] = "states"
    block_size: int | None = None
    forward_block_size: int | None = None
    join_in_loop: bool = False
    join_outside: bool = False


def probe(xs: Any, arguments: Any) -> Device:
    """Asks about the devices on which `xs` and the other arguments of a call are computed.

    Inside `shard_map` the arrays are one device's own. Under `jit` their sharding is not known:
    they are taken to be spread over all devices of the mesh, or else of the machine. Axes of `vmap`
    count as far as tracers show them: a loop, a `jit` or a `checkpoint` in between hides them.
    """
    platform = jax.default_backend()
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.manual_axes or platform != "cpu":
        batch_shards = 1
    elif is_traced(xs):
        batch_shards = jax.device_count() if mesh.empty else mesh.size
    else:
        batch_shards = len(xs.sharding.device_set) if isinstance(xs, jax.Array) else 1
    return Device(
        platform,
        vmapped(arguments),
        batch_shards,
        explicit_batch=replicated(xs) is not None,
        one_core=platform == "cpu" and _cores() // jax.local_device_count() <= 1,
        slow_half_precision_loops=platform == "cpu" and jax.__version_info__ < (0, 12),
    )


def probe_platform() -> str:
    """The platform of the default device, for a single step."""
    return jax.default_backend()


def step_joins_products(units: int, platform: str) -> bool:
    """Whether products of one operand are taken as one matmul in a loop over steps."""
    return platform != "cpu" or units <= FEW_UNITS


def make_plan(shapes: Shapes, device: Device, request: CustomVJP, *, last_only: bool = False) -> Plan:
    """Chooses a plan. What the request names stays as it is.

    Args:
        shapes: The sizes of the call.
        device: From `probe`.
        request: The user's `CustomVJP`.
        last_only: Whether only the last state is wanted, so that states need not be saved for the
            output's sake.
    """
    return PLANNER(shapes, device, request, last_only)


def even_block(steps: int, size: int) -> int | None:
    """A block of about `size` steps: a divisor of `steps` if there is one near, and None (one
    block) where two would do.
    """
    if steps <= 2 * size:
        return None
    near = [divisor for divisor in range(size // 2 + 1, 2 * size) if steps % divisor == 0]
    return min(near, key=lambda divisor: abs(math.log(divisor / size)), default=size)


def _cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


import types

RULES = types.SimpleNamespace(
    one_block=2**19,
    block_few=3 * 2**16,
    block_many=2**16,
    few=128,
    fwd_factor=2,
    rows_lo=512,
    rows_hi=4096,
    gates_units=256,
    gates_step=512,
    gates_step_many=4096,
    gates_factor=2,
    one_core=True,
    join=64,
    outside=12_000,
    in_loop=64,
    longest=4096,
)


def PLANNER(shapes, device, request, last_only):
    R = RULES
    steps, units = shapes.steps, shapes.units
    join = step_joins_products(units, device.platform) if R.join == 64 else units <= R.join
    if not isinstance(steps, int) or not isinstance(shapes.sequences, int) or device.platform != "cpu":
        return Plan(
            residuals="states" if request.residuals == "auto" else request.residuals,
            block_size=request.block_size,
            forward_block_size=request.block_size,
            join_in_loop=join,
        )
    sequences = -(-shapes.sequences * device.vmapped // device.batch_shards)
    per_step = sequences * units
    states = steps * per_step if steps <= R.longest else math.inf
    half, whole = shapes.itemsize < 4 and device.slow_half_precision_loops, None
    lean = half or request.residuals == "states"
    one_core = device.one_core and R.one_core
    block_size = request.block_size
    if block_size is not None:
        forward_block = block_size
    elif device.explicit_batch:
        block_size = forward_block = whole
    else:
        root, aimed = math.isqrt(steps), R.block_many if lean or one_core or units > R.few else R.block_few
        rows = max(min(aimed // max(units, 1), R.rows_hi), R.rows_lo, units)
        cut = even_block(steps, max(root, 4)) if half else even_block(steps, max(rows // max(sequences, 1), root // 4, 4))
        block_size = whole if states < R.one_block and not lean else cut
        forward_block = whole if states < (R.one_block if one_core else R.fwd_factor * R.one_block) and not lean else cut
    residuals = request.residuals
    if residuals == "auto" and last_only and block_size is not None and block_size < steps:
        residuals = "block_starts"
    elif residuals == "auto":
        in_one = states < R.one_block and (block_size is None or block_size >= steps)
        cheap = states < R.gates_factor * R.one_block and per_step >= (
            R.gates_step if in_one or one_core else R.gates_step_many
        )
        residuals = "gates" if (units >= R.gates_units or cheap) and not half else "states"
    return Plan(residuals, block_size, forward_block, join, join and steps * per_step <= R.outside)

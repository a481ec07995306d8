"""How one call of the recursion is carried out: every measured threshold, every question asked of a
device.

`probe` asks JAX about the devices and the arrays, once per call of `unroll`. `make_plan` turns
shapes, device and request into a `Plan`. Nothing else in the package holds a threshold or looks at
a device, so tests and sweeps pass a plan of their own.

Each rule saves on average more than 5 % of a gradient's time over the shapes it applies to, or 25 %
on a shape that users run. `python -m experiments.plan_rules` measures that, on random shapes too.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax

from gru_jax._engine.plan_kernel import Kernel, shared_memory
from gru_jax._jax.sharding import replicated
from gru_jax._jax.tracing import is_traced, vmapped
from gru_jax.derivative import CustomVJP

# Measured on a CPU of two cores, in float32. A sequence has T·B·H state values.
ONE_BLOCK = 2**19  # values of a sequence below which blocks only add overhead: 2 MiB fit a cache
BLOCK = 2**17  # values of a block otherwise
BLOCK_ROWS = 512  # rows of time times batch that amortise adding up the weight gradients
MANY_UNITS = 256  # units from which recomputing the gates takes longer than saving them
WIDE_STEP = 512  # values of a step from which a sequence in one block saves its gates
JOINED_UNITS = 256  # units up to which one matmul in the loop is faster than one for each gate
FEW_VALUES = 12_000  # values of a sequence up to which that is true outside the loop

# Chosen by the launches and the memory of programs compiled for a GPU. No time was taken on one.
GPU_UNROLL = 8  # steps per round of a loop on a GPU, or a near divisor: their results are stored in one launch
GPU_BLOCKS = 4  # blocks of a sequence on a GPU, where temporary arrays span one of them

LONGEST_LOOP = 4_096  # most steps of one loop: jaxlib 0.11.1 takes a time quadratic in them (jax#40101)


@dataclass(frozen=True)
class Device:
    """What a plan depends on besides shapes. The defaults are a single CPU device.

    Attributes:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        vmapped: The product of the sizes of all axes of `jax.vmap`.
        batch_shards: Over how many devices the batch is spread.
        explicit_batch: Whether the batch is sharded over Explicit mesh axes.
        sums_over_devices: Whether a sum over the batch may need communication between devices.
        slow_half_precision_loops: Whether a step in half precision takes longer the longer its loop
            is.
        kernel: How the loop over steps could run as one kernel. None if it cannot.
    """

    platform: str = "cpu"
    vmapped: int = 1
    batch_shards: int = 1
    explicit_batch: bool = False
    sums_over_devices: bool = False
    slow_half_precision_loops: bool = False
    kernel: Kernel | None = None


@dataclass(frozen=True)
class Shapes:
    """The sizes that a plan depends on.

    Attributes:
        steps: T, which may be symbolic under `jax.export`.
        sequences: All batch axes together, which may be symbolic too.
        units: H.
        itemsize: Bytes per state value.
    """

    steps: Any
    sequences: Any
    units: int
    itemsize: int = 4


SavedResiduals = Literal["states", "gates", "block_starts"]


@dataclass(frozen=True)
class Plan:
    """Decisions for one call of the recursion. None of them changes a result beyond rounding.

    Attributes:
        residuals: What the forward pass saves for the backward pass: all states, the gates too, or
            only the state that each block starts from.
        block_size: Steps per block. None stands for one block.
        join_in_loop: Whether products of one operand are taken as one matmul inside the loop over
            steps.
        join_outside: The same outside it, where they are taken for all steps of a block at once.
        step_by_step: Whether a cell without a derivation is run step by step, as a checkpointed
            scan is: each step projects its input, and in the backward pass adds to the gradient of
            the weights, and what is the same at every step, such as a slice of a weight, is computed
            before the loop. Otherwise both are done for all steps of a block at once.
        few_launches: Whether the loop over steps is arranged for few kernel launches: it computes
            nothing that is the same at every step, such as the concatenation of weights that are
            joined, and stacks what it saves.
        unroll: Steps per round of that loop.
        kernel: If not None, the loop over steps is one kernel.
    """

    residuals: SavedResiduals = "states"
    block_size: int | None = None
    join_in_loop: bool = False
    join_outside: bool = False
    step_by_step: bool = False
    few_launches: bool = False
    unroll: int = 1
    kernel: Kernel | None = None


def probe(xs: Any, arguments: Any) -> Device:
    """Asks about the devices on which `xs` and the other arguments of a call are computed.

    Inside `shard_map` the arrays are one device's own. Under `jit` their sharding is not known:
    they are taken to be spread over all devices of the mesh, otherwise of the machine. Axes of
    `vmap` are included if the tracers show them: a loop, a `jit` or a `checkpoint` in between hides
    them.
    """
    platform, mesh = current_platform(), jax.sharding.get_abstract_mesh()
    if mesh.manual_axes:
        devices = 1
    elif is_traced(xs):
        devices = jax.device_count() if mesh.empty else mesh.size
    else:
        devices = len(xs.sharding.device_set) if isinstance(xs, jax.Array) else 1
    explicit_batch = replicated(xs) is not None
    return Device(
        platform,
        vmapped(arguments),
        batch_shards=devices if platform == "cpu" else 1,
        explicit_batch=explicit_batch,
        sums_over_devices=explicit_batch or devices > 1,
        slow_half_precision_loops=platform == "cpu" and jax.__version_info__ < (0, 12),
        kernel=Kernel(shared_memory(mesh.abstract_device)) if platform == "gpu" else None,
    )


def current_platform() -> str:
    """The platform of the default device: `"cpu"`, `"gpu"` or `"tpu"`.

    Inside `jax.sharding.use_abstract_mesh` it is that of the mesh's `AbstractDevice`, if it has
    one: the program is compiled for a device that this machine need not have.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def make_plan(shapes: Shapes, device: Device, request: CustomVJP, *, last_only: bool = False, derived: bool = True) -> Plan:
    """Chooses a plan. Explicit options of the request are never overridden.

    Args:
        shapes: The sizes of the call.
        device: From `probe`.
        request: The user's `CustomVJP`.
        last_only: Whether only the last state is wanted, so that states need not be saved for the
            output's sake.
        derived: Whether the cell has an `Adjoint`. Without one no gates are saved, because nothing
            can be computed from them.
    """
    join = joins_in_loop(shapes.units, device.platform)
    step_by_step = not derived and not device.sums_over_devices
    on_gpu = device.platform == "gpu"
    is_symbolic = not isinstance(shapes.steps, int) or not isinstance(shapes.sequences, int)
    if request.loop == "fused":
        _check_fused(device, is_symbolic)
        join, step_by_step = False, False
    if is_symbolic:
        # symbolic sizes of jax.export: one block
        kept: SavedResiduals = "gates" if request.residuals == "gates" and derived else "states"
        return Plan(kept, None, join, step_by_step=step_by_step, few_launches=on_gpu)
    steps, states_per_step = shapes.steps, _states_per_step(shapes, device)
    slow_half = shapes.itemsize < 4 and device.slow_half_precision_loops
    if step_by_step and not (last_only or slow_half) and steps <= LONGEST_LOOP:
        block_size = request.block_size  # nothing is computed for all steps of a block at once
    else:
        block_size = request.block_size or _block_size(shapes, device, states_per_step, request, slow_half)
    if block_size is not None and block_size >= steps:
        block_size = None
    residuals: SavedResiduals
    if not derived and request.residuals == "gates":
        residuals = "states"
    elif request.residuals != "auto":
        residuals = request.residuals
    elif last_only and block_size is not None and (request.block_size or not on_gpu):
        # a forward pass over each block again, for memory that grows as √T
        residuals = "block_starts"
    else:
        one_wide_block = block_size is None and WIDE_STEP <= states_per_step < ONE_BLOCK / max(steps, 1)
        many_units = shapes.units >= MANY_UNITS and not on_gpu
        saves_gates = derived and (many_units or (device.platform == "cpu" and one_wide_block))
        residuals = "gates" if saves_gates and not slow_half else "states"
    join_outside = join and steps * states_per_step <= FEW_VALUES
    unroll = _near_divisor(block_size or steps, GPU_UNROLL) or GPU_UNROLL if on_gpu else 1
    if request.loop == "fused":
        return Plan(residuals, block_size, join_outside=join_outside, kernel=device.kernel)
    return Plan(residuals, block_size, join, join_outside, step_by_step, few_launches=on_gpu, unroll=unroll)


def _check_fused(device: Device, is_symbolic: bool) -> None:
    """Raises where the loop cannot be one kernel."""
    if device.kernel is None:
        raise ValueError(
            f'derivative: got CustomVJP(loop="fused") on a {device.platform} device, expected an NVIDIA GPU: the loop is compiled as '
            'a GPU kernel. loop="auto" runs everywhere.'
        )
    if is_symbolic:
        raise ValueError(
            'derivative: got CustomVJP(loop="fused") with symbolic sizes of jax.export, expected constant ones. Use loop="scan".'
        )


def joins_in_step(platform: str) -> bool:
    """Whether products of one operand are taken as one matmul in a single step.

    The weights are put side by side in each call. On a CPU that takes longer than it saves. On an
    accelerator each matmul is a kernel launch.
    """
    return platform != "cpu"


def joins_in_loop(units: int, platform: str) -> bool:
    """Whether products of one operand are taken as one matmul in a loop over steps.

    The weights are put side by side once, before the loop.
    """
    return joins_in_step(platform) or units <= JOINED_UNITS


def _states_per_step(shapes: Shapes, device: Device) -> int:
    """The states of one step on one device, of all calls that `vmap` runs at once."""
    return -(-shapes.sequences * device.vmapped // device.batch_shards) * shapes.units


def _block_size(shapes: Shapes, device: Device, states_per_step: int, request: CustomVJP, slow_half: bool) -> int | None:
    """Steps per block, or None for one block."""
    steps, root = shapes.steps, math.isqrt(shapes.steps)
    if slow_half and not device.explicit_batch:
        # blocks of √T steps keep both loops short
        return _even(steps, max(root, 4))
    if device.platform == "gpu" and not device.sums_over_devices:
        return _even(steps, max(-(-steps // GPU_BLOCKS), GPU_UNROLL))
    if device.platform != "cpu" or device.explicit_batch:
        # no cache to fill; and where gradients are reduced over devices, that is once per block
        return None
    small = steps <= LONGEST_LOOP and steps * states_per_step < ONE_BLOCK
    if small and request.residuals != "states":  # residuals="states" asks for little memory
        return None
    rows = max(BLOCK // max(shapes.units, 1), BLOCK_ROWS)
    sequences = max(states_per_step // max(shapes.units, 1), 1)
    # not below √T / 4: what a block holds, some 16 arrays, grows as slowly as what all blocks save
    return _even(steps, min(max(rows // sequences, root // 4, 4), LONGEST_LOOP))


def _even(steps: int, size: int) -> int | None:
    """Returns a block size near `size`, preferably a divisor of `steps`.

    Returns None, one block, if two blocks would do.
    """
    return None if steps <= 2 * size else _near_divisor(steps, size) or size


def _near_divisor(number: int, size: int) -> int | None:
    """Returns the divisor of `number` nearest to `size`, if there is one between its half and its
    double.
    """
    near = [divisor for divisor in range(size // 2 + 1, 2 * size) if number % divisor == 0]
    return min(near, key=lambda divisor: abs(math.log(divisor / size)), default=None)
